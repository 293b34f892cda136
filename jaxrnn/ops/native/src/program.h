// The instructions of programs, and their interpreter.
//
// A program computes on blocks of numbers, [rows, units], which stay in the cache of level 1. Every instruction is one
// operation on whole blocks. So interpreting costs little, and loops over one transcendental function have independent
// iterations, which makes them faster than all equations of a cell in one loop.

#pragma once

#include "functions.h"
#include "program_problem.h"

namespace jaxrnn::JAXRNN_ISA {

// The operations, in the order of OPERATIONS in jaxrnn/ops/native/encoding.py: the name, the number of arguments, how
// many vectors are computed at once, and the result for the arguments a, b and c.
#define JAXRNN_OPERATIONS(X)                                                       \
  X(copy, 1, 4, a)                                                                 \
  X(add, 2, 4, a + b)                                                              \
  X(sub, 2, 4, a - b)                                                              \
  X(mul, 2, 4, a * b)                                                              \
  X(div, 2, 4, a / b)                                                              \
  X(neg, 1, 4, -a)                                                                 \
  X(max, 2, 4, max_vector<T>(a, b))                                                \
  X(min, 2, 4, min_vector<T>(a, b))                                                \
  X(abs, 1, 4, (a < T(0) ? -a : a + T(0)))                                         \
  X(sign, 1, 4, sign_vector<T>(a))                                                 \
  X(fma, 3, 4, a * b + c)                                                          \
  X(fms, 3, 4, a * b - c)                                                          \
  X(fnma, 3, 4, c - a * b)                                                         \
  X(mul_sub, 3, 4, a * (b - c))                                                    \
  X(mul3, 3, 4, a * b * c)                                                         \
  X(tanh, 1, 2, tanh_vector<T>(a))                                                 \
  X(logistic, 1, 2, logistic_vector<T>(a))                                         \
  X(exp, 1, 2, exp_vector<T>(a))                                                   \
  X(log, 1, 2, log_vector<T>(a))                                                   \
  X(log1p, 1, 2, log1p_vector<T>(a))                                               \
  X(expm1, 1, 2, expm1_vector<T>(a))                                               \
  X(sqrt, 1, 4, sqrt_vector(a))                                                    \
  X(rsqrt, 1, 4, T(1) / sqrt_vector(a))                                            \
  X(pow, 2, 1, pow_vector<T>(a, b))                                                \
  X(erf, 1, 1, by_lane<T>(a, [](T x) { return std::erf(x); }))                     \
  X(erfc, 1, 1, by_lane<T>(a, [](T x) { return std::erfc(x); }))                   \
  X(sin, 1, 1, by_lane<T>(a, [](T x) { return std::sin(x); }))                     \
  X(cos, 1, 1, by_lane<T>(a, [](T x) { return std::cos(x); }))                     \
  X(floor, 1, 1, by_lane<T>(a, [](T x) { return std::floor(x); }))                 \
  X(ceil, 1, 1, by_lane<T>(a, [](T x) { return std::ceil(x); }))                   \
  X(round, 1, 1, by_lane<T>(a, [](T x) { return std::round(x); }))                 \
  X(round_to_even, 1, 1, by_lane<T>(a, [](T x) { return std::nearbyint(x); }))     \
  X(eq, 2, 4, truth<T>(a == b))                                                    \
  X(ne, 2, 4, truth<T>(a != b))                                                    \
  X(lt, 2, 4, truth<T>(a < b))                                                     \
  X(le, 2, 4, truth<T>(a <= b))                                                    \
  X(gt, 2, 4, truth<T>(a > b))                                                     \
  X(ge, 2, 4, truth<T>(a >= b))                                                    \
  X(logical_and, 2, 4, truth<T>((a != T(0)) & (b != T(0))))                                \
  X(logical_or, 2, 4, truth<T>((a != T(0)) | (b != T(0))))                                 \
  X(logical_xor, 2, 4, truth<T>((a != T(0)) ^ (b != T(0))))                                \
  X(is_finite, 1, 4, truth<T>((a - a) == T(0)))                                    \
  X(select, 3, 4, (a != T(0) ? c : b))

template <class T>
INLINE Vector<T> pow_vector(Vector<T> a, Vector<T> b) {
  for (int i = 0; i < kLanes<T>; i++) a[i] = std::pow(a[i], b[i]);
  return a;
}

// A block: from one row to the next, and from one vector of a row to the next. A step of 0 is a number of the row, or
// with a row of 0 a constant.
template <class T>
struct Operand {
  T* base = nullptr;
  ptrdiff_t row = 0;
  int step = 0;
};

template <class T>
using Run = void (*)(const Operand<T>& result, const Operand<T>& a, const Operand<T>& b, const Operand<T>& c, int rows,
                     int vectors);

// result = f(a, b, c) for every vector. The result may be one of the arguments.
template <class T, int kAtOnce, class F>
INLINE void each_vector(const Operand<T>& result, const Operand<T>& a, const Operand<T>& b, const Operand<T>& c,
                        int rows, int vectors, F f) {
  constexpr int L = kLanes<T>;
  for (int r = 0; r < rows; r++) {
    const T *pa = a.base + r * a.row, *pb = b.base + r * b.row, *pc = c.base + r * c.row;
    T* to = result.base + r * result.row;
    const ptrdiff_t sa = a.step, sb = b.step, sc = c.step;
    int v = 0;
    for (; v + kAtOnce <= vectors; v += kAtOnce) {
      Vector<T> out[kAtOnce];
#pragma GCC unroll 4
      for (int u = 0; u < kAtOnce; u++) out[u] = f(pa + u * sa, pb + u * sb, pc + u * sc);
#pragma GCC unroll 4
      for (int u = 0; u < kAtOnce; u++) store<T>(to + u * L, out[u]);
      pa += kAtOnce * sa, pb += kAtOnce * sb, pc += kAtOnce * sc, to += kAtOnce * L;
    }
    for (; v < vectors; v++) {
      store<T>(to, f(pa, pb, pc));
      pa += sa, pb += sb, pc += sc, to += L;
    }
  }
}

#define JAXRNN_FUNCTION(name, arguments, at_once, expression)                                                        \
  template <class T>                                                                                                 \
  void run_##name(const Operand<T>& result, const Operand<T>& x, const Operand<T>& y, const Operand<T>& z, int rows, \
                  int vectors) {                                                                                     \
    auto f = [](const T* pa, const T* pb, const T* pc) __attribute__((always_inline)) {                              \
      [[maybe_unused]] const Vector<T> a = load(pa);                                                                 \
      [[maybe_unused]] const Vector<T> b = arguments > 1 ? load(pb) : Vector<T>{};                                   \
      [[maybe_unused]] const Vector<T> c = arguments > 2 ? load(pc) : Vector<T>{};                                   \
      return Vector<T>(expression);                                                                                  \
    };                                                                                                               \
    each_vector<T, at_once>(result, x, y, z, rows, vectors, f);                                                      \
  }
JAXRNN_OPERATIONS(JAXRNN_FUNCTION)
#undef JAXRNN_FUNCTION

#define JAXRNN_ENTRY(name, arguments, at_once, expression) run_##name<T>,
template <class T>
constexpr Run<T> kFunctions[] = {JAXRNN_OPERATIONS(JAXRNN_ENTRY)};
#undef JAXRNN_ENTRY

// The operations that follow those, over the units of a row.
enum Reduction { kRowSum, kRowMax, kRowMin };
constexpr int kFirstReduction = sizeof(kFunctions<float>) / sizeof(kFunctions<float>[0]);

template <class T>
INLINE T reduced(int reduction, T a, T b) {
  if (reduction == kRowSum) return a + b;
  return (reduction == kRowMax ? a > b : a < b) || a != a ? a : b;
}

template <class T>
void reduce(int reduction, const Operand<T>& result, const Operand<T>& a, int rows, int hidden) {
  constexpr int L = kLanes<T>;
  const T start = reduction == kRowSum ? T(0) : reduction == kRowMax ? -kInfinity<T> : kInfinity<T>;
  for (int r = 0; r < rows; r++) {
    const T* from = a.base + r * a.row;
    Vector<T> total = broadcast(start);
    int j = 0;
    for (; j + L <= hidden; j += L, from += a.step) {
      const Vector<T> v = load(from);
      total = reduction == kRowSum ? total + v : reduction == kRowMax ? max_vector<T>(total, v) : min_vector<T>(total, v);
    }
    T all = start;
    for (int i = 0; i < L; i++) all = reduced(reduction, all, total[i]);
    for (; j < hidden; j++, from++) all = reduced(reduction, all, *from);
    store<T>(result.base + r * result.row, broadcast(all));
  }
}

template <class T>
void run_program(const ProgramCode& code, const Operand<T>* operands, int rows, int vectors, int hidden) {
  const ptrdiff_t pitch = vectors * kLanes<T>;
  // Rows that follow each other without a gap are one long row.
  auto is_flat = [&](const Operand<T>& o) {
    return rows == 1 || (o.step ? o.row == pitch : o.row == 0);
  };
  for (int i = 0; i < code.instruction_count; i++) {
    const Instruction& at = code.instructions[i];
    const Operand<T>&result = operands[at.result], &a = operands[at.a], &b = operands[at.b], &c = operands[at.c];
    if (at.operation >= kFirstReduction) {
      reduce((int)at.operation - kFirstReduction, result, a, rows, hidden);
    } else if (at.per_row) {
      kFunctions<T>[at.operation](result, a, b, c, rows, 1);
    } else if (is_flat(result) && is_flat(a) && is_flat(b) && is_flat(c)) {
      kFunctions<T>[at.operation](result, a, b, c, 1, rows * vectors);
    } else {
      kFunctions<T>[at.operation](result, a, b, c, rows, vectors);
    }
  }
}

}  // namespace jaxrnn::JAXRNN_ISA
