// The matrix product that all loops use: a tile of rows times a panel of packed columns, in registers.
//
//     out[m][n] = sum over segments, over k:  a[m][k] * b[k][n]        m < M rows, n < N vectors
//
// to which `added[m][n]` is added if there is one. A panel holds N vectors for every k, in the order of k, so that it is
// read in order. For every k, a tile of M x N accumulators needs N vector loads of b and M broadcasts of a for M * N
// multiply-adds.

#pragma once

#include <cstddef>

#include "vector.h"

namespace jaxrnn::JAXRNN_ISA {

// Rows in a tile of N vectors. Accumulators, a panel's vectors and one broadcast then just fit into the registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRows[5] = {0, 12, 12, 8, 6};  // of 32 registers
#else
constexpr int kRows[5] = {0, 6, 6, 4, 3};  // of 16 registers
#endif

// A tile with few rows has few accumulators, and each addition would wait for the one before. So several sets of
// accumulators take the ks in turn: sets_of is their number, and most_vectors the largest number of vectors in a tile.
// The number of sets depends only on the batch size and the cell, so the bits of a result do not depend on the tile,
// the thread, the number of threads or the processor.
constexpr int sets_of(int batch) { return batch == 1 ? 4 : batch <= 3 ? 2 : 1; }
constexpr int kMostVectors = 4;
constexpr int most_vectors(int batch) { return batch == 1 ? 3 : kMostVectors; }

template <int kSets>
constexpr int rows_of_tile(int vectors) {
  return kSets == 1 ? kRows[vectors] : (kRows[vectors] + 1) / 2;
}

// One product that is added into a tile: `depth` columns of a, and as many rows of the panel b.
template <class T>
struct Segment {
  const T* a;
  ptrdiff_t row;  // from one row of a to the next
  const T* b;
  int depth;
  // How far ahead b is prefetched. Processors do this by themselves, but only to the end of a 4 KiB page.
  static constexpr int kAhead = 1024 / sizeof(T);

  INLINE const T* at(int k) const { return a + k; }
  template <int kWidth>
  INLINE const T* panel(int k) const {
    return b + (ptrdiff_t)k * kWidth;
  }
};

// The same for a transposed a: its column k begins at a + k * column.
template <class T>
struct Transposed {
  const T* a;
  ptrdiff_t column;
  const T* b;
  int depth;
  static constexpr ptrdiff_t row = 1;
  static constexpr int kAhead = 0;

  INLINE const T* at(int k) const { return a + k * column; }
  template <int kWidth>
  INLINE const T* panel(int k) const {
    return b + (ptrdiff_t)k * kWidth;
  }
};

// out and added have rows of N vectors, which begin `out_row` and `added_row` numbers after each other.
template <class T, int M, int N, int kSets, class SegmentType>
void tile(const SegmentType* segments, int count, T* out, ptrdiff_t out_row, const T* added, ptrdiff_t added_row) {
  constexpr int L = kLanes<T>;
  Vector<T> sums[kSets][M][N];
#pragma GCC unroll 4
  for (int s = 0; s < kSets; s++)
#pragma GCC unroll 12
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) sums[s][m][n] = Vector<T>{};
  for (int i = 0; i < count; i++) {
    const SegmentType segment = segments[i];
    const ptrdiff_t row = segment.row;
    const int depth = segment.depth;
    int k = 0;
    for (; k + kSets <= depth; k += kSets) {
#pragma GCC unroll 4
      for (int s = 0; s < kSets; s++) {
        const T* b = segment.template panel<N * L>(k + s);
        Vector<T> columns[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) columns[n] = load(b + n * L);
        if constexpr (SegmentType::kAhead > 0) {
#pragma GCC unroll 4
          for (int n = 0; n < N; n += 64 / kVectorBytes) __builtin_prefetch(b + n * L + SegmentType::kAhead);
        }
        const T* a = segment.at(k + s);
#pragma GCC unroll 12
        for (int m = 0; m < M; m++) {
          const T left = a[m * row];
#pragma GCC unroll 4
          for (int n = 0; n < N; n++) sums[s][m][n] += left * columns[n];
        }
      }
    }
    for (; k < depth; k++) {
      const T* a = segment.at(k);
      const T* b = segment.template panel<N * L>(k);
#pragma GCC unroll 12
      for (int m = 0; m < M; m++) {
        const T left = a[m * row];
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) sums[0][m][n] += left * load(b + n * L);
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
      if (added) sum += load(added + m * added_row + n * L);
      store<T>(out + m * out_row + n * L, sum);
    }
  }
}

template <class T, class SegmentType>
using Tile = void (*)(const SegmentType*, int, T*, ptrdiff_t, const T*, ptrdiff_t);

// The tile function for `rows` rows (1 to M).
template <class T, int N, int kSets, class SegmentType, int M = rows_of_tile<kSets>(N)>
INLINE Tile<T, SegmentType> tile_of(int rows) {
  if constexpr (M == 1) {
    return tile<T, 1, N, kSets, SegmentType>;
  } else {
    return rows == M ? tile<T, M, N, kSets, SegmentType> : tile_of<T, N, kSets, SegmentType, M - 1>(rows);
  }
}

// Divides rows begin to end into as few tiles of N vectors as possible, with nearly equal numbers of rows, and calls
// body(first row, rows, tile function) for each.
template <class T, int N, int kSets, class SegmentType, class Body>
INLINE void for_each_tile(int begin, int end, Body&& body) {
  constexpr int kMost = rows_of_tile<kSets>(N);
  const int rows = end - begin, tiles = (rows + kMost - 1) / kMost;
  if (tiles == 1) return body(begin, rows, tile_of<T, N, kSets, SegmentType>(rows));
  for (int i = 0, b = begin; i < tiles; i++) {
    const int next = begin + (int)((int64_t)rows * (i + 1) / tiles);
    body(b, next - b, tile_of<T, N, kSets, SegmentType>(next - b));
    b = next;
  }
}

template <class T, int N, class SegmentType = Segment<T>, class Body>
INLINE void for_each_tile(int sets, int begin, int end, Body&& body) {
  if (sets == 1) {
    for_each_tile<T, N, 1, SegmentType>(begin, end, body);
  } else if (sets == 2 || N > most_vectors(/*batch=*/1)) {  // with four vectors, more than two sets do not fit
    for_each_tile<T, N, 2, SegmentType>(begin, end, body);
  } else {
    for (int b = begin; b < end; b++) body(b, 1, tile<T, 1, N, 4, SegmentType>);
  }
}

// Rows of a product whose results, and the left side, stay in the cache of level 1: a multiple of the rows of all tiles.
constexpr int kMostRows = 48;

// Calls body(first row, rows) for groups of at most kMost rows.
template <int kMost = kMostRows, class Body>
INLINE void for_each_group(int begin, int end, Body&& body) {
  for (int b = begin; b < end; b += kMost) body(b, end - b < kMost ? end - b : kMost);
}

constexpr int kMostSegments = 32;

// The sum of the products of the segments, whose `a` are those of the first row, for many rows. Without an `out_row`,
// rows follow each other: out[row][vector][lane].
template <class T, int N>
INLINE void product(int sets, const Segment<T>* segments, int count, int rows, T* out,
                    ptrdiff_t out_row = N * kLanes<T>, const T* added = nullptr, ptrdiff_t added_row = 0) {
  Segment<T> moved[kMostSegments];
  for_each_tile<T, N>(sets, 0, rows, [&](int b, int, Tile<T, Segment<T>> tile) {
    if (b == 0) return tile(segments, count, out, out_row, added, added_row);
    for (int i = 0; i < count; i++) {
      moved[i] = segments[i];
      moved[i].a += b * moved[i].row;
    }
    tile(moved, count, out + b * out_row, out_row, added ? added + b * added_row : nullptr, added_row);
  });
}

// Calls body.template operator()<n>() with n = vectors, which is 1 to kMost, as a constant.
template <int kMost, class Body>
INLINE void with_vectors(int vectors, Body&& body) {
  if constexpr (kMost == 1) {
    body.template operator()<1>();
  } else {
    if (vectors == kMost) {
      body.template operator()<kMost>();
    } else {
      with_vectors<kMost - 1>(vectors, body);
    }
  }
}

}  // namespace jaxrnn::JAXRNN_ISA
