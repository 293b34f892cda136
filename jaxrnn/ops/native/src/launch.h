// How a call is run: its scratch memory, how many threads, and how to divide the work.

#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#include "program_problem.h"
#include "recurrence.h"
#include "team.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace jaxrnn {

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

inline int64_t level_2_cache() {
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
template <class T, class ProblemType>
Plan plan(const ProblemType& p, int gates, bool backward, int available, bool may_divide_units) {
  static const int64_t cache = level_2_cache();
  const int64_t weights = (int64_t)(p.hidden + (p.x ? p.in_features : 0)) * p.hidden * gates;
  const double step = 2.0 * p.batch * weights;  // operations
  const bool large = weights * (int64_t)sizeof(T) > cache * 3 / 4;
  const int64_t patience = std::clamp<int64_t>((int64_t)(step * p.time / 1e5 / 10), 20, 2000);  // at 100 GFLOP/s
  if (available < 2 || step * p.time < 2e6) return {1, true, 0};
  if (Team::machine_is_busy()) return !backward && p.batch >= available ? Plan{available, true, 0} : Plan{1, true, 0};
  if (p.batch >= 4 * available && (!large || !may_divide_units)) return {available, true, patience};
  if (step > 3e5 && may_divide_units) return {available, false, patience};
  if (p.batch >= available) return {available, true, patience};
  return {1, true, 0};
}

// The first write to each new page of memory costs an interrupt, so large pages, which are fewer, are faster.
inline void ask_for_large_pages(void* begin, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  const uintptr_t page = 2 << 20, from = (uintptr_t)begin / page * page;
  const uintptr_t to = ((uintptr_t)begin + bytes + page - 1) / page * page;
  if (begin && bytes > 2 * page) madvise((void*)from, to - from, MADV_HUGEPAGE);
#endif
}

// Runs a call on as many threads as it is worth, with the kernels of this processor.
template <class T, class KernelsType, class ProblemType>
ffi::Error launch(ffi::ThreadPool& pool, const KernelsType& k, const ProblemType& p, int gates, bool backward,
                  int most_threads, bool may_divide_units) {
  int available = (int)pool.num_threads();
  if (most_threads > 0 && most_threads < available) available = most_threads;
  const Plan wanted = plan<T>(p, gates, backward, available, may_divide_units);
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

template <class T>
const Problem<T>& problem_of(const Problem<T>& p) {
  return p;
}

template <class T>
const ProgramProblem<T>& problem_of(const ProgramOfHead<T>& of_head) {
  return of_head.problem;
}

// Runs every head of a call. `head_of(n)` gives the problem of a head. Each is run to its end by one thread, which then
// finds its weights and its state in its own cache at every step, and waits for no other thread. Only if there are
// several times as many threads as heads, the threads divide the rows or units of one head after the other.
template <class T, class KernelsType, class HeadOf>
ffi::Error launch_heads(ffi::ThreadPool& pool, const KernelsType& k, int heads, HeadOf&& head_of, int gates,
                        bool backward, int most_threads, bool may_divide_units) {
  int available = (int)pool.num_threads();
  if (most_threads > 0 && most_threads < available) available = most_threads;
  auto of_first = head_of(0);
  const auto& p = problem_of(of_first);
  if (heads == 1 || 2 * heads < available) {
    for (int head = 0; head < heads; head++) {
      auto of_head = head_of(head);
      auto error = launch<T>(pool, k, problem_of(of_head), gates, backward, most_threads, may_divide_units);
      if (error.failure()) return error;
    }
    return ffi::Error::Success();
  }
  const double operations = 2.0 * p.time * p.batch * heads * (p.hidden + (p.x ? p.in_features : 0)) * p.hidden * gates;
  const int threads = operations < 2e6 ? 1 : std::min(available, heads);
  std::atomic<bool> enough{true};
  auto body = [&](int head) {
    auto of_head = head_of(head);
    const auto& q = problem_of(of_head);
    const Scratch scratch(k.workspace(q, backward, 1));
    if (!scratch.memory()) return enough.store(false);
    (backward ? k.backward : k.forward)(q, alone(scratch.memory()));
  };
  using Body = decltype(body);
  Team team(threads - 1, [&](auto task) { pool.Schedule(std::move(task)); });
  team.share(heads, [](void* context, int head) { (*static_cast<Body*>(context))(head); }, &body);
  if (!enough) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for a recurrence");
  return ffi::Error::Success();
}

// The arrays of a call. An empty array means that there is none.
template <class T>
struct Arrays {
  ffi::RemainingArgs args;
  ffi::RemainingRets rets;

  const T* in(size_t i) const {
    auto buffer = args.get<ffi::AnyBuffer>(i);
    return buffer->element_count() ? static_cast<const T*>(buffer->untyped_data()) : nullptr;
  }
  int64_t in_size(size_t i) const { return args.get<ffi::AnyBuffer>(i)->element_count(); }
  int64_t out_size(size_t i) const { return (*rets.get<ffi::AnyBuffer>(i))->element_count(); }
  T* out(size_t i) const {
    auto buffer = rets.get<ffi::AnyBuffer>(i);
    T* data = (*buffer)->element_count() ? static_cast<T*>((*buffer)->untyped_data()) : nullptr;
    ask_for_large_pages(data, (*buffer)->size_bytes());
    return data;
  }
};

}  // namespace jaxrnn
