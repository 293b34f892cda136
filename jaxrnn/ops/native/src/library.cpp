// The entry points of the built-in cells that JAX calls.

#include "instruction_set.h"
#include "launch.h"
#include "recurrence.h"

namespace jaxrnn {
namespace {

// The arrays of a call, in the order in which Python passes them.
enum Inputs { kX, kKernel, kBias, kXw, kRecurrentKernel, kRecurrentBias, kCellParam, kC, kH, kScale, kValid, kResets,
              kResetC, kResetH, kInputs,
              kY = kInputs, kSaved, kDLastC, kDLastH, kDY };
enum ForwardResults { kOutY, kOutSaved, kLastC, kLastH };
enum BackwardResults { kDX, kDXw, kDC, kDH, kDResetC, kDResetH, kDKernel, kDBias, kDRecurrentKernel, kDRecurrentBias,
                       kDCellParam };

struct Options {
  int64_t cell, gates, time, batch, in_features, hidden, heads, reverse, batch_major, threads;
};

template <class T>
Problem<T> problem(const Arrays<T>& a, const Options& o) {
  Problem<T> p{};
  p.cell = static_cast<Cell>(o.cell);
  p.time = (int)o.time, p.batch = (int)o.batch, p.in_features = (int)o.in_features;
  p.hidden = (int)(o.hidden / o.heads), p.row_units = (int)o.hidden;
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
Problem<T> forward_problem(const Arrays<T>& a, const Options& o) {
  Problem<T> p = problem(a, o);
  p.y = a.out(kOutY), p.saved = a.out(kOutSaved), p.last_c = a.out(kLastC), p.last_h = a.out(kLastH);
  return p;
}

template <class T>
Problem<T> backward_problem(const Arrays<T>& a, const Options& o) {
  Problem<T> p = problem(a, o);
  p.y = const_cast<T*>(a.in(kY)), p.saved = const_cast<T*>(a.in(kSaved));  // only read
  p.dlast_c = a.in(kDLastC), p.dlast_h = a.in(kDLastH), p.dy = a.in(kDY);
  p.dx = a.out(kDX), p.dxw = a.out(kDXw);
  p.dc = a.out(kDC), p.dh = a.out(kDH), p.dreset_c = a.out(kDResetC), p.dreset_h = a.out(kDResetH);
  p.dkernel = a.out(kDKernel), p.dbias = a.out(kDBias);
  p.drecurrent_kernel = a.out(kDRecurrentKernel), p.drecurrent_bias = a.out(kDRecurrentBias);
  p.dcell_param = a.out(kDCellParam);
  return p;
}

template <class T, bool kBackward>
ffi::Error run(ffi::ThreadPool& pool, const Arrays<T>& arrays, const Options& o) {
  const int64_t saved = (kBackward ? arrays.in_size(kSaved) : arrays.out_size(kOutSaved)) / o.heads;
  auto recurrence = [&](int64_t number) {
    const Arrays<T> a = arrays.of_run(number / o.heads);
    return head_of(kBackward ? backward_problem(a, o) : forward_problem(a, o), (int)(number % o.heads), saved);
  };
  return launch_all<T>(pool, kernels<T>(), arrays.runs() * o.heads, recurrence, (int)o.gates, kBackward,
                       (int)o.threads, /*waits=*/1);
}

template <bool kBackward>
ffi::Error dispatch(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t cell,
                    int64_t gates, int64_t time, int64_t batch, int64_t in_features, int64_t hidden, int64_t heads,
                    int64_t reverse, int64_t batch_major, int64_t threads) {
  const Options o{cell, gates, time, batch, in_features, hidden, heads, reverse, batch_major, threads};
  constexpr size_t kState = kBackward ? size_t{kDH} : size_t{kLastH};  // [batch, hidden]
  if (args.get<ffi::AnyBuffer>(kRecurrentKernel)->element_type() == ffi::DataType::F64) {
    return run<double, kBackward>(pool, {args, rets, kState, 2}, o);
  }
  return run<float, kBackward>(pool, {args, rets, kState, 2}, o);
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
      .Attr<int64_t>("heads")            \
      .Attr<int64_t>("reverse")          \
      .Attr<int64_t>("batch_major")      \
      .Attr<int64_t>("threads")

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_forward, jaxrnn::dispatch<false>, JAXRNN_BINDING);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_backward, jaxrnn::dispatch<true>, JAXRNN_BINDING);

// The hash of the sources that this library was built from. Python does not load a library with another hash.
extern "C" const char* jaxrnn_source_hash() { return JAXRNN_SOURCE_HASH; }

// The hash of these, of the compiler and of the instruction sets: what would be made of the same is not made again.
extern "C" const char* jaxrnn_build_hash() { return JAXRNN_BUILD_HASH; }

// The instruction sets that it was compiled for, with a blank between them.
extern "C" const char* jaxrnn_instruction_sets() {
  return JAXRNN_IF_AVX512("avx512 ") JAXRNN_IF_AVX2("avx2 ") JAXRNN_IF_BASE("base") "";
}

// The instruction set in use; "none" on a processor that it was not compiled for.
extern "C" const char* jaxrnn_instruction_set() {
  switch (jaxrnn::best_set()) {
    case jaxrnn::Set::kAVX512: return "avx512";
    case jaxrnn::Set::kAVX2: return "avx2";
    case jaxrnn::Set::kBase: return "base";
    default: return "none";
  }
}

// Whether products of bfloat16 run in tile registers.
extern "C" int jaxrnn_has_tiles() { return jaxrnn::has_tiles(); }

#pragma GCC visibility pop
