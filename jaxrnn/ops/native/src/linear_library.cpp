// The entry points of linear recurrences that JAX calls, and how their work is divided.

#include "instruction_set.h"
#include "launch.h"
#include "linear.h"

namespace jaxrnn {
namespace {

// The arrays of a call, in the order in which Python passes them.
enum Inputs { kA, kB, kInitial, kReset, kLengths, kResets, kH, kDH };
enum ForwardResults { kOutH };
enum BackwardResults { kDA, kDB, kDInitial, kDReset };

struct Options {
  int64_t time, rows, width, batch_major, reverse, a_has_time, a_has_rows, threads;
};

template <class T>
const LinearKernels<T>& linear_kernels() {
  if constexpr (sizeof(T) == 4) JAXRNN_RETURN_BEST(linear_f32);
  if constexpr (sizeof(T) == 8) JAXRNN_RETURN_BEST(linear_f64);
}

// Whether results go to memory past the caches: where a call reads and writes more than stays in a cache until somebody
// reads it. Whole lines only. Measured on AMD (a third less time); processors of others keep the common stores.
template <class T>
bool streams(const LinearProblem<T>& p, int64_t runs, bool backward) {
#if defined(JAXRNN_X86)
  static const bool pays = [] {
    __builtin_cpu_init();
    return __builtin_cpu_is("amd") != 0;
  }();
  constexpr double kMuch = 16 << 20;
  const double size = (double)runs * p.time * p.rows * p.width * sizeof(T);
  const auto in_lines = [](const void* array) { return (uintptr_t)array % 64 == 0; };
  return pays && (backward ? 5 : 3) * size > kMuch && p.width * sizeof(T) % 64 == 0 && in_lines(p.h) &&
         in_lines(p.da) && in_lines(p.db);
#else
  return false;
#endif
}

// The recurrence of one run.
template <class T, bool kBackward>
LinearProblem<T> problem(const Arrays<T>& arrays, const Options& o, bool is_complex) {
  LinearProblem<T> p{};
  p.time = o.time, p.rows = o.rows, p.width = is_complex ? 2 * o.width : o.width;
  p.reverse = o.reverse, p.is_complex = is_complex;
  p.step = o.batch_major ? p.width : p.rows * p.width;
  p.row = o.batch_major ? p.time * p.width : p.width;
  // a is [time or 1, rows or 1, width], or with these two axes exchanged.
  p.a_step = o.a_has_time ? (o.batch_major || !o.a_has_rows ? p.width : p.rows * p.width) : 0;
  p.a_row = o.a_has_rows ? (o.batch_major && o.a_has_time ? p.time * p.width : p.width) : 0;
  p.a = arrays.in(kA), p.b = arrays.in(kB), p.initial = arrays.in(kInitial), p.reset = arrays.in(kReset);
  p.lengths = reinterpret_cast<const int32_t*>(arrays.in(kLengths));
  p.resets = reinterpret_cast<const uint8_t*>(arrays.in(kResets));
  p.resets_step = o.batch_major ? 1 : p.rows, p.resets_row = o.batch_major ? p.time : 1;
  if constexpr (kBackward) {
    p.h = const_cast<T*>(arrays.in(kH)), p.dh = arrays.in(kDH);  // only read
    p.da = arrays.out(kDA), p.db = arrays.out(kDB);
    p.dinitial = arrays.out(kDInitial), p.dreset = arrays.out(kDReset);
  } else {
    p.h = arrays.out(kOutH);
  }
  // Without masks, neighbouring rows are one long row.
  if (!o.batch_major && !p.lengths && !p.resets && (p.a_row == p.width || p.rows == 1)) {
    p.width *= p.rows, p.rows = 1, p.row = p.a_row = p.width;
  }
  p.streams = streams(p, arrays.runs(), kBackward);
  return p;
}

template <class T, bool kBackward>
ffi::Error run(ffi::ThreadPool& pool, const Arrays<T>& arrays, const Options& o, bool is_complex) {
  const int64_t runs = arrays.runs();
  if (runs == 0) return ffi::Error::Success();
  const auto first = problem<T, kBackward>(arrays, o, is_complex);
  int threads = (int)pool.num_threads();
  if (o.threads > 0 && o.threads < threads) threads = (int)o.threads;
  // Not for some microseconds, and not if a thread may be suspended with its part half done.
  if ((double)runs * first.time * first.rows * first.width < 3e4 || Team::machine_is_busy()) threads = 1;
  const auto tiles = tiles_of(first.rows, first.width, o.batch_major, 64 / sizeof(T), runs < threads ? threads : 1);
  const int64_t per_run = tiles.size(), parts = runs * per_run;
  const auto& kernels = linear_kernels<T>();
  const auto one = kBackward ? kernels.backward : kernels.forward;
  auto body = [&](int part) {
    const int64_t number = part / per_run;
    if (number == 0) return one(first, tiles[part]);
    one(problem<T, kBackward>(arrays.of_run(number), o, is_complex), tiles[part % per_run]);
  };
  auto call = [](void* context, int part) { (*static_cast<decltype(body)*>(context))(part); };
  Team team((int)std::min<int64_t>(threads, parts) - 1, [&](auto task) { pool.Schedule(std::move(task)); });
  team.share((int)parts, call, &body);
  return ffi::Error::Success();
}

template <bool kBackward>
ffi::Error dispatch(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t time,
                    int64_t rows, int64_t width, int64_t batch_major, int64_t reverse, int64_t a_has_time,
                    int64_t a_has_rows, int64_t threads) {
  const Options o{time, rows, width, batch_major, reverse, a_has_time, a_has_rows, threads};
  constexpr size_t kSteps = kBackward ? size_t{kDB} : size_t{kOutH};  // [time, rows, width]
  const ffi::DataType type = args.get<ffi::AnyBuffer>(kB)->element_type();
  const bool is_complex = type == ffi::DataType::C64 || type == ffi::DataType::C128;
  if (type == ffi::DataType::F64 || type == ffi::DataType::C128) {
    return run<double, kBackward>(pool, {args, rets, kSteps, 3}, o, is_complex);
  }
  return run<float, kBackward>(pool, {args, rets, kSteps, 3}, o, is_complex);
}

}  // namespace
}  // namespace jaxrnn

#define JAXRNN_LINEAR_BINDING         \
  ffi::Ffi::Bind()                    \
      .Ctx<ffi::ThreadPool>()         \
      .RemainingArgs()                \
      .RemainingRets()                \
      .Attr<int64_t>("time")          \
      .Attr<int64_t>("rows")          \
      .Attr<int64_t>("width")         \
      .Attr<int64_t>("batch_major")   \
      .Attr<int64_t>("reverse")       \
      .Attr<int64_t>("a_has_time")    \
      .Attr<int64_t>("a_has_rows")    \
      .Attr<int64_t>("threads")

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_linear_forward, jaxrnn::dispatch<false>, JAXRNN_LINEAR_BINDING);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_linear_backward, jaxrnn::dispatch<true>, JAXRNN_LINEAR_BINDING);

#pragma GCC visibility pop
