// The entry points of recurrences whose cell is a program.

#include "instruction_set.h"
#include "launch.h"
#include "program_problem.h"

namespace jaxrnn {
namespace {

// The arrays of a call, in the order in which Python passes them. The initial carry follows, and the carry to which a
// reset returns; backward also y, saved, dy and the gradients of the last carry.
enum Inputs { kX, kKernel, kBias, kXw, kRecurrentKernel, kRecurrentBias, kDerived, kScale, kValid, kResets, kCarry };

// Forward: then the last carry. Backward: then the gradients of the initial carry and of the reset carry.
enum ForwardResults { kOutY, kOutSaved, kLastCarry };
enum BackwardResults { kDX, kDXw, kDKernel, kDBias, kDRecurrentKernel, kDRecurrentBias, kOutSums, kDCarry };

// The recurrence of one head.
template <class T>
ProgramOfHead<T> recurrence_of(const Arrays<T>& a, const ProgramNumbers& n, int head, bool backward) {
  auto p = program_problem<T>(n);
  p.x = a.in(kX), p.kernel = a.in(kKernel), p.bias = a.in(kBias), p.xw = a.in(kXw);
  p.recurrent_kernel = a.in(kRecurrentKernel), p.recurrent_bias = a.in(kRecurrentBias);
  p.derived = a.in(kDerived), p.derived_count = (int)(a.in_size(kDerived) / p.row_units);
  p.scale = a.in(kScale);
  p.valid = reinterpret_cast<const uint8_t*>(a.in(kValid));
  p.resets = reinterpret_cast<const uint8_t*>(a.in(kResets));
  std::vector<const T*> in;
  std::vector<T*> out;
  const int inputs = 2 * p.carries + (backward ? 3 + p.carries : 0);
  for (int i = 0; i < inputs; i++) in.push_back(a.in(kCarry + i));
  const int first = backward ? int{kDCarry} : int{kLastCarry}, results = backward ? 2 * p.carries : p.carries;
  for (int i = 0; i < results; i++) out.push_back(a.out(first + i));
  p.carry = in.data(), p.reset_carry = in.data() + p.carries;
  if (!backward) {
    p.y = a.out(kOutY), p.saved = a.out(kOutSaved), p.last_carry = out.data();
  } else {
    const T* const* more = in.data() + 2 * p.carries;
    p.y = const_cast<T*>(more[0]), p.saved = const_cast<T*>(more[1]), p.dy = more[2];  // y and saved are only read
    p.dlast_carry = more + 3;
    p.dx = a.out(kDX), p.dxw = a.out(kDXw), p.dkernel = a.out(kDKernel), p.dbias = a.out(kDBias);
    p.drecurrent_kernel = a.out(kDRecurrentKernel), p.drecurrent_bias = a.out(kDRecurrentBias);
    p.sums = a.out(kOutSums), p.sum_count = (int)(a.out_size(kOutSums) / p.row_units);
    p.dcarry = out.data(), p.dreset_carry = out.data() + p.carries;
  }
  return ProgramOfHead<T>(p, head, (ptrdiff_t)p.time * p.saved_count * p.batch * p.pitch());
}

template <class T>
ffi::Error run(ffi::ThreadPool& pool, const Arrays<T>& arrays, const ProgramNumbers& n, bool backward) {
  const int heads = (int)n.sizes[kHeads], gates = (int)std::max(n.sizes[kGates], n.sizes[kRecurrentGates]);
  // A tile with one row takes as long to read as one with sixteen.
  const bool in_tiles = n.sizes[kBFloat16] && n.sizes[kBatch] > 1;
  auto recurrence = [&](int64_t number) {
    return recurrence_of(arrays.of_run(number / heads), n, (int)(number % heads), backward);
  };
  return launch_all<T>(pool, program_kernels<T>(in_tiles), arrays.runs() * heads, recurrence, gates, backward,
                       (int)n.sizes[kThreads], /*waits=*/program_problem<T>(n).needs_all_units() ? 2 : 1);
}

using Numbers = ffi::Span<const int64_t>;

template <bool kBackward>
ffi::Error dispatch(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, Numbers sizes,
                    Numbers program, Numbers carry_slots, Numbers summed, Numbers shared,
                    ffi::Span<const double> constants) {
  const ProgramNumbers n{sizes.begin(), program.begin(), summed.begin(), shared.begin(), carry_slots.begin(),
                         constants.begin(), (int)constants.size(), (int)carry_slots.size()};
  constexpr size_t kState = kBackward ? size_t{kDCarry} : size_t{kLastCarry};  // [batch, hidden]
  if (args.get<ffi::AnyBuffer>(kRecurrentKernel)->element_type() == ffi::DataType::F64) {
    return run<double>(pool, {args, rets, kState, 2}, n, kBackward);
  }
  return run<float>(pool, {args, rets, kState, 2}, n, kBackward);
}

}  // namespace
}  // namespace jaxrnn

#define JAXRNN_BINDING \
  ffi::Ffi::Bind() \
      .Ctx<ffi::ThreadPool>() \
      .RemainingArgs() \
      .RemainingRets() \
      .Attr<ffi::Span<const int64_t>>("sizes") \
      .Attr<ffi::Span<const int64_t>>("program") \
      .Attr<ffi::Span<const int64_t>>("carry_slots") \
      .Attr<ffi::Span<const int64_t>>("summed") \
      .Attr<ffi::Span<const int64_t>>("shared") \
      .Attr<ffi::Span<const double>>("constants")

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_program_forward, jaxrnn::dispatch<false>, JAXRNN_BINDING);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_program_backward, jaxrnn::dispatch<true>, JAXRNN_BINDING);

#pragma GCC visibility pop
