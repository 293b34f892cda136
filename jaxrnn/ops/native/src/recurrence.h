// The arrays of a recurrence, and how its work is divided.
//
// Arrays of steps have the shape [time, batch, width], or [batch, time, width] with `batch_major`. A null pointer
// means that there is no such array. Gates are concatenated along the last axis, as everywhere in jaxrnn.

#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace jaxrnn {

enum class Cell : int64_t { kTanh = 0, kRelu = 1, kSigmoid = 2, kLSTM = 3, kGRU = 4, kLeaky = 5, kGRUBefore = 6 };

inline int gates_of(Cell cell) {
  if (cell == Cell::kGRU || cell == Cell::kGRUBefore) return 3;
  return cell == Cell::kLSTM ? 4 : 1;
}

// The sizes of a recurrence, the order of its arrays, and its masks.
struct Sequence {
  int time, batch, in_features, hidden;
  bool reverse, batch_major;
  const uint8_t *valid, *resets;  // [time, batch]

  int step(int s) const { return reverse ? time - 1 - s : s; }

  ptrdiff_t row(int t, int b) const {
    return batch_major ? (ptrdiff_t)b * time + t : (ptrdiff_t)t * batch + b;
  }

  // The distance from one batch row to the next, in rows of `row`.
  ptrdiff_t next_row() const { return batch_major ? time : 1; }

  bool is_valid(int t, int b) const { return !valid || valid[(ptrdiff_t)t * batch + b]; }
  bool is_reset(int t, int b) const { return resets && resets[(ptrdiff_t)t * batch + b]; }
};

template <class T>
struct Problem : Sequence {
  Cell cell;

  // Either the inputs x with kernel [in, gates * hidden] and bias, or their projection xw.
  const T *x, *kernel, *bias, *xw;
  const T *recurrent_kernel, *recurrent_bias;  // [hidden, gates * hidden], [gates * hidden]; kGRUBefore: gates r z
  const T* cell_param;  // kLeaky: its leak [hidden]; kGRUBefore: the candidate's kernel [hidden, hidden]; else null
  const T *c, *h;                              // the initial carry, [batch, hidden]
  const T* scale;                              // [batch, hidden]: multiplies h before the recurrent product
  const T *reset_c, *reset_h;

  // Forward results; the backward pass reads y and saved.
  T *y, *saved, *last_c, *last_h;

  // The backward pass.
  const T *dlast_c, *dlast_h, *dy;
  T *dx;   // [steps, in_features]
  T *dxw;  // [steps, gates * hidden]
  T *dc, *dh, *dreset_c, *dreset_h;
  T *dkernel, *dbias, *drecurrent_kernel, *drecurrent_bias, *dcell_param;
};

// How a call is divided into parts, which several threads may run. A part is some rows of the batch or, if the batch is
// small or the weights are large, some units of the cell; then all parts of a step must be done before the next step.
struct Division {
  int parts;
  bool by_rows;
  bool packs, runs;  // whether the forward pass packs the weights, and whether it runs the steps
  void* workspace;
  // Runs a stage: body(context, part) for every part.
  void (*run_stage)(void* team, int parts, void (*body)(void* context, int part), void* context);
  void* team;

  template <class Body>
  void each_part(Body&& body) const {
    auto call = [](void* context, int part) { (*static_cast<std::remove_reference_t<Body>*>(context))(part); };
    run_stage(team, parts, call, (void*)&body);
  }
};

// The functions of one instruction set.
template <class T>
struct Kernels {
  size_t (*workspace)(const Problem<T>&, bool backward, int parts);  // bytes
  void (*forward)(const Problem<T>&, const Division&);
  void (*backward)(const Problem<T>&, const Division&);
};

// Each instruction set defines these for float and double.
namespace base {
extern const Kernels<float> kernels_f32;
extern const Kernels<double> kernels_f64;
}  // namespace base
namespace avx2 {
extern const Kernels<float> kernels_f32;
extern const Kernels<double> kernels_f64;
}  // namespace avx2
namespace avx512 {
extern const Kernels<float> kernels_f32;
extern const Kernels<double> kernels_f64;
}  // namespace avx512

}  // namespace jaxrnn
