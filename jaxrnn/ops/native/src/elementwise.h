// A program on whole arrays, element by element. See program_problem.h.

#pragma once

#include "program.h"

namespace jaxrnn::JAXRNN_ISA {

constexpr int kElements = 512;  // of each array at once: a dozen arrays of them stay in the cache of level 1

template <class T>
void elementwise(const Elementwise<T>& e, int64_t begin, int64_t end) {
  if (e.condition >= 0 && e.numbers[e.condition] == T(0)) {
    for (int i = 0; i < e.result_count; i++) {
      const T* from = e.arrays[e.otherwise[i]];
      if (from != e.results[i]) std::copy(from + begin, from + end, e.results[i] + begin);
    }
    return;
  }
  constexpr int L = kLanes<T>;
  const int operands = e.code.operand_count;
  // A block of every register, and one vector of everything else: a number that all elements share, or the last ones of
  // an array, which need not fill a vector.
  static thread_local std::vector<T> memory;
  static thread_local std::vector<Operand<T>> of;
  memory.resize(std::max(memory.size(), (size_t)e.registers * kElements + (size_t)operands * L));
  of.resize(std::max(of.size(), (size_t)operands));
  T* const vectors = memory.data() + (size_t)e.registers * kElements;
  auto array_of = [&](const OperandName& name) -> T* {
    if (name.place == Place::kArray) return const_cast<T*>(e.arrays[name.index]);  // which is only read
    return name.place == Place::kResult ? e.results[name.index] : nullptr;
  };
  for (int i = 0; i < operands; i++) {
    const OperandName name = e.code.operands[i];
    T* const vector = vectors + (size_t)i * L;
    if (name.place == Place::kRegister) {
      of[i] = {memory.data() + name.index * kElements, 0, L};
    } else if (T* array = array_of(name)) {
      of[i] = {array + begin, 0, L};
    } else {
      of[i] = {vector, 0, 0};
      store<T>(vector, broadcast(name.place == Place::kNumber ? e.numbers[name.index] : (T)e.code.constants[name.index]));
    }
  }
  auto each_array = [&](auto&& body) {
    for (int i = 0; i < operands; i++) {
      if (array_of(e.code.operands[i])) body(of[i], e.code.operands[i].place, vectors + (size_t)i * L);
    }
  };
  const int64_t last = end - (end - begin) % L;
  for (int64_t at = begin; at < last; at += kElements) {
    const int count = (int)std::min<int64_t>(kElements, last - at);
    run_program(e.code, of.data(), /*rows=*/1, count / L, 0);
    each_array([&](Operand<T>& o, Place, T*) { o.base += count; });
  }
  if (const int left = (int)(end - last)) {
    each_array([&](Operand<T>& o, Place, T* vector) { std::copy_n(o.base, left, vector), o.base = vector; });
    run_program(e.code, of.data(), /*rows=*/1, 1, 0);
    for (int i = 0; i < operands; i++) {
      const OperandName name = e.code.operands[i];
      if (name.place == Place::kResult) std::copy_n(of[i].base, left, e.results[name.index] + last);
    }
  }
}

}  // namespace jaxrnn::JAXRNN_ISA
