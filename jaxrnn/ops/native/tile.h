// The matrix product that everything rests on: a tile of rows times a panel of packed columns, in registers.
//
//     out[m][n] = sum over segments, over k:  a[m][k] * b[k][n]        m < M rows, n < N vectors
//
// A panel holds N vectors for every k, one k after the other, so that it is read in order. A tile of M x N
// accumulators needs one load per vector of b and one broadcast per row of a for M * N multiply-adds.

#pragma once

#include <cstddef>

#include "vector.h"

namespace jaxrnn::JAXRNN_ISA {

// Rows in a tile of N vectors, so that accumulators, a panel's vectors and one broadcast fill the registers.
#if defined(__AVX512F__)
constexpr int kRows[5] = {0, 12, 12, 8, 6};  // of 32 registers
#else
constexpr int kRows[5] = {0, 6, 6, 4, 3};  // of 16 registers
#endif
constexpr int kMaxRows = kRows[1];

// One product that is added into a tile: `depth` columns of a, and as many rows of the panel b.
template <class T>
struct Segment {
  const T* a;
  ptrdiff_t row;  // from one row of a to the next; unused where a is packed as [k][kRows[4]]
  const T* b;
  int depth;
};

template <class T, int M, int N, bool kPacked>
void tile(const Segment<T>* segments, int count, T* out) {
  constexpr int L = kLanes<T>;
  // Few accumulators would wait for each other: several sets take the ks in turn.
  constexpr int kSets = M * N >= 8 ? 1 : (M * N >= 4 ? 2 : 4);
  Vector<T> sums[kSets][M][N];
#pragma GCC unroll 4
  for (int s = 0; s < kSets; s++)
#pragma GCC unroll 12
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) sums[s][m][n] = Vector<T>{};
  for (int i = 0; i < count; i++) {
    const T* a = segments[i].a;
    const T* b = segments[i].b;
    const ptrdiff_t row = segments[i].row;
    const int depth = segments[i].depth;
    int k = 0;
    for (; k + kSets <= depth; k += kSets) {
#pragma GCC unroll 4
      for (int s = 0; s < kSets; s++) {
        Vector<T> columns[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) columns[n] = load(b + ((k + s) * N + n) * L);
#pragma GCC unroll 12
        for (int m = 0; m < M; m++) {
          const T left = kPacked ? a[(k + s) * kRows[4] + m] : a[m * row + k + s];
#pragma GCC unroll 4
          for (int n = 0; n < N; n++) sums[s][m][n] += left * columns[n];
        }
      }
    }
    for (; k < depth; k++) {
#pragma GCC unroll 12
      for (int m = 0; m < M; m++) {
        const T left = kPacked ? a[k * kRows[4] + m] : a[m * row + k];
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) sums[0][m][n] += left * load(b + (k * N + n) * L);
      }
    }
  }
#pragma GCC unroll 12
  for (int m = 0; m < M; m++) {
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
      Vector<T> sum = sums[0][m][n];
#pragma GCC unroll 4
      for (int s = 1; s < kSets; s++) sum += sums[s][m][n];
      store<T>(out + (m * N + n) * L, sum);
    }
  }
}

template <class T>
using Tile = void (*)(const Segment<T>*, int, T*);

template <class T, int N, bool kPacked, int M = kRows[N]>
INLINE Tile<T> tile_of(int rows) {
  if constexpr (M == 1) {
    return tile<T, 1, N, kPacked>;
  } else {
    return rows == M ? tile<T, M, N, kPacked> : tile_of<T, N, kPacked, M - 1>(rows);
  }
}

// The tile function for so many rows (1 to kRows[vectors]) of so many vectors (1 to 4).
template <class T, bool kPacked>
Tile<T> tile_of(int rows, int vectors) {
  switch (vectors) {
    case 1: return tile_of<T, 1, kPacked>(rows);
    case 2: return tile_of<T, 2, kPacked>(rows);
    case 3: return tile_of<T, 3, kPacked>(rows);
    default: return tile_of<T, 4, kPacked>(rows);
  }
}

}  // namespace jaxrnn::JAXRNN_ISA
