// The products of the weight gradients in tiles of bfloat16, see amx.h. They are sums over rows, so the left side is
// transposed when it is copied.

#pragma once

#include "amx.h"
#include "gradients.h"

#if defined(JAXRNN_TILES)

namespace jaxrnn::JAXRNN_ISA {

// As in gradients.h; the left side of the part gets whole tiles, [block of 16 columns][block of 32 rows].
template <class Row>
void gather(const Sides<BFloat16>& sides, int part, Chunk chunk, int begin, int depth, int batch, Range columns,
            Row&& row) {
  const int blocks = padded(depth) / kTileDepth;
  int s = chunk.begin + begin / batch, b = begin % batch;
  for (int block = 0; block < blocks; block++) {
    LeftRow<float> from[kTileDepth] = {};
    for (int i = 0; i < kTileDepth && block * kTileDepth + i < depth; i++) {
      from[i] = row(s, b);
      if (++b == batch) b = 0, s++;
    }
    BFloat16* to = sides.left_of(part) + (ptrdiff_t)block * kTileSize;
    for (int j = columns.begin; j < columns.end; j += kTileRows, to += (ptrdiff_t)blocks * kTileSize) {
      const int lanes = columns.end - j;
      auto numbers = [&](const LeftRow<float>& of) {
        if (!of.values) return Vector<float>{};
        const Vector<float> v = load(of.values + j, lanes);
        return of.factors ? v * load(of.factors + j, lanes) : v;
      };
      __m512i tile[kTileRows];
      for (int i = 0; i < kTileRows; i++) tile[i] = pairs(numbers(from[2 * i]), numbers(from[2 * i + 1]));
      transpose(tile);
      for (int i = 0; i < kTileRows; i++) store_pairs(to + i * kTileDepth, tile[i]);
    }
  }
}

// As in gradients.h.
inline void add_product(const Sides<BFloat16>& sides, int part, Range columns, const Panel& panel, const BFloat16* right,
                        ptrdiff_t right_row, int depth, bool first, float* out, ptrdiff_t out_row, int hidden) {
  constexpr int L = kLanes<float>;
  const int blocks = padded(depth) / kTileDepth;
  BFloat16* packed = sides.right_of(part);
  alignas(64) float sums[kRowsAtOnce * kMostVectors * L];
  with_vectors<kMostVectors>(panel.vectors, [&]<int N>() {
    constexpr int kAhead = 16;  // rows, which lie far apart
    for (int k = 0; k < padded(depth); k += 2) {
      for (int i = 0; i < 2 && k + kAhead + i < depth; i++) {
        const BFloat16* next = right + (k + kAhead + i) * right_row + panel.first * L;
        for (int j = 0; j < N * L; j += 32) __builtin_prefetch(next + j);
      }
      for (int u = 0; u < N; u++) {
        auto row = [&](int k) {
          const BFloat16* from = right + k * right_row + (panel.first + u) * L;
          return k < depth ? _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)) : __m512i{};
        };
        store_pairs(packed + (k / 2 * N + u) * 2 * L, _mm512_or_si512(row(k), _mm512_slli_epi32(row(k + 1), 16)));
      }
    }
    int prepared = 0;
    const bool whole = hidden - panel.first * L >= N * L;
    for_each_group<kRowsAtOnce>(columns.begin, columns.end, [&](int m, int count) {
      const ptrdiff_t tiles = (ptrdiff_t)(m - columns.begin) / kTileRows * blocks;
      const TiledSegment segment{sides.left_of(part) + tiles * kTileSize, packed, blocks * kTileDepth};
      float* to = out + m * out_row + panel.first * L;
      if (count != prepared) prepare_tiles(prepared = count);
      if (whole) return product_of_tiles<N>(&segment, 1, count, to, out_row, first ? nullptr : to, out_row);
      product_of_tiles<N>(&segment, 1, count, sums, N * L, nullptr, 0);
      add_sums<N>(sums, count, first, to, out_row, hidden - panel.first * L);
    });
  });
}

}  // namespace jaxrnn::JAXRNN_ISA

#endif
