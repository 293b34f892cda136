// Runs one step at a time, called directly from Python without JAX. The weights are packed once. A step takes less time
// than waking a thread, so the caller's thread does all of it.

#include <cstdlib>
#include <memory>
#include <vector>

#include "instruction_set.h"
#include "program_problem.h"
#include "recurrence.h"
#include "streaming.h"

namespace jaxrnn {
namespace {

template <class T>
class StreamOf : public Stream {
 public:
  // Copies all arrays that `p` points to.
  explicit StreamOf(const Problem<T>& p)
      : p_(p), size_((kernels<T>().workspace(p, false, 1) + 63) / 64 * 64), memory_(nullptr, std::free) {
    heads_ = p.row_units / p.hidden;
    memory_.reset(static_cast<char*>(std::aligned_alloc(64, size_ * heads_)));
    if (!memory_) return;
    each_head(/*packs=*/true);
    const int width = p.row_units * gates_of(p.cell);
    p_.bias = copy(p.bias, width, bias_);
    p_.recurrent_bias = copy(p.recurrent_bias, width, recurrent_bias_);
    p_.cell_param = p.cell == Cell::kLeaky ? copy(p.cell_param, p.row_units, cell_param_) : nullptr;
  }

  bool has_memory() const { return memory_ != nullptr; }

  void step(const void* x, const void* carry, void* new_carry) override {
    const ptrdiff_t c = p_.cell == Cell::kLSTM ? (ptrdiff_t)p_.batch * p_.row_units : 0;
    p_.x = static_cast<const T*>(x), p_.c = static_cast<const T*>(carry), p_.h = p_.c + c;
    p_.last_c = static_cast<T*>(new_carry), p_.last_h = p_.y = p_.last_c + c;
    each_head(/*packs=*/false);
  }

 private:
  void each_head(bool packs) {
    for (int n = 0; n < heads_; n++) {
      kernels<T>().forward(head_of(p_, n, 0), alone(memory_.get() + n * size_, packs, !packs));
    }
  }

  static const T* copy(const T* from, int count, std::vector<T>& to) {
    if (!from) return nullptr;
    to.assign(from, from + count);
    return to.data();
  }

  Problem<T> p_;
  size_t size_;
  std::unique_ptr<char, decltype(&std::free)> memory_;
  int heads_;
  std::vector<T> bias_, recurrent_bias_, cell_param_;
};

template <class T>
Stream* make(int cell, int batch, int in_features, int hidden, int heads, const void* kernel, const void* bias,
             const void* recurrent_kernel, const void* recurrent_bias, const void* cell_param) {
  Problem<T> p{};
  p.cell = static_cast<Cell>(cell);
  p.time = 1, p.batch = batch, p.in_features = in_features;
  p.hidden = hidden / heads, p.row_units = hidden;
  p.kernel = static_cast<const T*>(kernel), p.bias = static_cast<const T*>(bias);
  p.x = p.kernel;  // any pointer but null, which would mean no inputs; packing does not read it
  p.recurrent_kernel = static_cast<const T*>(recurrent_kernel);
  p.recurrent_bias = static_cast<const T*>(recurrent_bias);
  p.cell_param = static_cast<const T*>(cell_param);
  auto stream = std::make_unique<StreamOf<T>>(p);
  return stream->has_memory() ? stream.release() : nullptr;
}

// A cell that is a program.
template <class T>
class ProgramStreamOf : public Stream {
 public:
  // Copies all arrays that `p` points to.
  explicit ProgramStreamOf(const ProgramProblem<T>& p) : p_(p), memory_(nullptr, std::free) {
    const ProgramCode& code = p.code;
    operands_.assign(code.operands, code.operands + code.operand_count);
    instructions_.assign(code.instructions, code.instructions + code.instruction_count);
    summed_.assign(p.summed, p.summed + p.gates);
    p_.code.operands = operands_.data(), p_.code.instructions = instructions_.data(), p_.summed = summed_.data();
    carry_.resize(p.carries), last_carry_.resize(p.carries);
    p_.carry = carry_.data(), p_.last_carry = last_carry_.data();
    size_ = (program_kernels<T>().workspace(p_, false, 1) + 63) / 64 * 64;
    memory_.reset(static_cast<char*>(std::aligned_alloc(64, size_ * heads())));
    if (memory_) each_head(/*packs=*/true);
  }

  bool has_memory() const { return memory_ != nullptr; }

  void step(const void* x, const void* carry, void* new_carry) override {
    const ptrdiff_t part = (ptrdiff_t)p_.batch * p_.row_units;
    for (int i = 0; i < p_.carries; i++) {
      carry_[i] = static_cast<const T*>(carry) + i * part;
      last_carry_[i] = static_cast<T*>(new_carry) + i * part;
    }
    p_.x = static_cast<const T*>(x), p_.y = static_cast<T*>(new_carry) + p_.carries * part;
    each_head(/*packs=*/false);
  }

 private:
  int heads() const { return p_.row_units / p_.hidden; }

  void each_head(bool packs) {
    const auto forward = program_kernels<T>().forward;
    if (heads() == 1) return forward(p_, alone(memory_.get(), packs, !packs));
    for (int n = 0; n < heads(); n++) {
      forward(ProgramOfHead<T>(p_, n, 0).problem, alone(memory_.get() + n * size_, packs, !packs));
    }
  }

  ProgramProblem<T> p_;
  std::vector<OperandName> operands_;
  std::vector<Instruction> instructions_;
  std::vector<int64_t> summed_;
  std::vector<const T*> carry_;
  std::vector<T*> last_carry_;
  size_t size_;
  std::unique_ptr<char, decltype(&std::free)> memory_;
};

template <class T>
Stream* make_program(const ProgramNumbers& numbers, int derived_count, const void* kernel, const void* bias,
                     const void* recurrent_kernel, const void* recurrent_bias, const void* derived) {
  auto p = program_problem<T>(numbers);
  p.kernel = static_cast<const T*>(kernel), p.bias = static_cast<const T*>(bias);
  p.x = p.kernel;  // as above
  p.recurrent_kernel = static_cast<const T*>(recurrent_kernel);
  p.recurrent_bias = static_cast<const T*>(recurrent_bias);
  p.derived = static_cast<const T*>(derived), p.derived_count = derived_count;
  auto stream = std::make_unique<ProgramStreamOf<T>>(p);
  return stream->has_memory() ? stream.release() : nullptr;
}

}  // namespace
}  // namespace jaxrnn

#pragma GCC visibility push(default)

// Returns null if there is not enough memory. Arrays are as in Problem: float, or double with `wide`. All but the
// kernels may be null.
extern "C" void* jaxrnn_stream(int wide, int cell, int batch, int in_features, int hidden, int heads,
                               const void* kernel, const void* bias, const void* recurrent_kernel, const void* recurrent_bias,
                               const void* cell_param) {
  return (wide ? jaxrnn::make<double> : jaxrnn::make<float>)(cell, batch, in_features, hidden, heads, kernel, bias,
                                                             recurrent_kernel, recurrent_bias, cell_param);
}

// As jaxrnn_stream for a cell that is a program, whose numbers are as in ProgramNumbers.
extern "C" void* jaxrnn_program_stream(int wide, const int64_t* sizes, const int64_t* program, const int64_t* summed,
                                       const double* constants, int constant_count, int carries, int derived_count,
                                       const void* kernel, const void* bias, const void* recurrent_kernel,
                                       const void* recurrent_bias, const void* derived) {
  const jaxrnn::ProgramNumbers numbers{sizes, program, summed, nullptr, nullptr, constants, constant_count, carries};
  return (wide ? jaxrnn::make_program<double> : jaxrnn::make_program<float>)(numbers, derived_count, kernel, bias,
                                                                             recurrent_kernel, recurrent_bias, derived);
}

extern "C" void jaxrnn_stream_step(void* stream, const void* x, const void* carry, void* new_carry) {
  static_cast<jaxrnn::Stream*>(stream)->step(x, carry, new_carry);
}

extern "C" void jaxrnn_stream_free(void* stream) { delete static_cast<jaxrnn::Stream*>(stream); }

#pragma GCC visibility pop
