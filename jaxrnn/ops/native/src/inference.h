// A layer that only computes its outputs, with weights in float32 or int8: many streams at once, and whole sequences.
//
// The weights are packed once. The state of every row is changed in place, so that a step of thousands of rows writes
// no more memory than it must.

#pragma once

#include <cstddef>
#include <cstdint>

#include "recurrence.h"

namespace jaxrnn {

// A layer's sizes and parameters. With `quantized`, both kernels are int8_t, and a column of one is its integers times
// the column's scale; otherwise they are float and have no scales.
struct Layer {
  Cell cell;  // any but kGRUBefore
  bool quantized;
  int in_features, hidden;
  const void *kernel, *recurrent_kernel;           // [in_features or hidden, gates * hidden]
  const float *kernel_scale, *recurrent_scale;     // [gates * hidden]
  const float *bias, *recurrent_bias;              // [gates * hidden], or null
  const float* leak;                               // kLeaky: [hidden], else null
  const void *packed_kernel, *packed_recurrent;    // what `pack` made
};

// Sequences to run through a layer, time-major unless `batch_major`. Row b of the batch has row index[b] of the state,
// or row b if index is null.
struct Sequences {
  int time, batch;
  bool reverse, batch_major;
  const float* x;  // [time, batch, in_features]
  float *c, *h;    // the state before the first step, and after the last one: [rows, hidden]; c only for an LSTM
  const int32_t* index;
  float* y;                       // [time, batch, hidden], or null
  const uint8_t *valid, *resets;  // [time, batch], or null
  const float *reset_c, *reset_h;  // [batch, hidden]

  ptrdiff_t row(int t, int b) const {
    return batch_major ? (ptrdiff_t)b * time + t : (ptrdiff_t)t * batch + b;
  }
};

// The functions of one instruction set.
struct LayerKernels {
  size_t (*packed_size)(const Layer&, int depth);  // bytes for a kernel with this many rows
  void (*pack)(const Layer&, const void* weights, int depth, void* packed);
  int (*rows_of_block)(const Layer&);
  size_t (*scratch_size)(const Layer&);  // bytes that a call of `run` needs
  // Runs rows begin to end of the batch, at most rows_of_block, through all steps.
  void (*run)(const Layer&, const Sequences&, int begin, int end, void* scratch);
};

namespace base {
extern const LayerKernels layer_kernels;
}
namespace avx2 {
extern const LayerKernels layer_kernels;
}
namespace avx512 {
extern const LayerKernels layer_kernels;
}
namespace avx512vnni {
extern const LayerKernels layer_kernels;
}

}  // namespace jaxrnn
