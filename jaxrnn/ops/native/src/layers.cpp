// Layers that only compute outputs, see inference.h: many streams at once, called directly from Python, and sequences
// with int8 weights, called by JAX.

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include "inference.h"
#include "instruction_set.h"
#include "streaming.h"
#include "team.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace jaxrnn {
namespace {

const LayerKernels& layer_kernels() {
#if defined(JAXRNN_HAS_AVX512VNNI)
  static const bool vnni = best_set() == Set::kAVX512 && __builtin_cpu_supports("avx512vnni");
  if (vnni) return avx512vnni::layer_kernels;
#endif
  JAXRNN_RETURN_BEST(layer_kernels);
}

using Memory = std::unique_ptr<void, decltype(&std::free)>;

Memory allocate(size_t size) { return {std::aligned_alloc(64, (size + 63) / 64 * 64), std::free}; }

// Memory of this thread that its later calls reuse, or null.
void* scratch(size_t size) {
  thread_local Memory memory(nullptr, std::free);
  thread_local size_t present = 0;
  if (present < size) {
    memory = allocate(size);
    present = memory ? size : 0;
  }
  return memory.get();
}

// Packs the kernels into new memory, which the layer then points to. Returns null if there is not enough.
Memory packed(Layer& l) {
  const LayerKernels& k = layer_kernels();
  // A product prefetches, but does not read, beyond the end.
  const size_t first = (k.packed_size(l, l.in_features) + 63) / 64 * 64;
  Memory memory = allocate(first + k.packed_size(l, l.hidden));
  if (!memory) return memory;
  void* second = static_cast<char*>(memory.get()) + first;
  k.pack(l, l.kernel, l.in_features, memory.get());
  k.pack(l, l.recurrent_kernel, l.hidden, second);
  l.packed_kernel = memory.get(), l.packed_recurrent = second;
  return memory;
}

// Runs all rows, divided among at most `threads` threads, which `schedule` starts. Returns false without memory.
template <class Schedule>
bool run(const Layer& l, const Sequences& q, int threads, Schedule&& schedule) {
  const LayerKernels& k = layer_kernels();
  const double operations = 2.0 * q.time * q.batch * (l.in_features + l.hidden) * l.hidden * gates_of(l.cell);
  if (operations < 2e7) threads = 1;  // less than starting a thread takes
  const int share = (q.batch + threads - 1) / threads;
  const int rows = std::min(k.rows_of_block(l), share), parts = (q.batch + rows - 1) / rows;
  std::atomic<bool> enough{true};
  auto body = [&](int part) {
    void* memory = scratch(k.scratch_size(l));
    if (!memory) return enough.store(false);
    k.run(l, q, part * rows, std::min(q.batch, (part + 1) * rows), memory);
  };
  using Body = decltype(body);
  Team team(std::min(threads, parts) - 1, schedule);
  team.share(parts, [](void* context, int part) { (*static_cast<Body*>(context))(part); }, &body);
  return enough;
}

// A layer that owns its parameters.
class OwnLayer {
 public:
  explicit OwnLayer(const Layer& l) : l_(l), memory_(packed(l_)) {
    const int width = l.hidden * gates_of(l.cell);
    l_.kernel = l_.recurrent_kernel = nullptr;
    for (const float** p : {&l_.kernel_scale, &l_.recurrent_scale, &l_.bias, &l_.recurrent_bias}) keep(*p, width);
    keep(l_.leak, l.hidden);
  }

  bool has_memory() const { return memory_ != nullptr; }

  bool step(const Sequences& q, int threads) const {
    return run(l_, q, threads, [](auto task) {
      try {
        std::thread(std::move(task)).detach();
      } catch (const std::system_error&) {  // no more threads: the others do its part
      }
    });
  }

 private:
  void keep(const float*& from, int count) {
    if (!from) return;
    copies_.emplace_back(from, from + count);
    from = copies_.back().data();
  }

  Layer l_;
  Memory memory_;
  std::vector<std::vector<float>> copies_;
};

// One step at a time of a batch that stays the same, on the caller's thread.
class StreamOfLayer : public Stream {
 public:
  StreamOfLayer(const Layer& l, int batch) : own_(l), batch_(batch), size_(batch * l.hidden), has_c_(l.cell == Cell::kLSTM) {}

  bool has_memory() const { return own_.has_memory(); }

  void step(const void* x, const void* carry, void* new_carry) override {
    Sequences q{};
    q.time = 1, q.batch = batch_, q.x = static_cast<const float*>(x);
    q.c = static_cast<float*>(new_carry), q.h = q.c + (has_c_ ? size_ : 0);
    std::copy_n(static_cast<const float*>(carry), (has_c_ ? 2 : 1) * size_, q.c);
    own_.step(q, 1);
  }

 private:
  OwnLayer own_;
  int batch_, size_;
  bool has_c_;
};

// The arrays of a call by JAX, in the order in which Python passes them. An empty array means that there is none.
enum Inputs { kX, kKernel, kKernelScale, kBias, kRecurrentKernel, kRecurrentScale, kRecurrentBias, kLeak, kC, kH,
              kValid, kResets, kResetC, kResetH };
enum Results { kY, kLastC, kLastH };

ffi::Error quantized(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t cell,
                     int64_t time, int64_t batch, int64_t in_features, int64_t hidden, int64_t reverse,
                     int64_t batch_major, int64_t threads) {
  auto in = [&](size_t i) -> const float* {
    auto buffer = args.get<ffi::AnyBuffer>(i);
    return buffer->element_count() ? static_cast<const float*>(buffer->untyped_data()) : nullptr;
  };
  auto out = [&](size_t i) -> float* {
    auto buffer = rets.get<ffi::AnyBuffer>(i);
    return (*buffer)->element_count() ? static_cast<float*>((*buffer)->untyped_data()) : nullptr;
  };
  Layer l{static_cast<Cell>(cell), true, (int)in_features, (int)hidden, in(kKernel), in(kRecurrentKernel),
          in(kKernelScale), in(kRecurrentScale), in(kBias), in(kRecurrentBias), in(kLeak), nullptr, nullptr};
  const Memory memory = packed(l);
  Sequences q{};
  q.time = (int)time, q.batch = (int)batch, q.reverse = reverse, q.batch_major = batch_major;
  q.x = in(kX), q.y = out(kY), q.c = out(kLastC), q.h = out(kLastH);
  q.valid = reinterpret_cast<const uint8_t*>(in(kValid)), q.resets = reinterpret_cast<const uint8_t*>(in(kResets));
  q.reset_c = in(kResetC), q.reset_h = in(kResetH);
  std::copy_n(in(kH), batch * hidden, q.h);
  if (q.c) std::copy_n(in(kC), batch * hidden, q.c);
  int most = (int)pool.num_threads();
  if (threads > 0) most = std::min(most, (int)threads);
  if (!memory || !run(l, q, std::max(1, most), [&](auto task) { pool.Schedule(std::move(task)); })) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for a recurrence");
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace jaxrnn

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_quantized, jaxrnn::quantized,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<int64_t>("cell")
                                  .Attr<int64_t>("time")
                                  .Attr<int64_t>("batch")
                                  .Attr<int64_t>("in_features")
                                  .Attr<int64_t>("hidden")
                                  .Attr<int64_t>("reverse")
                                  .Attr<int64_t>("batch_major")
                                  .Attr<int64_t>("threads"));

// Returns null if there is not enough memory. Arrays are as in Layer; scales, biases and the leak may be null.
extern "C" void* jaxrnn_layer(int cell, int quantized, int in_features, int hidden, const void* kernel,
                              const float* kernel_scale, const float* bias, const void* recurrent_kernel,
                              const float* recurrent_scale, const float* recurrent_bias, const float* leak) {
  using namespace jaxrnn;
  const Layer l{static_cast<Cell>(cell), quantized != 0, in_features, hidden, kernel, recurrent_kernel, kernel_scale,
                recurrent_scale, bias, recurrent_bias, leak, nullptr, nullptr};
  auto layer = std::make_unique<OwnLayer>(l);
  return layer->has_memory() ? layer.release() : nullptr;
}

// As jaxrnn_stream, with int8 weights.
extern "C" void* jaxrnn_quantized_stream(int cell, int batch, int in_features, int hidden, const void* kernel,
                                         const float* kernel_scale, const float* bias, const void* recurrent_kernel,
                                         const float* recurrent_scale, const float* recurrent_bias,
                                         const float* leak) {
  using namespace jaxrnn;
  const Layer l{static_cast<Cell>(cell), true, in_features, hidden, kernel, recurrent_kernel, kernel_scale,
                recurrent_scale, bias, recurrent_bias, leak, nullptr, nullptr};
  auto stream = std::make_unique<StreamOfLayer>(l, batch);
  return stream->has_memory() ? static_cast<Stream*>(stream.release()) : nullptr;
}

// One step of `batch` rows of the state, all of them if index is null. Returns 0 if there is not enough memory.
extern "C" int jaxrnn_layer_step(void* layer, int threads, int batch, const float* x, float* c, float* h,
                                 const int32_t* index, float* y) {
  jaxrnn::Sequences q{};
  q.time = 1, q.batch = batch, q.x = x, q.c = c, q.h = h, q.index = index, q.y = y;
  return static_cast<jaxrnn::OwnLayer*>(layer)->step(q, threads);
}

extern "C" void jaxrnn_layer_free(void* layer) { delete static_cast<jaxrnn::OwnLayer*>(layer); }

#pragma GCC visibility pop
