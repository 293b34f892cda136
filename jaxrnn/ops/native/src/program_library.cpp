// The entry points of recurrences whose cell is a program.

#include "instruction_set.h"
#include "launch.h"
#include "program_problem.h"

namespace jaxrnn {
namespace {

using Numbers = ffi::Span<const int64_t>;

struct ProgramOptions {
  Numbers sizes, program, carry_slots, summed, shared;
  ffi::Span<const double> constants;
};

// The numbers of `sizes`, in the order of SIZES in jaxrnn/ops/native/encoding.py.
enum Sizes { kTime, kBatch, kInFeatures, kHidden, kHeads, kGates, kRecurrentGates, kSavedCount, kRegisters, kRowRegisters,
             kReverse, kBatchMajor, kThreads, kSizes };

// The arrays of a call, in the order in which Python passes them. The initial carry follows, and the carry to which a
// reset returns; backward also y, saved, dy and the gradients of the last carry.
enum Inputs { kX, kKernel, kBias, kXw, kRecurrentKernel, kRecurrentBias, kDerived, kScale, kValid, kResets, kCarry };

// Forward: then the last carry. Backward: then the gradients of the initial carry and of the reset carry.
enum ForwardResults { kOutY, kOutSaved, kLastCarry };
enum BackwardResults { kDX, kDXw, kDKernel, kDBias, kDRecurrentKernel, kDRecurrentBias, kOutSums, kDCarry };

// The recurrence of one head.
template <class T>
ProgramOfHead<T> recurrence_of(const Arrays<T>& a, const ProgramOptions& o, int head, bool backward) {
  ProgramProblem<T> p{};
  const Numbers& n = o.sizes;
  p.time = (int)n[kTime], p.batch = (int)n[kBatch], p.in_features = (int)n[kInFeatures];
  p.row_units = (int)n[kHidden], p.hidden = (int)(n[kHidden] / n[kHeads]);
  p.gates = (int)n[kGates], p.recurrent_gates = (int)n[kRecurrentGates], p.carries = (int)o.carry_slots.size();
  p.saved_count = (int)n[kSavedCount], p.registers = (int)n[kRegisters], p.row_registers = (int)n[kRowRegisters];
  p.reverse = n[kReverse], p.batch_major = n[kBatchMajor];
  p.carry_slots = o.carry_slots.begin(), p.summed = o.summed.begin(), p.shared = o.shared.begin();
  p.code.operand_count = (int)o.program[0], p.code.instruction_count = (int)o.program[1];
  p.code.operands = reinterpret_cast<const OperandName*>(o.program.begin() + 2);
  p.code.instructions = reinterpret_cast<const Instruction*>(o.program.begin() + 2 + 2 * p.code.operand_count);
  p.code.constants = o.constants.begin(), p.code.constant_count = (int)o.constants.size();

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
ffi::Error run(ffi::ThreadPool& pool, const Arrays<T>& arrays, const ProgramOptions& o, bool backward) {
  const int heads = (int)o.sizes[kHeads], gates = (int)std::max(o.sizes[kGates], o.sizes[kRecurrentGates]);
  auto recurrence = [&](int64_t number) {
    return recurrence_of(arrays.of_run(number / heads), o, (int)(number % heads), backward);
  };
  return launch_all<T>(pool, program_kernels<T>(), arrays.runs() * heads, recurrence, gates, backward,
                       (int)o.sizes[kThreads], /*may_divide_units=*/false);
}

template <bool kBackward>
ffi::Error dispatch(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, Numbers sizes,
                    Numbers program, Numbers carry_slots, Numbers summed, Numbers shared,
                    ffi::Span<const double> constants) {
  const ProgramOptions o{sizes, program, carry_slots, summed, shared, constants};
  constexpr size_t kState = kBackward ? size_t{kDCarry} : size_t{kLastCarry};  // [batch, hidden]
  if (args.get<ffi::AnyBuffer>(kRecurrentKernel)->element_type() == ffi::DataType::F64) {
    return run<double>(pool, {args, rets, kState, 2}, o, kBackward);
  }
  return run<float>(pool, {args, rets, kState, 2}, o, kBackward);
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
