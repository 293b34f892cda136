// The gradients of the weights, once dr and dx of every step are known:
//
//     drecurrent_kernel = sum over steps of h_{t-1}.T dr_t     drecurrent_bias = sum of dr_t
//     dkernel           = sum over steps of x_t.T dx_t         dbias           = sum of dx_t
//
// One product of tall matrices, [h_{t-1}, 1, x_t, 1].T @ [dx_t or dr_t], in blocks of steps. The columns of the
// left one are divided among the threads.

#pragma once

#include "cells.h"
#include "workspace.h"

namespace jaxrnn::JAXRNN_ISA {

template <class T>
struct Previous {
  const T *h, *c;
};

// The carry that row b had before running step s.
template <class T, class CellType>
INLINE Previous<T> previous(const Problem<T>& p, int s, int b) {
  const ptrdiff_t at = (ptrdiff_t)b * p.hidden;
  if (p.is_reset(p.step(s), b)) return {p.reset_h + at, CellType::kHasC ? p.reset_c + at : nullptr};
  // In reverse the padding comes first, and leaves the initial carry as it is.
  if (s == 0 || !p.is_valid(p.step(s - 1), b)) return {p.h + at, CellType::kHasC ? p.c + at : nullptr};
  const ptrdiff_t row = p.row(p.step(s - 1), b);
  const T* c = CellType::kHasC ? p.saved + (row * CellType::kSaved + CellType::kSaved - 1) * p.hidden : nullptr;
  return {p.y + row * p.hidden, c};
}

// Some columns of [h_{t-1}, 1] or of [x_t, 1], which give as many rows of the gradients.
struct Columns {
  bool recurrent;
  int first, count;
};

template <class T>
INLINE T* gradient_row(const Problem<T>& p, const Columns& columns, int m, int width) {
  const int column = columns.first + m;
  if (columns.recurrent) {
    return column < p.hidden ? p.drecurrent_kernel + (ptrdiff_t)column * width : p.drecurrent_bias;
  }
  return column < p.in_features ? p.dkernel + (ptrdiff_t)column * width : p.dbias;
}

template <class T, class CellType>
void weight_gradients(const Problem<T>& p, const Workspace<T>& w, const Member& member) {
  constexpr int L = kLanes<T>, kTall = kRows[4], G = CellType::kGates;
  const int H = p.hidden, width = G * H, block = Workspace<T>::block_rows(p, G);
  const int recurrent_columns = H + (p.drecurrent_bias ? 1 : 0);
  const int input_columns = p.x ? p.in_features + (p.dbias ? 1 : 0) : 0;
  const int recurrent_tiles = (recurrent_columns + kTall - 1) / kTall;
  const Range tiles = split(recurrent_tiles + (input_columns + kTall - 1) / kTall, member.rank, member.size);
  auto columns_of = [&](int i) -> Columns {
    const bool recurrent = i < recurrent_tiles;
    const int first = (recurrent ? i : i - recurrent_tiles) * kTall;
    const int left = (recurrent ? recurrent_columns : input_columns) - first;
    return {recurrent, first, left < kTall ? left : kTall};
  };
  const int64_t steps = (int64_t)p.time * p.batch;
  alignas(64) T sums[24 * L];

  // Adds the product of this block to one panel of one gate, for those columns that `right` is meant for.
  auto add = [&](int g, const Panel& panel, const T* right, ptrdiff_t row, int depth, bool first, int want) {
    T* to = w.block_right;
    for (int k = 0; k < depth; k++) {
      for (int u = 0; u < panel.vectors; u++, to += L) {
        const int unit = (panel.first + u) * L;
        store<T>(to, load(right + k * row + unit, H - unit));
      }
    }
    for (int i = tiles.begin; i < tiles.end; i++) {
      const Columns columns = columns_of(i);
      if (want >= 0 && columns.recurrent != (want == 1)) continue;
      const T* left = w.block_left + (ptrdiff_t)(i - tiles.begin) * kTall * block;
      const Segment<T> segment{left, 0, w.block_right, depth};
      tile_of<T, true>(columns.count, panel.vectors)(&segment, 1, sums);
      for (int m = 0; m < columns.count; m++) {
        T* out = gradient_row(p, columns, m, width) + (ptrdiff_t)g * H;
        for (int u = 0; u < panel.vectors; u++) {
          const int unit = (panel.first + u) * L;
          Vector<T> v = load(sums + (m * panel.vectors + u) * L);
          if (!first) v += load(out + unit, H - unit);
          store(out + unit, v, H - unit);
        }
      }
    }
  };

  for (int64_t begin = 0; begin < steps || begin == 0; begin += block) {
    const int depth = steps - begin < block ? (int)(steps - begin) : block;
    for (int k = 0; k < depth; k++) {
      const int64_t row = begin + k;
      const int t = p.batch_major ? row % p.time : row / p.batch, b = p.batch_major ? row / p.time : row % p.batch;
      w.block_h[k] = previous<T, CellType>(p, p.step(t), b).h;  // step() is its own inverse
    }
    for (int i = tiles.begin; i < tiles.end; i++) {
      const Columns columns = columns_of(i);
      T* to = w.block_left + (ptrdiff_t)(i - tiles.begin) * kTall * block;
      const int size = columns.recurrent ? H : p.in_features;
      const int real = size - columns.first < columns.count ? size - columns.first : columns.count;
      for (int k = 0; k < depth; k++, to += kTall) {
        const T* from = columns.recurrent ? w.block_h[k] : p.x + (begin + k) * p.in_features;
        for (int m = 0; m < real; m++) to[m] = from[columns.first + m];
        if (columns.recurrent && p.scale) {
          const int64_t row = begin + k;
          const T* scale = p.scale + (p.batch_major ? row / p.time : row % p.batch) * (ptrdiff_t)H;
          for (int m = 0; m < real; m++) to[m] *= scale[columns.first + m];
        }
        if (real < columns.count) to[real] = T(1);
      }
    }
    for (int g = 0; g < G; g++) {
      const bool apart = CellType::kApart && g == G - 1;
      for (int i = 0; i < w.panel_count; i++) {
        const T* dx = p.dxw + begin * width + (ptrdiff_t)g * H;
        add(g, w.panels[i], dx, width, depth, begin == 0, apart ? 0 : -1);
        if (apart) add(g, w.panels[i], p.drn + begin * H, H, depth, begin == 0, 1);
      }
    }
  }
}

}  // namespace jaxrnn::JAXRNN_ISA
