// A linear recurrence: h_t = a_t * h_{t-1} + b_t for every channel by itself, and its gradients.
//
// Of a and b every number is needed once, so the speed is that of memory. One pass over time reads a and b and writes
// h; the previous step's h is in the cache. A complex number is a pair of numbers, the real part first.

#pragma once

#include <cstddef>
#include <cstdint>

namespace jaxrnn {

// Strides and widths count numbers of type T, so that a complex channel is 2 wide.
template <class T>
struct LinearProblem {
  int64_t time, rows, width;
  bool reverse, is_complex;
  bool streams;           // the results go to memory past the caches: every row and array begins at a line of 64 bytes
  int64_t step, row;      // from one step to the next of b, h and their gradients, and from one row to the next
  int64_t a_step, a_row;  // the same of a; 0 where a is the same
  const T *a, *b;
  const T *initial, *reset;                // [rows, width]: the state before the first step, and after a reset
  const int32_t* lengths;                  // [rows]: from its length on, a row's state stays as it is; or null
  const uint8_t* resets;                   // or null
  int64_t resets_step, resets_row;
  T* h;                                    // a result; the backward pass reads it

  // The backward pass. `da` may be null. Where a_step is 0, da is [rows, width], the sum over time.
  const T* dh;
  T *da, *db, *dinitial, *dreset;

  int64_t step_of(int64_t i) const { return reverse ? time - 1 - i : i; }
  bool is_reset(int64_t t, int64_t r) const { return resets && resets[t * resets_step + r * resets_row]; }
};

// Some channels of some rows, from the first step to the last: what one thread does without waiting for others.
struct LinearTile {
  int64_t first_row, end_row, first, end;
};

constexpr int64_t kLinearTile = 4096;  // the most numbers of one step in a tile

template <class T>
struct LinearKernels {
  void (*forward)(const LinearProblem<T>&, const LinearTile&);
  void (*backward)(const LinearProblem<T>&, const LinearTile&);
};

#define JAXRNN_LINEAR_KERNELS(set)                 \
  namespace set {                                  \
  extern const LinearKernels<float> linear_f32;    \
  extern const LinearKernels<double> linear_f64;   \
  }

JAXRNN_LINEAR_KERNELS(base)
JAXRNN_LINEAR_KERNELS(avx2)
JAXRNN_LINEAR_KERNELS(avx512)

#undef JAXRNN_LINEAR_KERNELS

}  // namespace jaxrnn
