// A few threads of XLA's own pool that work on one call together.
//
// A thread of a pool may be busy for as long as it likes, so nobody may wait for one that has not come: threads
// that are there when the team closes are in, and from then on run until the work is done; late ones go home.
// The caller is always in, so a team of one is what a busy pool gives. Members may wait for each other
// (`barrier`), since every one of them is running.

#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#if defined(__linux__)
#include <sched.h>
#endif

namespace jaxrnn {

inline void pause_thread() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

class Team {
 public:
  // Asks `schedule` (a function of a task) for so many threads besides the caller.
  template <class Schedule>
  Team(int helpers, Schedule&& schedule) : shared_(std::make_shared<Shared>()), asked_(helpers) {
    shared_->processor = processor_of_caller();
    for (int i = 0; i < helpers; i++) {
      schedule([shared = shared_] { serve(*shared); });
    }
  }

  // Waits for the helpers, but no longer than this, and returns how many threads there are.
  int close(std::chrono::microseconds patience) {
    const auto end = std::chrono::steady_clock::now() + patience;
    for (int spins = 0; shared_->joined.load() < asked_ && std::chrono::steady_clock::now() < end;) wait(spins);
    size_ = 1 + shared_->joined.fetch_add(kClosed);
    closed_ = true;
    return size_;
  }

  // Runs work(rank) on the caller and on every helper, and returns when all are through. Once only. Without
  // `close` before, helpers that come while the caller still works are in, and take what work is left.
  void run(std::function<void(int)> work) {
    shared_->work = std::move(work);
    shared_->started.store(true, std::memory_order_release);
    if (!closed_ && asked_ > 0) std::this_thread::yield();
    shared_->work(0);
    if (!closed_) close(std::chrono::microseconds(0));
    for (int spins = 0; shared_->finished.load(std::memory_order_acquire) < size_ - 1;) wait(spins);
  }

  // Every member waits here for all the others.
  void barrier() {
    if (size_ == 1) return;
    Shared& s = *shared_;
    const int round = s.round.load(std::memory_order_acquire);
    if (s.waiting.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      s.waiting.store(0, std::memory_order_relaxed);
      s.round.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; s.round.load(std::memory_order_acquire) == round;) wait(spins);
  }

 private:
  static constexpr int kClosed = 1 << 20;
  static constexpr int kSpins = 300;  // some 10 microseconds

  struct Shared {
    int processor = -1;
    std::atomic<int> joined{0};
    std::atomic<bool> started{false};
    std::atomic<int> finished{0};
    alignas(64) std::atomic<int> waiting{0};
    alignas(64) std::atomic<int> round{0};
    std::function<void(int)> work;
  };

  static void wait(int& spins) {
    // A member that the operating system has put aside comes back only if we let go of the processor.
    if (++spins < kSpins) {
      pause_thread();
    } else {
      std::this_thread::yield();
    }
  }

  // Linux likes to wake a thread on the processor of the one that wakes it, where it would take turns with the caller
  // for some milliseconds, until the balance is looked at. Whoever finds himself there moves elsewhere.
  static void step_aside(int processor) {
#if defined(__linux__)
    cpu_set_t all, others;
    if (processor < 0 || sched_getcpu() != processor || sched_getaffinity(0, sizeof all, &all) != 0) return;
    others = all;
    CPU_CLR(processor, &others);
    if (CPU_COUNT(&others) == 0) return;
    sched_setaffinity(0, sizeof others, &others);
    sched_setaffinity(0, sizeof all, &all);
#endif
  }

  static int processor_of_caller() {
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
  }

  static void serve(Shared& shared) {
    step_aside(shared.processor);
    const int rank = 1 + shared.joined.fetch_add(1);
    if (rank > kClosed) return;
    for (int spins = 0; !shared.started.load(std::memory_order_acquire);) wait(spins);
    shared.work(rank);
    shared.finished.fetch_add(1, std::memory_order_release);
  }

  std::shared_ptr<Shared> shared_;
  int asked_;
  int size_ = 1;
  bool closed_ = false;
};

}  // namespace jaxrnn
