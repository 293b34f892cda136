// Chooses the best code for this processor at run time.

#pragma once

#include <cstdlib>
#include <string>

#include "program_problem.h"
#include "recurrence.h"

namespace jaxrnn {

// The instruction sets that the library was compiled for, best first.
enum class Set { kAVX512, kAVX2, kBase };

inline Set best_set() {
  // Lets tests run the code for an older instruction set than this processor's best.
  const char* wanted = std::getenv("JAXRNN_INSTRUCTION_SET");
  const std::string limit = wanted ? wanted : "";
#if defined(JAXRNN_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  if (avx512 && limit != "avx2" && limit != "base") return Set::kAVX512;
  if (avx2 && limit != "base") return Set::kAVX2;
#endif
  return Set::kBase;
}

template <class KernelsType>
const KernelsType& choose(const KernelsType& avx512, const KernelsType& avx2, const KernelsType& base) {
  static const Set set = best_set();
  return set == Set::kAVX512 ? avx512 : set == Set::kAVX2 ? avx2 : base;
}

template <class T>
const Kernels<T>& kernels() {
#if defined(JAXRNN_X86)
  if constexpr (sizeof(T) == 4) return choose(avx512::kernels_f32, avx2::kernels_f32, base::kernels_f32);
  if constexpr (sizeof(T) == 8) return choose(avx512::kernels_f64, avx2::kernels_f64, base::kernels_f64);
#else
  if constexpr (sizeof(T) == 4) return base::kernels_f32;
  if constexpr (sizeof(T) == 8) return base::kernels_f64;
#endif
}

template <class T>
const ProgramKernels<T>& program_kernels() {
#if defined(JAXRNN_X86)
  if constexpr (sizeof(T) == 4) {
    return choose(avx512::program_kernels_f32, avx2::program_kernels_f32, base::program_kernels_f32);
  }
  if constexpr (sizeof(T) == 8) {
    return choose(avx512::program_kernels_f64, avx2::program_kernels_f64, base::program_kernels_f64);
  }
#else
  if constexpr (sizeof(T) == 4) return base::program_kernels_f32;
  if constexpr (sizeof(T) == 8) return base::program_kernels_f64;
#endif
}

}  // namespace jaxrnn
