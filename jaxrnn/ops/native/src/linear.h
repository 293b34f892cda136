// A linear recurrence: h_t = a_t * h_{t-1} + b_t for every channel by itself, and its gradients.
//
// Of a and b every number is needed once, so the speed is that of memory. One pass over time reads a and b and writes
// h; the previous step's h is in the cache. A complex number is a pair of numbers, the real part first.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

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

// Rows and channels are divided into tiles of the most numbers that fit beside each other into the first cache: wide
// spans of memory are read faster than narrow ones. If these are too few for the threads, the tiles are smaller.
inline std::vector<LinearTile> tiles_of(int64_t rows, int64_t width, bool batch_major, int64_t unit, int threads) {
  const int64_t wanted = threads > 1 ? 2 * threads : 1;
  int64_t columns = std::min(width, kLinearTile);
  int64_t of_rows = batch_major ? 1 : std::max<int64_t>(1, kLinearTile / width);
  if (threads > 1) {
    of_rows = std::clamp<int64_t>(rows / wanted, 1, of_rows);
    if ((rows + of_rows - 1) / of_rows < threads) {
      const int64_t parts = (threads + rows - 1) / rows;
      columns = std::min(columns, ((width + parts - 1) / parts + unit - 1) / unit * unit);
    }
  }
  std::vector<LinearTile> tiles;
  for (int64_t r = 0; r < rows; r += of_rows) {
    for (int64_t c = 0; c < width; c += columns) {
      tiles.push_back({r, std::min(rows, r + of_rows), c, std::min(width, c + columns)});
    }
  }
  return tiles;
}

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
