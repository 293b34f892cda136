// Matrix products of int8 weights with activations that are rounded to 16 bits.
//
// A row of activations is multiplied by a scale and rounded to integers of at most 16 bits, so small that no sum of
// products can overflow 32 bits. So every sum is exact, and its bits do not depend on the order of the additions, the
// instruction set or the batch. The activations' rounding (2^-16 of a row's largest value for up to 516 inputs, and
// 2^-13 for 4128) is small beside that of the weights (2^-8).

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "vector.h"

namespace jaxrnn::JAXRNN_ISA {

using Ints = Types<float>::Integers;
typedef int16_t Shorts __attribute__((vector_size(kVectorBytes)));
typedef int16_t HalfShorts __attribute__((vector_size(kVectorBytes / 2)));

// Half a vector of int8, as int16.
INLINE Shorts widen(const int8_t* from) {
#if defined(__AVX512BW__)
  return (Shorts)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)from));
#elif defined(__AVX2__)
  return (Shorts)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)from));
#else
  Shorts wide;
  for (int i = 0; i < kVectorBytes / 2; i++) wide[i] = from[i];
  return wide;
#endif
}

// sum[i] + w[2 i] a[2 i] + w[2 i + 1] a[2 i + 1].
INLINE Ints add_products(Ints sum, Shorts w, Shorts a) {
#if defined(__AVX512VNNI__)
  return (Ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)w, (__m512i)a);
#elif defined(__AVX512BW__)
  return sum + (Ints)_mm512_madd_epi16((__m512i)w, (__m512i)a);
#elif defined(__AVX2__)
  return sum + (Ints)_mm256_madd_epi16((__m256i)w, (__m256i)a);
#else
  for (int i = 0; i < kVectorBytes / 4; i++) sum[i] += w[2 * i] * a[2 * i] + w[2 * i + 1] * a[2 * i + 1];
  return sum;
#endif
}

INLINE Shorts broadcast_pair(const int16_t* from) {
  int32_t pair;
  std::memcpy(&pair, from, sizeof pair);
  return (Shorts)(Ints{} + pair);
}

// The largest integer that activations may be rounded to, if `depth` of them are multiplied by weights up to 127.
inline int largest_activation(int depth) {
  const int64_t limit = INT32_MAX / (127 * (int64_t)depth);
  return limit < INT16_MAX ? (int)limit : INT16_MAX;
}

constexpr int padded(int depth) { return (depth + 1) / 2 * 2; }

// Rounds a row to integers, followed by a zero if its length is odd. Returns the scale that turns them back.
// A row with a NaN or an infinite value gets the scale NaN, so that its products are NaN.
inline float round_row(const float* row, int depth, int largest, int16_t* to) {
  constexpr int L = kLanes<float>;
  Vector<float> most{}, zero{};
  for (int k = 0; k < depth; k += L) {
    const Vector<float> v = load(row + k, depth - k), size = v < 0.0f ? -v : v;
    most = size > most ? size : most;
    zero += v * 0.0f;
  }
  float top = 0, nothing = 0;
  for (int i = 0; i < L; i++) top = most[i] > top ? most[i] : top, nothing += zero[i];
  const float inverse = top > 0 ? (float)largest / top : 0;
  for (int k = 0; k < depth; k += L) {
    const Vector<float> shifted = load(row + k, depth - k) * inverse + Types<float>::kMagic;
    Ints bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    const HalfShorts narrow = __builtin_convertvector(bits, HalfShorts);  // the low bits of `shifted`
    std::memcpy(to + k, &narrow, depth - k < L ? sizeof(int16_t) * (depth - k) : sizeof narrow);
  }
  if (depth % 2) to[depth] = 0;
  return top / (float)largest + nothing;
}

// out[m][n] = sum over k of a[m][k] * b[k][n], as float: m < M rows, n < N vectors. The panel b holds, for every pair
// of ks, N times half a vector of pairs. kSets: of accumulators, as in tile.h.
template <int M, int N, int kSets>
void tile_of_integers(const int16_t* a, ptrdiff_t row, const int8_t* b, int pairs, float* out) {
  constexpr int L = kLanes<float>, kHalf = kVectorBytes / 2;
  Ints sums[kSets][M][N];
#pragma GCC unroll 4
  for (int s = 0; s < kSets; s++)
#pragma GCC unroll 12
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) sums[s][m][n] = Ints{};
  auto add = [&](int s, int k) __attribute__((always_inline)) {
    Shorts left[M];
#pragma GCC unroll 12
    for (int m = 0; m < M; m++) left[m] = broadcast_pair(a + m * row + 2 * k);
    const int8_t* at = b + (ptrdiff_t)k * N * kHalf;
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
      const Shorts column = widen(at + n * kHalf);
#pragma GCC unroll 12
      for (int m = 0; m < M; m++) sums[s][m][n] = add_products(sums[s][m][n], column, left[m]);
    }
    __builtin_prefetch(at + 1024);
  };
  int k = 0;
  for (; k + kSets <= pairs; k += kSets) {
#pragma GCC unroll 4
    for (int s = 0; s < kSets; s++) add(s, k + s);
  }
  for (; k < pairs; k++) add(0, k);
#pragma GCC unroll 12
  for (int m = 0; m < M; m++) {
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
      Ints sum = sums[0][m][n];
#pragma GCC unroll 4
      for (int s = 1; s < kSets; s++) sum += sums[s][m][n];
      store<float>(out + (m * N + n) * L, __builtin_convertvector(sum, Vector<float>));
    }
  }
}

// Rows in a tile of N vectors of columns that are int16 already; 0 if it is never worth while to widen them first.
#if defined(__AVX2__) && !defined(__AVX512BW__)
constexpr int kWidenedRows[5] = {0, 6, 5, 3, 3};
#else
constexpr int kWidenedRows[5] = {};
#endif

// The product of a column in memory with a row: the accumulators of three rows and four vectors, the rows and this
// product just fit into the 16 registers if the columns are read from memory where they are multiplied. A compiler
// would load each once, and has no register for it.
INLINE Shorts madd_from_memory(const Shorts* column, Shorts row) {
#if defined(__AVX2__) && !defined(__AVX512BW__)
  __m256i product;
  asm("vpmaddwd %1, %2, %0" : "=x"(product) : "m"(*(const __m256i*)column), "x"((__m256i)row));
  return (Shorts)product;
#else
  return *column * row;  // never called
#endif
}

// As tile_of_integers, for a panel of columns as int16.
template <int M, int N>
void tile_of_shorts(const int16_t* a, ptrdiff_t row, const Shorts* b, int pairs, float* out) {
  constexpr int L = kLanes<float>;
  Ints sums[M][N];
#pragma GCC unroll 12
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) sums[m][n] = Ints{};
  for (int k = 0; k < pairs; k++, b += N) {
    Shorts left[M];
#pragma GCC unroll 12
    for (int m = 0; m < M; m++) left[m] = broadcast_pair(a + m * row + 2 * k);
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
#pragma GCC unroll 12
      for (int m = 0; m < M; m++) sums[m][n] += (Ints)madd_from_memory(b + n, left[m]);
    }
  }
#pragma GCC unroll 12
  for (int m = 0; m < M; m++) {
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) store<float>(out + (m * N + n) * L, __builtin_convertvector(sums[m][n], Vector<float>));
  }
}

}  // namespace jaxrnn::JAXRNN_ISA
