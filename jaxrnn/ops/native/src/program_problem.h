// The arrays of a recurrence whose cell is a program, and the program as Python encodes it.

#pragma once

#include <vector>

#include "recurrence.h"

namespace jaxrnn {

constexpr int kMostGates = 32;  // as MOST_GATES in jaxrnn/ops/native/encoding.py

// Where an operand of a program is, in the order of PLACES in jaxrnn/ops/native/encoding.py.
enum class Place : int64_t { kConstant, kDerived, kRegister, kRow, kSum, kXw, kRh, kCarry, kCarryOut, kY, kSaved,
                             kNewCarry, kDCarry, kDCarryOut, kDY, kDXw, kDRh, kSums, kNumber, kArray, kResult };

struct OperandName {
  Place place;
  int64_t index;
};

// The numbers of an operation and of its operands, and whether the result is one number a row.
struct Instruction {
  int64_t operation, result, a, b, c, per_row;
};

// As it comes from Python: two counts, the names of the operands, and the instructions.
struct ProgramCode {
  int operand_count = 0, instruction_count = 0;
  const OperandName* operands = nullptr;
  const Instruction* instructions = nullptr;
  const double* constants = nullptr;
  int constant_count = 0;
};

inline ProgramCode program_code(const int64_t* program, const double* constants, int constant_count) {
  ProgramCode code{(int)program[0], (int)program[1]};
  code.operands = reinterpret_cast<const OperandName*>(program + 2);
  code.instructions = reinterpret_cast<const Instruction*>(program + 2 + 2 * code.operand_count);
  code.constants = constants, code.constant_count = constant_count;
  return code;
}

template <class T>
struct ProgramProblem : Sequence {
  int gates, recurrent_gates, carries;
  int saved_count, derived_count, sum_count;  // arrays [batch, hidden] saved at every step, [hidden], [hidden]
  int registers, row_registers;
  ProgramCode code;
  // For every part of the carry, where the new one is in saved, or -1: then it is not saved, or it is y.
  const int64_t* carry_slots;
  const int64_t* summed;  // [gates]: whether the program takes xw + rh
  const int64_t* shared;  // [recurrent_gates]: whether the gradient of rh is that of xw

  // Either the inputs x with kernel [in, gates * hidden] and bias, or their projection xw.
  const T *x, *kernel, *bias, *xw;
  const T *recurrent_kernel, *recurrent_bias;  // [heads, hidden, recurrent_gates * hidden], and as bias
  const T* derived;                            // [derived_count, hidden]
  const T* scale;                              // [batch, hidden]: multiplies h before the recurrent product
  const T* const* carry;                       // the initial carry, [batch, hidden] each
  const T* const* reset_carry;

  // Forward results; the backward pass reads y and saved [time, saved_count, batch, pitch].
  T *y, *saved;
  T* const* last_carry;

  // The backward pass.
  const T* const* dlast_carry;
  const T* dy;
  T *dx, *dxw, *dkernel, *dbias, *drecurrent_kernel, *drecurrent_bias;
  T* sums;  // [sum_count, hidden]
  T *const *dcarry, *const *dreset_carry;

  // Whether the program has a sum or maximum over units: only then it has numbers of rows.
  bool needs_all_units() const { return row_registers > 0; }

  // From one row of a block to the next: whole cache lines, so that it is the same for every instruction set.
  static constexpr int kLine = 64 / sizeof(T);
  int pitch() const { return (hidden + kLine - 1) / kLine * kLine; }

  T* saved_at(int t, int slot, int b) const {
    return saved + (((ptrdiff_t)t * saved_count + slot) * batch + b) * pitch();
  }
};

// The numbers of a program and of a call, as Python passes them; see jaxrnn/ops/native/encoding.py.
struct ProgramNumbers {
  const int64_t *sizes, *program, *summed, *shared, *carry_slots;
  const double* constants;
  int constant_count, carries;
};

// The numbers of `sizes`, in the order of SIZES in encoding.py.
enum Sizes { kTime, kBatch, kInFeatures, kHidden, kHeads, kGates, kRecurrentGates, kSavedCount, kRegisters,
             kRowRegisters, kReverse, kBatchMajor, kBFloat16, kThreads };

// The problem without its arrays.
template <class T>
ProgramProblem<T> program_problem(const ProgramNumbers& o) {
  ProgramProblem<T> p{};
  const int64_t* n = o.sizes;
  p.time = (int)n[kTime], p.batch = (int)n[kBatch], p.in_features = (int)n[kInFeatures];
  p.row_units = (int)n[kHidden], p.hidden = (int)(n[kHidden] / n[kHeads]);
  p.gates = (int)n[kGates], p.recurrent_gates = (int)n[kRecurrentGates], p.carries = o.carries;
  p.saved_count = (int)n[kSavedCount], p.registers = (int)n[kRegisters], p.row_registers = (int)n[kRowRegisters];
  p.reverse = n[kReverse], p.batch_major = n[kBatchMajor];
  p.carry_slots = o.carry_slots, p.summed = o.summed, p.shared = o.shared;
  p.code = program_code(o.program, o.constants, o.constant_count);
  return p;
}

// The recurrence of one head, with pointers of its own to the parts of the carry.
template <class T>
struct ProgramOfHead {
  ProgramProblem<T> problem;
  std::vector<const T*> in;
  std::vector<T*> out;

  ProgramOfHead(const ProgramProblem<T>& p, int head, ptrdiff_t saved) : problem(p) {
    const ptrdiff_t units = (ptrdiff_t)head * p.hidden;
    auto move = [](ptrdiff_t by, auto*&... arrays) { ((arrays = arrays ? arrays + by : nullptr), ...); };
    auto& q = problem;
    move(units, q.kernel, q.bias, q.xw, q.recurrent_bias, q.derived, q.scale, q.y, q.dy, q.dxw, q.dkernel, q.dbias,
         q.drecurrent_bias, q.sums);
    move(units * p.hidden * p.recurrent_gates, q.recurrent_kernel, q.drecurrent_kernel);
    move(head * saved, q.saved);
    in.reserve(3 * p.carries), out.reserve(2 * p.carries);  // so that pointers to them stay valid
    auto moved = [&](const auto* from, auto& to) -> decltype(to.data()) {
      if (!from) return nullptr;
      for (int i = 0; i < p.carries; i++) to.push_back(from[i] ? from[i] + units : nullptr);
      return to.data() + to.size() - p.carries;
    };
    q.carry = moved(p.carry, in), q.reset_carry = moved(p.reset_carry, in), q.dlast_carry = moved(p.dlast_carry, in);
    q.last_carry = moved(p.last_carry, out);
    q.dcarry = moved(p.dcarry, out), q.dreset_carry = moved(p.dreset_carry, out);
  }
};

// A program that computes some arrays from others of the same size, element by element: the j-th number of every result
// from the j-th of every array, and from numbers that all elements share. A result may be one of the arrays, if nothing
// reads that after it is written.
template <class T>
struct Elementwise {
  ProgramCode code;
  int registers;
  const T* numbers;
  const T* const* arrays;
  T* const* results;
  // If the number of this place is 0, nothing is computed: every result is a copy of the array of its place in
  // `otherwise`. -1: it is always computed.
  int condition;
  const int64_t* otherwise;
  int result_count;
};

// The functions of one instruction set.
template <class T>
struct ProgramKernels {
  size_t (*workspace)(const ProgramProblem<T>&, bool backward, int parts);  // bytes
  void (*forward)(const ProgramProblem<T>&, const Division&);
  void (*backward)(const ProgramProblem<T>&, const Division&);
  void (*elementwise)(const Elementwise<T>&, int64_t begin, int64_t end);
};

// Each instruction set defines these for float and double.
namespace base {
extern const ProgramKernels<float> program_kernels_f32;
extern const ProgramKernels<double> program_kernels_f64;
}  // namespace base
namespace avx2 {
extern const ProgramKernels<float> program_kernels_f32;
extern const ProgramKernels<double> program_kernels_f64;
}  // namespace avx2
namespace avx512 {
extern const ProgramKernels<float> program_kernels_f32;
extern const ProgramKernels<double> program_kernels_f64;
}  // namespace avx512
// Products of bfloat16; all else in float32.
namespace amx {
extern const ProgramKernels<float> program_kernels_f32;
}  // namespace amx

}  // namespace jaxrnn
