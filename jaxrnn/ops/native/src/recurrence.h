// The arrays of a recurrence, and how its work is divided.
//
// Arrays of steps have the shape [time, batch, width], or [batch, time, width] with `batch_major`. A null pointer
// means that there is no such array. Gates are concatenated along the last axis, as everywhere in jaxrnn.

#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace jaxrnn {

enum class Cell : int64_t { kTanh = 0, kRelu = 1, kSigmoid = 2, kLSTM = 3, kGRU = 4, kLeaky = 5, kGRUBefore = 6 };

inline int gates_of(Cell cell) {
  if (cell == Cell::kGRU || cell == Cell::kGRUBefore) return 3;
  return cell == Cell::kLSTM ? 4 : 1;
}

// Whether weights of so many bytes do not stay in the level-2 cache of a core, beside what else is in it. Inlined, because
// files of all instruction sets call it, and the linker would keep any one of their functions.
__attribute__((always_inline)) inline bool exceeds_cache(int64_t bytes) {
  static const int64_t cache = [] {
#if defined(_SC_LEVEL2_CACHE_SIZE)
    if (const int64_t size = sysconf(_SC_LEVEL2_CACHE_SIZE); size > 0) return size;
#endif
    return int64_t{1} << 20;
  }();
  return bytes > cache * 3 / 4;
}

// The sizes of a recurrence, the order of its arrays, and its masks.
//
// A recurrence has the units of one head, which depend on no other head's. `hidden` is their number. The arrays of the
// caller have the units of all heads, `row_units`, in every row and every gate, and pointers to them point to the first
// unit of the head. The recurrent kernel and what only the backward pass reads (`saved`) are stored head by head.
struct Sequence {
  int time, batch, in_features, hidden, row_units;
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
  const T *recurrent_kernel, *recurrent_bias;  // [heads, hidden, gates * hidden]; kGRUBefore: gates r z
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

// The recurrence of one head, from that of the first one; `saved` is how many numbers a head saves.
template <class T>
Problem<T> head_of(Problem<T> p, int head, ptrdiff_t saved) {
  const ptrdiff_t units = (ptrdiff_t)head * p.hidden, block = units * p.hidden;
  const int gates = gates_of(p.cell), recurrent_gates = p.cell == Cell::kGRUBefore ? 2 : gates;
  auto move = [](ptrdiff_t by, auto*&... arrays) { ((arrays = arrays ? arrays + by : nullptr), ...); };
  move(units, p.kernel, p.bias, p.xw, p.recurrent_bias, p.c, p.h, p.scale, p.reset_c, p.reset_h, p.y, p.last_c,
       p.last_h, p.dlast_c, p.dlast_h, p.dy, p.dxw, p.dc, p.dh, p.dreset_c, p.dreset_h, p.dkernel, p.dbias,
       p.drecurrent_bias);
  move(block * recurrent_gates, p.recurrent_kernel, p.drecurrent_kernel);
  move(p.cell == Cell::kGRUBefore ? block : units, p.cell_param, p.dcell_param);
  move(head * saved, p.saved);
  return p;
}

struct Range {
  int begin, end;
};

// Part `index` of `count` nearly equal parts of the range 0..n.
__attribute__((always_inline)) inline Range split(int n, int index, int count) {
  return {(int)((int64_t)n * index / count), (int)((int64_t)n * (index + 1) / count)};
}

// What a part has of the gradients of weights and inputs: share `index` of `count` of whatever is divided, or nothing if
// `count` is 0.
struct Share {
  int index, count;

  __attribute__((always_inline)) Range of(int n) const { return count ? split(n, index, count) : Range{0, 0}; }
};

// How a call is divided into parts, which several threads may run. A part is some rows of the batch or, if the batch is
// small or the weights are large, some units of the cell; then all parts of a step must be done before the next step.
// If neither pays, a second part computes the gradients of weights and inputs of a chunk of steps while the first one
// runs the next chunk.
struct Division {
  int parts;
  bool by_rows;
  int step_parts;    // how many parts run steps; less than `parts` only if `by_rows`, in the backward pass
  bool packs, runs;  // whether the forward pass packs the weights, and whether it runs the steps
  void* workspace;
  // Runs a stage: body(context, part) for every part.
  void (*run_stage)(void* team, int parts, void (*body)(void* context, int part), void* context);
  void* team;

  // The rows of which a part runs the steps.
  __attribute__((always_inline)) Range rows_of(int part, int batch) const {
    if (!by_rows) return {0, batch};
    return part < step_parts ? split(batch, part, step_parts) : Range{0, 0};
  }

  // The part's share of the gradients of the last chunk, at the end or while the steps of the next one are run. Then
  // parts that run no steps have all of them.
  __attribute__((always_inline)) Share share_of(int part, bool at_end) const {
    const int first = at_end || step_parts == parts ? 0 : step_parts;
    return part < first ? Share{0, 0} : Share{part - first, parts - first};
  }

  template <class Body>
  void each_part(Body&& body) const {
    auto call = [](void* context, int part) { (*static_cast<std::remove_reference_t<Body>*>(context))(part); };
    run_stage(team, parts, call, (void*)&body);
  }
};

// All of a call, or with `packs` or `runs` only one part of the forward pass, on the caller's thread.
inline Division alone(void* workspace, bool packs = true, bool runs = true) {
  auto run_stage = [](void*, int, void (*body)(void*, int), void* context) { body(context, 0); };
  return {1, true, 1, packs, runs, workspace, run_stage, nullptr};
}

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
