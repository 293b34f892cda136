// Products of bfloat16 whose sums are float32, in the tile registers of AMX. In files that are not compiled for it, this
// only names the types of float32's products.
//
//     out[m][n] = sum over segments, over k:  a[m][k] * b[k][n]        m < 16 or 32 rows, n < N vectors
//
// A tile register has 16 rows of 64 bytes: 16 rows of 32 ks of the left side; or 16 pairs of ks of 16 columns of the right
// side, [pair][column][2]; or 16 x 16 sums. Depths are filled up with zeros to multiples of 32. One instruction adds the
// products of 32 ks to 256 sums, in an order that does not depend on the number of rows.

#pragma once

#include <algorithm>

#include "tile.h"
#include "workspace.h"

namespace jaxrnn::JAXRNN_ISA {

#if !defined(JAXRNN_TILES)

template <class T>
using Side = T;  // the numbers on both sides of a product

constexpr bool kTiles = false;
constexpr int kRowsAtOnce = kMostRows;  // the most rows of a product
constexpr int kGroupRows = kMostRows;   // and of a group

INLINE int padded(int depth) { return depth; }
INLINE void prepare_tiles(int) {}
INLINE void release_tiles() {}

template <class T>
void pack_panel_transposed(const Panel& panel, const T* weights, int hidden, int depth, int gates, T* packed) {
  pack_panel_transposed(panel, weights, hidden, gates * depth, packed);
}

template <class T>
INLINE void copy_side(T* to, const T* from, const T* factors, int count) {
  for (int j = 0; j < count; j++) to[j] = from[j] * factors[j];
}

#else

using BFloat16 = uint16_t;  // its bits

template <class T>
using Side = BFloat16;

constexpr bool kTiles = true;
constexpr int kTileRows = 16, kTileDepth = 32, kTileSize = kTileRows * kTileDepth;
constexpr int kRowsAtOnce = 2 * kTileRows, kGroupRows = 2 * kRowsAtOnce;

INLINE int padded(int depth) { return (depth + kTileDepth - 1) / kTileDepth * kTileDepth; }

// The compiler does not know what the instructions of tiles read and write.
INLINE void memory_is_used() { __asm__ volatile("" ::: "memory"); }

// Of so many rows, how many are computed at once, and in the end those that are left.
INLINE int at_once(int rows) {
  const int times = (rows + kRowsAtOnce - 1) / kRowsAtOnce;
  return times == 1 ? rows : (rows + times - 1) / times;
}

// Sets the sizes of the tiles for products of so many rows. Registers 0 to 3 are sums, [2][2] tiles; 4 and 5 the left side;
// 6 and 7 the right side.
INLINE void prepare_tiles(int rows) {
  rows = at_once(rows);
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {};
  } sizes;
  const int first = std::min(rows, kTileRows), second = std::max(rows - kTileRows, 1);
  const int of_tile[8] = {first, first, second, second, first, second, kTileRows, kTileRows};
  for (int i = 0; i < 8; i++) sizes.rows[i] = (uint8_t)of_tile[i];
  memory_is_used();
  _tile_loadconfig(&sizes);
  memory_is_used();
}

INLINE void release_tiles() { _tile_release(); }

// The left side of a product in whole tiles, [block of 16 rows][block of 32 ks], and the right side as in Segment.
struct TiledSegment {
  const BFloat16 *a, *b;
  int depth;

  static constexpr ptrdiff_t row = kTileDepth, k_step = kTileSize;
  ptrdiff_t second_block() const { return (ptrdiff_t)depth / kTileDepth * kTileSize; }
};

INLINE const BFloat16* left_block(const Segment<BFloat16>& s, int block) { return s.a + block * kTileRows * s.row; }
INLINE const BFloat16* left_block(const TiledSegment& s, int block) { return s.a + block * s.second_block(); }
INLINE ptrdiff_t left_step(const Segment<BFloat16>&) { return kTileDepth; }
INLINE ptrdiff_t left_step(const TiledSegment&) { return TiledSegment::k_step; }

// kM x kN tiles of sums. `b_row` is the number of columns of the panel, of which `column` is the first one.
template <int kM, int kN, class SegmentType>
INLINE void sum_tiles(const SegmentType* segments, int count, int b_row, int column, float* out, ptrdiff_t out_row,
                  const float* added, ptrdiff_t added_row) {
  memory_is_used();
  const ptrdiff_t added_bytes = added_row * sizeof(float), out_bytes = out_row * sizeof(float);
  if (added) {
    _tile_loadd(0, added, added_bytes);
    if constexpr (kN > 1) _tile_loadd(1, added + kTileRows, added_bytes);
    if constexpr (kM > 1) _tile_loadd(2, added + kTileRows * added_row, added_bytes);
    if constexpr (kM > 1 && kN > 1) _tile_loadd(3, added + kTileRows * added_row + kTileRows, added_bytes);
  } else {
    _tile_zero(0);
    if constexpr (kN > 1) _tile_zero(1);
    if constexpr (kM > 1) _tile_zero(2);
    if constexpr (kM > 1 && kN > 1) _tile_zero(3);
  }
  const ptrdiff_t b_bytes = 2 * b_row * sizeof(BFloat16);
  for (int i = 0; i < count; i++) {
    const SegmentType& s = segments[i];
    const BFloat16 *first = left_block(s, 0), *second = left_block(s, 1), *b = s.b + 2 * column;
    const ptrdiff_t a_bytes = s.row * sizeof(BFloat16), a_step = left_step(s);
    for (int k = 0; k < s.depth; k += kTileDepth) {
      _tile_loadd(6, b, b_bytes);
      if constexpr (kN > 1) _tile_loadd(7, b + 2 * kTileRows, b_bytes);
      _tile_loadd(4, first, a_bytes);
      if constexpr (kM > 1) _tile_loadd(5, second, a_bytes);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (kN > 1) _tile_dpbf16ps(1, 4, 7);
      if constexpr (kM > 1) _tile_dpbf16ps(2, 5, 6);
      if constexpr (kM > 1 && kN > 1) _tile_dpbf16ps(3, 5, 7);
      first += a_step, second += a_step, b += kTileDepth * b_row;
    }
  }
  _tile_stored(0, out, out_bytes);
  if constexpr (kN > 1) _tile_stored(1, out + kTileRows, out_bytes);
  if constexpr (kM > 1) _tile_stored(2, out + kTileRows * out_row, out_bytes);
  if constexpr (kM > 1 && kN > 1) _tile_stored(3, out + kTileRows * out_row + kTileRows, out_bytes);
  memory_is_used();
}

// As the product of float32, of at most kRowsAtOnce rows; the tiles must be prepared for them.
template <int N, class SegmentType>
INLINE void product_of_tiles(const SegmentType* segments, int count, int rows, float* out, ptrdiff_t out_row,
                             const float* added, ptrdiff_t added_row) {
  constexpr int L = kLanes<float>;
  static_assert(L == kTileRows);
#pragma GCC unroll 2
  for (int n = 0; n < N; n += 2) {
    const float* from = added ? added + n * L : nullptr;
    auto run = [&]<int kM, int kN>() __attribute__((always_inline)) {
      sum_tiles<kM, kN>(segments, count, N * L, n * L, out + n * L, out_row, from, added_row);
    };
    if (N - n > 1) {
      rows > kTileRows ? run.template operator()<2, 2>() : run.template operator()<1, 2>();
    } else {
      rows > kTileRows ? run.template operator()<2, 1>() : run.template operator()<1, 1>();
    }
  }
}

template <class T, int N>
INLINE void product(int, const Segment<BFloat16>* segments, int count, int rows, T* out,
                    ptrdiff_t out_row = N * kLanes<T>, const T* added = nullptr, ptrdiff_t added_row = 0) {
  const int size = at_once(rows);
  if (size == rows) return product_of_tiles<N>(segments, count, rows, out, out_row, added, added_row);
  Segment<BFloat16> moved[kMostSegments];
  for (int m = 0; m < rows; m += size) {
    const int left = std::min(size, rows - m);
    for (int i = 0; i < count; i++) moved[i] = segments[i], moved[i].a += m * moved[i].row;
    if (left != size) prepare_tiles(left);
    const T* from = added ? added + m * added_row : nullptr;
    product_of_tiles<N>(moved, count, left, out + m * out_row, out_row, from, added_row);
    if (left != size) prepare_tiles(size);
  }
}

// Of every column the two numbers, rounded to bfloat16, beside each other.
INLINE __m512i pairs(Vector<float> even, Vector<float> odd) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)even));
  const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)odd));
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

INLINE void store_pairs(BFloat16* to, __m512i v) { _mm512_storeu_si512(to, v); }

// Rounds numbers to bfloat16, and fills up with zeros to `size`, a multiple of 16.
INLINE void round_row(const float* from, int count, BFloat16* to, int size) {
  for (int j = 0; j < size; j += 16) {
    const Vector<float> v = j < count ? load(from + j, count - j) : Vector<float>{};
    _mm256_storeu_si256((__m256i*)(to + j), (__m256i)_mm512_cvtneps_pbh((__m512)v));
  }
}

// Where the numbers of two rows go when blocks of 1, 2, 4 or 8 numbers beside the diagonal change places.
struct Moves {
  alignas(64) int32_t low[4][16], high[4][16];
};
constexpr Moves kMoves = [] {
  Moves moves{};
  for (int n = 0; n < 4; n++) {
    for (int i = 0, size = 1 << n; i < 16; i++) {
      moves.low[n][i] = i & size ? 16 + i - size : i;
      moves.high[n][i] = i & size ? 16 + i : i + size;
    }
  }
  return moves;
}();

// The same of one row of the left side, of numbers or numbers times factors.
template <class T>
INLINE void copy_side(BFloat16* to, const T* from, const T* factors, int count) {
  if (!factors) return round_row(from, count, to, padded(count));
  for (int j = 0; j < padded(count); j += 16) {
    const Vector<T> v = j < count ? load(from + j, count - j) * load(factors + j, count - j) : Vector<T>{};
    _mm256_storeu_si256((__m256i*)(to + j), (__m256i)_mm512_cvtneps_pbh((__m512)v));
  }
}

// The transpose of 16 x 16 pairs.
INLINE void transpose(__m512i rows[16]) {
#pragma GCC unroll 4
  for (int n = 0; n < 4; n++) {
    const int size = 1 << n;
    const __m512i of_low = _mm512_load_si512(kMoves.low[n]), of_high = _mm512_load_si512(kMoves.high[n]);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
      if (i & size) continue;
      const __m512i a = rows[i], b = rows[i + size];
      rows[i] = _mm512_permutex2var_epi32(a, of_low, b);
      rows[i + size] = _mm512_permutex2var_epi32(a, of_high, b);
    }
  }
}

// As in workspace.h, for one gate: the order in which product() reads them.
inline void pack_panel(const Panel& panel, const float* weights, int depth, int, int hidden, int row_units, int blocks,
                       BFloat16* packed) {
  constexpr int L = kLanes<float>;
  BFloat16* to = packed + (ptrdiff_t)panel.first * L * padded(depth);
  for (int k = 0; k < padded(depth); k += 2) {
    for (int u = 0; u < panel.vectors; u++, to += 2 * L) {
      const int unit = (panel.first + u) * L;
      auto row = [&](int k) {
        return k < depth ? load(weights + (ptrdiff_t)k * blocks * row_units + unit, hidden - unit) : Vector<float>{};
      };
      store_pairs(to, pairs(row(k), row(k + 1)));
    }
  }
}

// The same for the transpose of `weights [hidden, gates * depth]`, one gate after the other.
inline void pack_panel_transposed(const Panel& panel, const float* weights, int hidden, int depth, int gates,
                                  BFloat16* packed) {
  constexpr int L = kLanes<float>;
  BFloat16* to = packed + (ptrdiff_t)panel.first * L * padded(depth) * gates;
  for (int g = 0; g < gates; g++) {
    for (int k = 0; k < padded(depth); k += kTileDepth, to += (ptrdiff_t)kTileDepth * panel.vectors * L) {
      for (int u = 0; u < panel.vectors; u++) {
        __m512i rows[kTileRows];
        for (int i = 0; i < kTileRows; i++) {
          const int unit = (panel.first + u) * L + i;
          const float* from = weights + ((ptrdiff_t)unit * gates + g) * depth;
          auto sixteen = [&](int k) {
            return (__m512)(unit < hidden && k < depth ? load(from + k, depth - k) : Vector<float>{});
          };
          rows[i] = (__m512i)_mm512_cvtne2ps_pbh(sixteen(k + 16), sixteen(k));
        }
        transpose(rows);
        for (int i = 0; i < kTileRows; i++) store_pairs(to + (i * panel.vectors + u) * 2 * L, rows[i]);
      }
    }
  }
}

#endif

}  // namespace jaxrnn::JAXRNN_ISA
