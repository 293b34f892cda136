// How a call is run: its scratch memory, how many threads, and how to divide the work.

#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#include "arrays.h"
#include "program_problem.h"
#include "recurrence.h"
#include "team.h"
#include "xla/ffi/api/ffi.h"

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
  bool beside = false;  // one thread runs the steps, and another one computes gradients of weights and inputs
};

// How to divide a call. If threads divide the rows of the batch, they need not wait for each other in the forward pass.
// If they divide the units, they wait for each other at every step, but each reads only its part of the weights. That
// pays if the weights do not fit into the cache of one core, or the batch is too small to divide. With a sum over units
// they wait twice for every group of rows, and one row's equations cannot be divided. On a busy machine, waiting for a
// thread that is not running would cost more than a second thread gains. Where neither division pays, a second thread
// takes over the gradients of weights and inputs, for which it waits once every chunk of steps. Not in a short call, which
// would end before that thread has started.
template <class T, class ProblemType>
Plan plan(const ProblemType& p, int gates, bool backward, int available, int waits) {
  const int64_t weights = (int64_t)(p.hidden + (p.x ? p.in_features : 0)) * p.hidden * gates;
  const double step = 2.0 * p.batch * weights;  // operations
  const bool large = exceeds_cache(weights * (int64_t)sizeof(T));
  const int64_t patience = std::clamp<int64_t>((int64_t)(step * p.time / 1e5 / 10), 20, 2000);  // at 100 GFLOP/s
  if (available < 2 || step * p.time < 2e6) return {1, true, 0};
  if (Team::machine_is_busy()) return !backward && p.batch >= available ? Plan{available, true, 0} : Plan{1, true, 0};
  if (p.batch >= 4 * available && !large) return {available, true, patience};
  if (step > 3e5 * waits && (waits == 1 || p.batch >= available)) return {available, false, patience};
  if (p.batch >= available) return {available, true, patience};
  return backward && step * p.time > 3e7 ? Plan{2, true, patience, /*beside=*/true} : Plan{1, true, 0};
}

// Runs a call on as many threads as it is worth, with the kernels of this processor.
template <class T, class KernelsType, class ProblemType>
ffi::Error launch(ffi::ThreadPool& pool, const KernelsType& k, const ProblemType& p, int gates, bool backward,
                  int most_threads, int waits) {
  int available = (int)pool.num_threads();
  if (most_threads > 0 && most_threads < available) available = most_threads;
  const Plan wanted = plan<T>(p, gates, backward, available, waits);
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
  const int step_parts = wanted.beside ? 1 : parts;
  const Division division{parts, by_rows, step_parts, true, true, scratch.memory(), apart ? share : each, &team};
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

// Runs all recurrences of a call: every head of every run. `recurrence(n)` gives the problem of one, with the head
// changing fastest. Each is run to its end by one thread, which then finds its weights and its state in its own cache at
// every step, and waits for no other thread. Only if there are several times as many threads as recurrences, and for
// those that are left when every thread has had as many as the others, the threads divide the rows or units of one
// after the other.
template <class T, class KernelsType, class RecurrenceOf>
ffi::Error launch_all(ffi::ThreadPool& pool, const KernelsType& k, int64_t count, RecurrenceOf&& recurrence, int gates,
                      bool backward, int most_threads, int waits) {
  if (count == 0) return ffi::Error::Success();
  int available = (int)pool.num_threads();
  if (most_threads > 0 && most_threads < available) available = most_threads;
  auto first = recurrence(0);
  const auto& p = problem_of(first);
  const int64_t left = count < 4 * available ? count % available : 0;
  const int64_t apart = count == 1 || 2 * count < available ? 0 : count < available ? count : count - left;
  if (apart) {
    const double operations =
        2.0 * p.time * p.batch * apart * (p.hidden + (p.x ? p.in_features : 0)) * p.hidden * gates;
    const int threads = operations < 2e6 ? 1 : (int)std::min<int64_t>(available, apart);
    std::atomic<bool> enough{true};
    auto body = [&](int number) {
      auto one = recurrence(number);
      const auto& q = problem_of(one);
      const Scratch scratch(k.workspace(q, backward, 1));
      if (!scratch.memory()) return enough.store(false);
      (backward ? k.backward : k.forward)(q, alone(scratch.memory()));
    };
    using Body = decltype(body);
    Team team(threads - 1, [&](auto task) { pool.Schedule(std::move(task)); });
    team.share((int)apart, [](void* context, int number) { (*static_cast<Body*>(context))(number); }, &body);
    if (!enough) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for a recurrence");
  }
  for (int64_t number = apart; number < count; number++) {
    auto one = recurrence(number);
    auto error = launch<T>(pool, k, problem_of(one), gates, backward, most_threads, waits);
    if (error.failure()) return error;
  }
  return ffi::Error::Success();
}

}  // namespace jaxrnn
