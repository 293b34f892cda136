// The entry points that JAX calls, and the decisions at run time: how many threads, and how to divide the work.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

#include "instruction_set.h"
#include "recurrence.h"
#include "team.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace jaxrnn {
namespace {

// Memory that is reused by later calls. New memory from the operating system costs a page fault every 4 KiB.
class Scratch {
 public:
  explicit Scratch(size_t size) {
    {
      std::lock_guard<std::mutex> lock(mutex());
      auto& spare = spares();
      for (size_t i = 0; i < spare.size(); i++) {
        if (spare[i].size >= size && spare[i].size <= 4 * size + (1 << 20)) {
          block_ = spare[i];
          spare.erase(spare.begin() + i);
          return;
        }
      }
    }
    block_ = {std::aligned_alloc(64, (size + 63) / 64 * 64), size};
  }

  ~Scratch() {
    if (!block_.memory) return;  // the allocation failed
    std::lock_guard<std::mutex> lock(mutex());
    auto& spare = spares();
    spare.push_back(block_);
    if (spare.size() > kSpares) {
      std::free(spare.front().memory);
      spare.erase(spare.begin());
    }
  }

  void* memory() const { return block_.memory; }

 private:
  struct Block {
    void* memory = nullptr;
    size_t size = 0;
  };
  static constexpr size_t kSpares = 8;
  static std::mutex& mutex() {
    static std::mutex m;
    return m;
  }
  static std::vector<Block>& spares() {
    static std::vector<Block> s;
    return s;
  }
  Block block_;
};

struct Plan {
  int threads;
  bool by_rows;
  int64_t patience;  // how many microseconds to wait for the other threads to start: a small part of the work
};

int64_t level_2_cache() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  const int64_t size = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (size > 0) return size;
#endif
  return 1 << 20;
}

// How to divide a call. If threads divide the rows of the batch, they need not wait for each other in the forward pass.
// If they divide the units, they wait for each other at every step, but each reads only its part of the weights. That
// pays if the weights do not fit into the cache of one core, or the batch is too small to divide. On a busy machine,
// waiting for a thread that is not running would cost more than a second thread gains.
template <class T>
Plan plan(const Problem<T>& p, int gates, bool backward, int available) {
  static const int64_t cache = level_2_cache();
  const int64_t weights = (int64_t)(p.hidden + (p.x ? p.in_features : 0)) * p.hidden * gates;
  const double step = 2.0 * p.batch * weights;  // operations
  const bool large = weights * (int64_t)sizeof(T) > cache * 3 / 4;
  const int64_t patience = std::clamp<int64_t>((int64_t)(step * p.time / 1e5 / 10), 20, 2000);  // at 100 GFLOP/s
  if (available < 2 || step * p.time < 2e6) return {1, true, 0};
  if (Team::machine_is_busy()) return !backward && p.batch >= available ? Plan{available, true, 0} : Plan{1, true, 0};
  if (p.batch >= 4 * available && !large) return {available, true, patience};
  if (step > 3e5) return {available, false, patience};
  if (p.batch >= available) return {available, true, patience};
  return {1, true, 0};
}

// The first write to each new page of memory costs an interrupt, so large pages, which are fewer, are faster.
template <class T>
void ask_for_large_pages(T* begin, int64_t count) {
#if defined(MADV_HUGEPAGE)
  const uintptr_t page = 4096, from = ((uintptr_t)begin + page - 1) / page * page;
  const uintptr_t to = ((uintptr_t)begin + count * sizeof(T)) / page * page;
  if (begin && to > from + (4 << 20)) madvise((void*)from, to - from, MADV_HUGEPAGE);
#endif
}

template <class T>
ffi::Error launch(ffi::ThreadPool& pool, const Problem<T>& p, int gates, bool backward, int most_threads) {
  const Kernels<T>& k = kernels<T>();
  int available = (int)pool.num_threads();
  if (most_threads > 0 && most_threads < available) available = most_threads;
  const Plan wanted = plan(p, gates, backward, available);
  // If threads do not wait for each other, more parts than threads let a late or slow thread do fewer of them.
  const bool apart = wanted.by_rows && !backward;
  const bool finely = apart && wanted.threads > 1 && p.batch >= 32 * wanted.threads;
  const int most_parts = finely ? 2 * wanted.threads : wanted.threads;
  const Scratch scratch(k.workspace(p, backward, most_parts));
  if (!scratch.memory()) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for a recurrence");
  Team team(wanted.threads - 1, [&](auto task) { pool.Schedule(std::move(task)); });
  const int parts = apart ? most_parts : team.close(std::chrono::microseconds(wanted.patience));
  auto share = [](void* t, int parts, Team::Body body, void* c) { static_cast<Team*>(t)->share(parts, body, c); };
  auto each = [](void* t, int parts, Team::Body body, void* c) { static_cast<Team*>(t)->each(parts, body, c); };
  const bool by_rows = wanted.by_rows || parts == 1;
  const Division division{parts, by_rows, true, true, scratch.memory(), apart ? share : each, &team};
  (backward ? k.backward : k.forward)(p, division);
  return ffi::Error::Success();
}

// The arrays of a call, in the order in which Python passes them. An empty array means that there is none.
enum Inputs { kX, kKernel, kBias, kXw, kRecurrentKernel, kRecurrentBias, kCellParam, kC, kH, kScale, kValid, kResets,
              kResetC, kResetH, kInputs,
              kY = kInputs, kSaved, kDLastC, kDLastH, kDY };
enum ForwardResults { kOutY, kOutSaved, kLastC, kLastH };
enum BackwardResults { kDX, kDXw, kDC, kDH, kDResetC, kDResetH, kDKernel, kDBias, kDRecurrentKernel, kDRecurrentBias,
                       kDCellParam };

struct Options {
  int64_t cell, gates, time, batch, in_features, hidden, reverse, batch_major, threads;
};

template <class T>
struct Arrays {
  ffi::RemainingArgs args;
  ffi::RemainingRets rets;

  const T* in(size_t i) const {
    auto buffer = args.get<ffi::AnyBuffer>(i);
    return buffer->element_count() ? static_cast<const T*>(buffer->untyped_data()) : nullptr;
  }
  T* out(size_t i) const {
    auto buffer = rets.get<ffi::AnyBuffer>(i);
    T* data = (*buffer)->element_count() ? static_cast<T*>((*buffer)->untyped_data()) : nullptr;
    ask_for_large_pages(data, (*buffer)->element_count());
    return data;
  }
};

template <class T>
Problem<T> problem(const Arrays<T>& a, const Options& o) {
  Problem<T> p{};
  p.cell = static_cast<Cell>(o.cell);
  p.time = (int)o.time, p.batch = (int)o.batch, p.in_features = (int)o.in_features, p.hidden = (int)o.hidden;
  p.reverse = o.reverse, p.batch_major = o.batch_major;
  p.x = a.in(kX), p.kernel = a.in(kKernel), p.bias = a.in(kBias), p.xw = a.in(kXw);
  p.recurrent_kernel = a.in(kRecurrentKernel), p.recurrent_bias = a.in(kRecurrentBias);
  p.cell_param = a.in(kCellParam);
  p.c = a.in(kC), p.h = a.in(kH), p.scale = a.in(kScale);
  p.valid = reinterpret_cast<const uint8_t*>(a.in(kValid));
  p.resets = reinterpret_cast<const uint8_t*>(a.in(kResets));
  p.reset_c = a.in(kResetC), p.reset_h = a.in(kResetH);
  return p;
}

template <class T>
ffi::Error forward(ffi::ThreadPool& pool, const Arrays<T>& a, const Options& o) {
  Problem<T> p = problem(a, o);
  p.y = a.out(kOutY), p.saved = a.out(kOutSaved), p.last_c = a.out(kLastC), p.last_h = a.out(kLastH);
  return launch(pool, p, (int)o.gates, false, (int)o.threads);
}

template <class T>
ffi::Error backward(ffi::ThreadPool& pool, const Arrays<T>& a, const Options& o) {
  Problem<T> p = problem(a, o);
  p.y = const_cast<T*>(a.in(kY)), p.saved = const_cast<T*>(a.in(kSaved));  // only read
  p.dlast_c = a.in(kDLastC), p.dlast_h = a.in(kDLastH), p.dy = a.in(kDY);
  p.dx = a.out(kDX), p.dxw = a.out(kDXw);
  p.dc = a.out(kDC), p.dh = a.out(kDH), p.dreset_c = a.out(kDResetC), p.dreset_h = a.out(kDResetH);
  p.dkernel = a.out(kDKernel), p.dbias = a.out(kDBias);
  p.drecurrent_kernel = a.out(kDRecurrentKernel), p.drecurrent_bias = a.out(kDRecurrentBias);
  p.dcell_param = a.out(kDCellParam);
  return launch(pool, p, (int)o.gates, true, (int)o.threads);
}

template <bool kBackward>
ffi::Error dispatch(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t cell,
                    int64_t gates, int64_t time, int64_t batch, int64_t in_features, int64_t hidden, int64_t reverse,
                    int64_t batch_major, int64_t threads) {
  const Options o{cell, gates, time, batch, in_features, hidden, reverse, batch_major, threads};
  if (args.get<ffi::AnyBuffer>(kRecurrentKernel)->element_type() == ffi::DataType::F64) {
    const Arrays<double> a{args, rets};
    return kBackward ? backward(pool, a, o) : forward(pool, a, o);
  }
  const Arrays<float> a{args, rets};
  return kBackward ? backward(pool, a, o) : forward(pool, a, o);
}

}  // namespace
}  // namespace jaxrnn

#define JAXRNN_BINDING                   \
  ffi::Ffi::Bind()                       \
      .Ctx<ffi::ThreadPool>()            \
      .RemainingArgs()                   \
      .RemainingRets()                   \
      .Attr<int64_t>("cell")             \
      .Attr<int64_t>("gates")            \
      .Attr<int64_t>("time")             \
      .Attr<int64_t>("batch")            \
      .Attr<int64_t>("in_features")      \
      .Attr<int64_t>("hidden")           \
      .Attr<int64_t>("reverse")          \
      .Attr<int64_t>("batch_major")      \
      .Attr<int64_t>("threads")

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_forward, jaxrnn::dispatch<false>, JAXRNN_BINDING);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_backward, jaxrnn::dispatch<true>, JAXRNN_BINDING);

// The hash of the sources that this library was built from. Python does not load a library with another hash.
extern "C" const char* jaxrnn_source_hash() { return JAXRNN_SOURCE_HASH; }

// The instruction set in use.
extern "C" const char* jaxrnn_instruction_set() {
  switch (jaxrnn::best_set()) {
    case jaxrnn::Set::kAVX512: return "avx512";
    case jaxrnn::Set::kAVX2: return "avx2";
    default: return "base";
  }
}

#pragma GCC visibility pop
