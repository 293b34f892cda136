// A few threads of XLA's own pool that work on one call together.
//
// Only the caller decides what is done next: it publishes a stage, which is some work divided into parts, and continues
// when every part is done. A thread must claim a part before it accesses any data of the call. So a thread that starts
// late finds no part to claim and returns, and the caller never waits for a thread that has not started.
//
// The result of a part depends only on its number, not on the thread that runs it. So the caller may run the part of a
// thread that has not begun it: on a busy machine, the operating system may suspend a thread for a long time. The
// results are the same bits either way.

#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace jaxrnn {

inline void pause_thread() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Team {
 public:
  using Body = void (*)(void* context, int part);
  using Clock = std::chrono::steady_clock;

  // Asks `schedule` (a function of a task) for `helpers` threads besides the caller.
  template <class Schedule>
  Team(int helpers, Schedule&& schedule) : shared_(std::make_shared<Shared>(helpers + 1)), asked_(helpers) {
    for (int i = 0; i < helpers; i++) {
      schedule([shared = shared_] { serve(*shared); });
    }
  }

  ~Team() { shared_->stage.store(kEnd, std::memory_order_release); }

  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Waits for the helpers, but not longer than `patience`, and returns the number of threads. Later helpers return at
  // once.
  int close(std::chrono::microseconds patience) {
    const auto end = Clock::now() + patience;
    for (int spins = 0; shared_->joined.load() < asked_ && Clock::now() < end;) wait(spins);
    const int joined = shared_->joined.fetch_add(kClosed);
    size_ = 1 + (joined < asked_ ? joined : asked_);
    return size_;
  }

  // Runs body(part) for every part, each on the thread of that number, so that its data stays in that core's cache. The
  // caller also runs the parts without a thread. If a thread has not begun its part some time after the caller has
  // finished its own, the caller takes over the parts of that thread from then on. Call `close` before.
  void each(int parts, Body body, void* context) {
    Shared& s = *shared_;
    s.body = body, s.context = context;
    const int64_t stage = ++stage_;
    s.stage.store(stage, std::memory_order_release);
    body(context, 0);
    for (int part = 1; part < parts; part++) {
      if (part >= size_ || s.slots[part].gone || !finished_by_helper(s.slots[part], stage)) body(context, part);
    }
  }

  // Runs body(part) for every part, on any free thread; helpers may start at any time. Call it once, as the last call.
  // Here nobody takes over a part that was begun. The machine counts as busy if the operating system suspended the caller,
  // or seems to have suspended a helper.
  void share(int parts, Body body, void* context) {
    Shared& s = *shared_;
    s.body = body, s.context = context, s.parts = parts;
    s.stage.store(kSharing, std::memory_order_release);
    if (asked_ > 0) std::this_thread::yield();
    const int64_t began = now(), ran = time_of_this_thread();
    const int own = take_parts(s);
    const int64_t took = now() - began, suspended = took - (time_of_this_thread() - ran);
    const int64_t end = began + took + took / (own > 0 ? own : 1) + kSuspended;
    bool late = false;
    for (int spins = 0; s.done.load(std::memory_order_acquire) < parts;) {
      wait(spins);
      late = late || (spins >= kSpins && now() > end);
    }
    if (late || suspended > took / 4 + kSuspended) note_that_machine_is_busy(kCalls * took);
  }

  // Whether a helper of a recent call was suspended; then threads that wait for each other would be slow.
  static bool machine_is_busy() { return now() < busy_until().load(std::memory_order_relaxed); }

 private:
  static constexpr int kClosed = 1 << 20;
  static constexpr int kSpins = 300;  // about 10 microseconds
  static constexpr int64_t kSharing = INT64_MAX - 1, kEnd = INT64_MAX;
  static constexpr std::chrono::microseconds kPatience{50};  // how long to wait for a helper to begin its part
  // How long the machine counts as busy after a helper was suspended: the first time, and at most if it happens again.
  static constexpr int64_t kBusy = 5000000, kLongestBusy = 40 * kBusy;  // nanoseconds
  static constexpr int64_t kSuspended = 1000000;  // a thread that did not run for so long was suspended
  static constexpr int64_t kCalls = 8;  // after a long call, at least so many of its length run on a busy machine

  struct alignas(64) Slot {
    std::atomic<int64_t> claimed{0}, done{0};  // the last stage whose part was claimed, and done
    bool gone = false;                         // the caller has taken over; only the caller uses this
  };

  struct Shared {
    explicit Shared(int size) : processor(processor_of_caller()), slots(size) {}

    int processor;
    std::atomic<int> joined{0};
    alignas(64) std::atomic<int64_t> stage{0};
    // The work of the stage. Only threads that have claimed a part read it, and the caller waits for those.
    Body body = nullptr;
    void* context = nullptr;
    int parts = 0;
    std::vector<Slot> slots;
    alignas(64) std::atomic<int> next{0}, done{0};  // used by `share`
  };

  static int64_t now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count();
  }

  // Nanoseconds for which the calling thread has run; without such a clock those of the other one.
  static int64_t time_of_this_thread() {
#if defined(CLOCK_THREAD_CPUTIME_ID)
    timespec t;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0) return 1000000000 * (int64_t)t.tv_sec + t.tv_nsec;
#endif
    return now();
  }

  static std::atomic<int64_t>& busy_until() {
    static std::atomic<int64_t> t{0};
    return t;
  }

  // `least` is the shortest time for which it counts as busy, at most kLongestBusy.
  static void note_that_machine_is_busy(int64_t least = 0) {
    static std::atomic<int64_t> length{0};
    const int64_t time = now(), since = time - busy_until().load(), before = length.load();
    int64_t next = since > 2 * before + kBusy ? kBusy : 2 * before;
    if (next < least) next = least;
    if (next > kLongestBusy) next = kLongestBusy;
    length.store(next);
    busy_until().store(time + next);
  }

  // Waits until the helper has done its part. Returns false if the helper did not begin, and now cannot begin.
  static bool finished_by_helper(Slot& slot, int64_t stage) {
    Clock::time_point end{};
    for (int spins = 0; slot.done.load(std::memory_order_acquire) != stage;) {
      wait(spins);
      if (spins < kSpins) continue;
      if (end == Clock::time_point{}) end = Clock::now() + kPatience;
      int64_t before = slot.claimed.load();
      if (before == stage || Clock::now() < end) continue;
      if (!slot.claimed.compare_exchange_strong(before, stage)) continue;
      slot.gone = true;
      note_that_machine_is_busy();
      return false;
    }
    return true;
  }

  // Returns how many parts this thread ran.
  static int take_parts(Shared& s) {
    int own = 0;
    for (int part; (part = s.next.fetch_add(1)) < s.parts; own++) {
      s.body(s.context, part);
      s.done.fetch_add(1, std::memory_order_release);
    }
    return own;
  }

  static void wait(int& spins) {
    // A thread that the operating system has suspended may need this processor to run again.
    if (spins < kSpins) {
      spins++;
      pause_thread();
    } else {
      std::this_thread::yield();
    }
  }

  // Linux often wakes a thread on the processor of the thread that wakes it. There it would share the processor with
  // the caller for some milliseconds, until the scheduler balances the load. So such a thread moves to another one.
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

  // The loop of a helper: it runs its part of every stage, until the call ends or the caller has taken over its part.
  static void serve(Shared& s) {
    step_aside(s.processor);
    const int rank = 1 + s.joined.fetch_add(1);
    if (rank > kClosed) return;
    Slot& slot = s.slots[rank];
    int64_t last = 0;
    for (int spins = 0;; spins = 0) {
      int64_t stage;
      while ((stage = s.stage.load(std::memory_order_acquire)) == last) wait(spins);
      if (stage == kEnd) return;
      if (stage == kSharing) {
        take_parts(s);
        return;
      }
      int64_t before = last;
      if (!slot.claimed.compare_exchange_strong(before, stage)) return;
      s.body(s.context, rank);
      slot.done.store(stage, std::memory_order_release);
      last = stage;
    }
  }

  std::shared_ptr<Shared> shared_;
  int asked_;
  int size_ = 1;
  int64_t stage_ = 0;
};

}  // namespace jaxrnn
