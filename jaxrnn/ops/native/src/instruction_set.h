// Chooses the best code for this processor at run time.

#pragma once

#include <cstdlib>
#include <string>

#if defined(JAXRNN_HAS_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "program_problem.h"
#include "recurrence.h"

namespace jaxrnn {

// Best first. JAXRNN_HAS_AVX512, JAXRNN_HAS_AVX2 and JAXRNN_HAS_BASE say for which the library was compiled: for all of
// them, or for the best one of the processor that it was built on.
enum class Set { kAVX512, kAVX2, kBase, kNone };

inline Set find_best_set() {
  // Lets tests run the code for an older instruction set than this processor's best.
  const char* wanted = std::getenv("JAXRNN_INSTRUCTION_SET");
  const std::string limit = wanted ? wanted : "";
#if defined(JAXRNN_X86)
  __builtin_cpu_init();
  [[maybe_unused]] const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#if defined(JAXRNN_HAS_AVX512)
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  if (avx512 && limit != "avx2" && limit != "base") return Set::kAVX512;
#endif
#if defined(JAXRNN_HAS_AVX2)
  if (avx2 && limit != "base") return Set::kAVX2;
#endif
#endif
#if defined(JAXRNN_HAS_BASE)
  return Set::kBase;
#else
  return Set::kNone;  // Python does not use the library then
#endif
}

inline Set best_set() {
  static const Set set = find_best_set();
  return set;
}

// Whether products of bfloat16 run in the tile registers of AMX, in which case the system has been asked for them.
inline bool find_tiles() {
#if defined(JAXRNN_HAS_AMX)
  const char* limit = std::getenv("JAXRNN_INSTRUCTION_SET");
  if (best_set() != Set::kAVX512 || (limit && *limit)) return false;
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kOfTiles = 1u << 22 | 1u << 24, kRounds = 1u << 5;  // AMX-BF16 and AMX-TILE; AVX512-BF16
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kOfTiles) != kOfTiles) return false;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & kRounds)) return false;
  constexpr int kAskForState = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kAskForState, kTileData) == 0;
#else
  return false;
#endif
}

inline bool has_tiles() {
  static const bool has = find_tiles();
  return has;
}

#if defined(JAXRNN_HAS_AVX512)
#define JAXRNN_IF_AVX512(...) __VA_ARGS__
#else
#define JAXRNN_IF_AVX512(...)
#endif
#if defined(JAXRNN_HAS_AVX2)
#define JAXRNN_IF_AVX2(...) __VA_ARGS__
#else
#define JAXRNN_IF_AVX2(...)
#endif
#if defined(JAXRNN_HAS_BASE)
#define JAXRNN_IF_BASE(...) __VA_ARGS__
#else
#define JAXRNN_IF_BASE(...)
#endif

// Returns what every instruction set has under this name from the best one.
#define JAXRNN_RETURN_BEST(name)                                                            \
  do {                                                                                      \
    JAXRNN_IF_AVX512(if (::jaxrnn::best_set() == Set::kAVX512) return avx512::name;)        \
    JAXRNN_IF_AVX2(if (::jaxrnn::best_set() == Set::kAVX2) return avx2::name;)              \
    JAXRNN_IF_BASE(return base::name;)                                                      \
    std::abort();                                                                           \
  } while (false)

template <class T>
const Kernels<T>& kernels() {
  if constexpr (sizeof(T) == 4) JAXRNN_RETURN_BEST(kernels_f32);
  if constexpr (sizeof(T) == 8) JAXRNN_RETURN_BEST(kernels_f64);
}

// With `bfloat16`, products are of these, where the processor has tiles for them.
template <class T>
const ProgramKernels<T>& program_kernels([[maybe_unused]] bool bfloat16 = false) {
#if defined(JAXRNN_HAS_AMX)
  if constexpr (sizeof(T) == 4) {
    if (bfloat16 && has_tiles()) return amx::program_kernels_f32;
  }
#endif
  if constexpr (sizeof(T) == 4) JAXRNN_RETURN_BEST(program_kernels_f32);
  if constexpr (sizeof(T) == 8) JAXRNN_RETURN_BEST(program_kernels_f64);
}

}  // namespace jaxrnn
