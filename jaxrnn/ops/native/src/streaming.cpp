// Runs one step at a time, called directly from Python without JAX. The weights are packed once. A step takes less time
// than waking a thread, so the caller's thread does all of it.

#include <cstdlib>
#include <memory>
#include <vector>

#include "instruction_set.h"
#include "recurrence.h"
#include "streaming.h"

namespace jaxrnn {
namespace {

template <class T>
class StreamOf : public Stream {
 public:
  // Copies all arrays that `p` points to.
  explicit StreamOf(const Problem<T>& p)
      : p_(p), size_((kernels<T>().workspace(p, false, 1) + 63) / 64 * 64), memory_(nullptr, std::free) {
    heads_ = p.row_units / p.hidden;
    memory_.reset(static_cast<char*>(std::aligned_alloc(64, size_ * heads_)));
    if (!memory_) return;
    each_head(/*packs=*/true);
    const int width = p.row_units * gates_of(p.cell);
    p_.bias = copy(p.bias, width, bias_);
    p_.recurrent_bias = copy(p.recurrent_bias, width, recurrent_bias_);
    p_.cell_param = p.cell == Cell::kLeaky ? copy(p.cell_param, p.row_units, cell_param_) : nullptr;
  }

  bool has_memory() const { return memory_ != nullptr; }

  void step(const void* x, const void* c, const void* h, void* new_c, void* new_h) override {
    p_.x = static_cast<const T*>(x), p_.c = static_cast<const T*>(c), p_.h = static_cast<const T*>(h);
    p_.last_c = static_cast<T*>(new_c), p_.last_h = p_.y = static_cast<T*>(new_h);
    each_head(/*packs=*/false);
  }

 private:
  void each_head(bool packs) {
    for (int n = 0; n < heads_; n++) {
      kernels<T>().forward(head_of(p_, n, 0), alone(memory_.get() + n * size_, packs, !packs));
    }
  }

  static const T* copy(const T* from, int count, std::vector<T>& to) {
    if (!from) return nullptr;
    to.assign(from, from + count);
    return to.data();
  }

  Problem<T> p_;
  size_t size_;
  std::unique_ptr<char, decltype(&std::free)> memory_;
  int heads_;
  std::vector<T> bias_, recurrent_bias_, cell_param_;
};

template <class T>
Stream* make(int cell, int batch, int in_features, int hidden, int heads, const void* kernel, const void* bias,
             const void* recurrent_kernel, const void* recurrent_bias, const void* cell_param) {
  Problem<T> p{};
  p.cell = static_cast<Cell>(cell);
  p.time = 1, p.batch = batch, p.in_features = in_features;
  p.hidden = hidden / heads, p.row_units = hidden;
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
extern "C" void* jaxrnn_stream(int wide, int cell, int batch, int in_features, int hidden, int heads,
                               const void* kernel, const void* bias, const void* recurrent_kernel, const void* recurrent_bias,
                               const void* cell_param) {
  return (wide ? jaxrnn::make<double> : jaxrnn::make<float>)(cell, batch, in_features, hidden, heads, kernel, bias,
                                                             recurrent_kernel, recurrent_bias, cell_param);
}

extern "C" void jaxrnn_stream_step(void* stream, const void* x, const void* c, const void* h, void* new_c,
                                   void* new_h) {
  static_cast<jaxrnn::Stream*>(stream)->step(x, c, h, new_c, new_h);
}

extern "C" void jaxrnn_stream_free(void* stream) { delete static_cast<jaxrnn::Stream*>(stream); }

#pragma GCC visibility pop
