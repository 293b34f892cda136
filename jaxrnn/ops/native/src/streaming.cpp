// Runs one step at a time, called directly from Python without JAX. The weights are packed once.

#include <cstdlib>
#include <memory>
#include <vector>

#include "instruction_set.h"
#include "recurrence.h"
#include "streaming.h"

namespace jaxrnn {
namespace {

// A step takes less time than waking a thread, so the caller's thread does all of it.
Division alone(bool packs, void* workspace) {
  auto run_stage = [](void*, int, void (*body)(void*, int), void* context) { body(context, 0); };
  return {1, true, packs, !packs, workspace, run_stage, nullptr};
}

template <class T>
class StreamOf : public Stream {
 public:
  // Copies all arrays that `p` points to.
  explicit StreamOf(const Problem<T>& p) : p_(p), memory_(nullptr, std::free) {
    const size_t size = kernels<T>().workspace(p, false, 1);
    memory_.reset(std::aligned_alloc(64, (size + 63) / 64 * 64));
    if (!memory_) return;
    kernels<T>().forward(p, alone(/*packs=*/true, memory_.get()));
    const int width = p.hidden * gates_of(p.cell);
    p_.bias = copy(p.bias, width, bias_);
    p_.recurrent_bias = copy(p.recurrent_bias, width, recurrent_bias_);
    p_.cell_param = p.cell == Cell::kLeaky ? copy(p.cell_param, p.hidden, cell_param_) : nullptr;
  }

  bool has_memory() const { return memory_ != nullptr; }

  void step(const void* x, const void* c, const void* h, void* new_c, void* new_h) override {
    p_.x = static_cast<const T*>(x), p_.c = static_cast<const T*>(c), p_.h = static_cast<const T*>(h);
    p_.last_c = static_cast<T*>(new_c), p_.last_h = p_.y = static_cast<T*>(new_h);
    kernels<T>().forward(p_, alone(/*packs=*/false, memory_.get()));
  }

 private:
  static const T* copy(const T* from, int count, std::vector<T>& to) {
    if (!from) return nullptr;
    to.assign(from, from + count);
    return to.data();
  }

  Problem<T> p_;
  std::unique_ptr<void, decltype(&std::free)> memory_;
  std::vector<T> bias_, recurrent_bias_, cell_param_;
};

template <class T>
Stream* make(int cell, int batch, int in_features, int hidden, const void* kernel, const void* bias,
             const void* recurrent_kernel, const void* recurrent_bias, const void* cell_param) {
  Problem<T> p{};
  p.cell = static_cast<Cell>(cell);
  p.time = 1, p.batch = batch, p.in_features = in_features, p.hidden = hidden;
  p.kernel = static_cast<const T*>(kernel), p.bias = static_cast<const T*>(bias);
  p.x = p.kernel;  // any pointer but null, which would mean no inputs; packing does not read it
  p.recurrent_kernel = static_cast<const T*>(recurrent_kernel);
  p.recurrent_bias = static_cast<const T*>(recurrent_bias);
  p.cell_param = static_cast<const T*>(cell_param);
  auto stream = std::make_unique<StreamOf<T>>(p);
  return stream->has_memory() ? stream.release() : nullptr;
}

}  // namespace
}  // namespace jaxrnn

#pragma GCC visibility push(default)

// Returns null if there is not enough memory. Arrays are as in Problem: float, or double with `wide`. All but the
// kernels may be null.
extern "C" void* jaxrnn_stream(int wide, int cell, int batch, int in_features, int hidden, const void* kernel,
                               const void* bias, const void* recurrent_kernel, const void* recurrent_bias,
                               const void* cell_param) {
  return (wide ? jaxrnn::make<double> : jaxrnn::make<float>)(cell, batch, in_features, hidden, kernel, bias,
                                                             recurrent_kernel, recurrent_bias, cell_param);
}

extern "C" void jaxrnn_stream_step(void* stream, const void* x, const void* c, const void* h, void* new_c,
                                   void* new_h) {
  static_cast<jaxrnn::Stream*>(stream)->step(x, c, h, new_c, new_h);
}

extern "C" void jaxrnn_stream_free(void* stream) { delete static_cast<jaxrnn::Stream*>(stream); }

#pragma GCC visibility pop
