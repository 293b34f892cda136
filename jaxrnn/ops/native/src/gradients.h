// The gradients of weights and inputs, from the gradients dx_t and dr_t of the pre-activations of some steps:
//
//     dkernel           += sum over steps of x_t.T dx_t         dbias           += sum of dx_t
//     drecurrent_kernel += sum over steps of h_{t-1}.T dr_t     drecurrent_bias += sum of dr_t
//     d inputs           = dx_t @ kernel.T
//     dcell_param       += sum of the leak's gradients, or sum over steps of (q h_{t-1}).T dn_t
//
// This runs every few steps, while dx and dr are still in the cache, so that they are never read from memory.

#pragma once

#include "cells.h"
#include "workspace.h"

namespace jaxrnn::JAXRNN_ISA {

template <class T>
struct Previous {
  const T *h, *c;
};

// The carry of row b before running step s.
template <class T, class CellType>
INLINE Previous<T> previous(const Problem<T>& p, int s, int b) {
  const ptrdiff_t at = (ptrdiff_t)b * p.row_units;
  if (p.is_reset(p.step(s), b)) return {p.reset_h + at, CellType::kHasC ? p.reset_c + at : nullptr};
  // In reverse the padding comes first, and does not change the initial carry.
  if (s == 0 || !p.is_valid(p.step(s - 1), b)) return {p.h + at, CellType::kHasC ? p.c + at : nullptr};
  const ptrdiff_t row = p.row(p.step(s - 1), b);
  const T* c = CellType::kHasC ? p.saved + (row * CellType::kSaved + CellType::kSaved - 1) * p.hidden : nullptr;
  return {p.y + row * p.row_units, c};
}

// Steps `begin` to `end` in running order. The ring holds them as rows (step, batch row).
struct Chunk {
  int begin, end;
};

// A row of the left side of a product: values, or values times factors if those are not null.
template <class T>
struct LeftRow {
  const T *values, *factors;
};

// Copies `columns` of row(step, batch row), for some rows of a chunk, to the left side of the part.
template <class T, class Row>
INLINE void gather(const Sides<T>& sides, int part, Chunk chunk, int begin, int depth, int batch, Range columns,
                   Row&& row) {
  constexpr int kAhead = 8;
  int s = chunk.begin + begin / batch, b = begin % batch;
  for (int k = 0; k < depth; k++) {
    if (batch > 1 && k + kAhead < depth) {  // rows may lie far apart, and not in the cache
      const int ahead = begin + k + kAhead;
      const T* next = row(chunk.begin + ahead / batch, ahead % batch).values;
      for (int j = columns.begin; j < columns.end; j += 64 / sizeof(T)) __builtin_prefetch(next + j);
    }
    const LeftRow<T> from = row(s, b);
    if (++b == batch) b = 0, s++;
    T* to = sides.left_of(part) + (ptrdiff_t)k * sides.left_row;
    if (from.factors) {
      for (int j = columns.begin; j < columns.end; j++) to[j] = from.values[j] * from.factors[j];
    } else {
      for (int j = columns.begin; j < columns.end; j++) to[j] = from.values[j];
    }
  }
}

// out += sums, for some rows of N vectors, of which `units` numbers are used. With `first`, the sums replace out.
template <int N, class T>
INLINE void add_sums(const T* sums, int rows, bool first, T* out, ptrdiff_t out_row, int units) {
  constexpr int L = kLanes<T>;
  for (int i = 0; i < rows; i++) {
    for (int u = 0; u < N; u++) {
      T* to = out + i * out_row + u * L;
      Vector<T> v = load(sums + (i * N + u) * L);
      if (!first) v += load(to, units - u * L);
      store(to, v, units - u * L);
    }
  }
}

// out[m] += sum over k of left[k][m] * right[k], for the m in `columns` and a panel of one gate's units. With `first`,
// the sum replaces out[m]. `left` is the left side of the part, and `right` is in the ring.
template <class T>
void add_product(const Sides<T>& sides, int part, Range columns, const Panel& panel, const T* right, ptrdiff_t ring_row,
                 int depth, bool first, T* out, ptrdiff_t out_row, int hidden) {
  constexpr int L = kLanes<T>;
  T *left = sides.left_of(part), *packed = sides.right_of(part);
  alignas(64) T sums[24 * L];
  with_vectors<4>(panel.vectors, [&]<int N>() {
    for (int k = 0; k < depth; k++) {
      const T* from = right + k * ring_row + panel.first * L;
      for (int u = 0; u < N; u++) store<T>(packed + (k * N + u) * L, load(from + u * L));
    }
    for_each_tile<T, N, 1, Transposed<T>>(columns.begin, columns.end, [&](int m, int count, auto tile) {
      const Transposed<T> segment{left + m, sides.left_row, packed, depth};
      T* to = out + m * out_row + panel.first * L;
      for (int i = 0; i < count; i++) {  // they are far apart, and seldom in the cache of level 1
        for (int u = 0; u < N; u += 64 / kVectorBytes) __builtin_prefetch(to + i * out_row + u * L, /*write=*/1);
      }
      tile(&segment, 1, sums, N * L, nullptr, 0);
      add_sums<N>(sums, count, first, to, out_row, hidden - panel.first * L);
    });
  });
}

// out += sum over k of right[k], for these vectors of units. With `first`, the sum replaces out.
template <class T>
void add_rows(Range vectors, const T* right, ptrdiff_t ring_row, int depth, bool first, T* out, int hidden) {
  constexpr int L = kLanes<T>, kMost = 4;  // sums side by side, none of which waits for another
  for (int begin = vectors.begin; begin < vectors.end; begin += kMost) {
    with_vectors<kMost>(vectors.end - begin < kMost ? vectors.end - begin : kMost, [&]<int N>() {
      Vector<T> sums[N];
      for (int u = 0; u < N; u++) {
        const int unit = (begin + u) * L;
        sums[u] = first ? Vector<T>{} : load(out + unit, hidden - unit);
      }
      for (int k = 0; k < depth; k++) {
        const T* from = right + k * ring_row + begin * L;
        for (int u = 0; u < N; u++) sums[u] += load(from + u * L);
      }
      for (int u = 0; u < N; u++) store(out + (begin + u) * L, sums[u], hidden - (begin + u) * L);
    });
  }
}

template <class T, class CellType>
void weight_gradients(const Problem<T>& p, const Workspace<T>& w, int part, Share share, Chunk chunk, bool first) {
  constexpr int G = CellType::kGates;
  const int H = p.hidden, R = p.row_units, block = w.sides.rows;
  // The rows of both kernels' gradients are divided, as one list.
  const int inputs = p.x ? p.in_features : 0;
  const Range mine = share.of(inputs + H);
  const Range of_x{mine.begin < inputs ? mine.begin : inputs, mine.end < inputs ? mine.end : inputs};
  const Range of_h{mine.begin > inputs ? mine.begin - inputs : 0, mine.end > inputs ? mine.end - inputs : 0};
  const Range vectors = share.of(Workspace<T>::vectors_of(H));
  const int rows = (chunk.end - chunk.begin) * p.batch;
  for (int begin = 0; begin < rows; begin += block) {
    const int depth = rows - begin < block ? rows - begin : block;
    const bool start = first && begin == 0;
    // Chunks begin at a multiple of their length, so the rows of a chunk are contiguous in the ring.
    const T* ring = w.ring_at(chunk.begin, begin, p.batch);
    auto add = [&](const T* right, Range columns, T* out, int out_row, T* bias) {
      if (bias) add_rows(vectors, right, w.ring_row, depth, start, bias, H);
      for (int i = 0; i < w.panel_count && columns.begin < columns.end; i++) {
        add_product(w.sides, part, columns, w.panels[i], right, w.ring_row, depth, start, out, out_row, H);
      }
    };
    auto fill = [&](Range columns, auto&& row) {
      gather(w.sides, part, chunk, begin, depth, p.batch, columns, row);
    };
    if (p.x) {
      fill(of_x, [&](int s, int b) { return LeftRow<T>{p.x + p.row(p.step(s), b) * p.in_features, nullptr}; });
      for (int g = 0; g < G; g++) {
        add(ring + g * H, of_x, p.dkernel + g * R, G * R, p.dbias ? p.dbias + g * R : nullptr);
      }
    }
    auto h_of = [&](int s, int b) { return previous<T, CellType>(p, s, b).h; };
    fill(of_h, [&](int s, int b) { return LeftRow<T>{h_of(s, b), p.scale ? p.scale + (ptrdiff_t)b * R : nullptr}; });
    constexpr int kRecurrent = CellType::kTwoStages ? 2 : G;
    for (int g = 0; g < kRecurrent; g++) {
      const int in_ring = CellType::kApart && g == G - 1 ? G : g;
      T* bias = p.drecurrent_bias ? p.drecurrent_bias + g * R : nullptr;
      add(ring + in_ring * H, of_h, p.drecurrent_kernel + g * H, kRecurrent * H, bias);
    }
    if (CellType::kHasLeak) add_rows(vectors, ring + G * H, w.ring_row, depth, start, p.dcell_param, H);
    if (!CellType::kTwoStages) continue;
    fill(of_h, [&](int s, int b) {
      return LeftRow<T>{h_of(s, b), p.saved + p.row(p.step(s), b) * CellType::kSaved * H};  // times q
    });
    add(ring + 2 * H, of_h, p.dcell_param, H, nullptr);
  }
}

template <class T>
void input_gradients(const Problem<T>& p, const Workspace<T>& w, Share share, Chunk chunk, int gates) {
  constexpr int L = kLanes<T>;
  const int width = gates * p.hidden;
  const Range mine = share.of((chunk.end - chunk.begin) * p.batch);
  const int vectors = Workspace<T>::vectors_of(p.in_features), panels = (vectors + 3) / 4;
  alignas(64) T sums[kMostRows * 4 * L];
  for (int i = 0; i < panels; i++) {
    const Range r = split(vectors, i, panels);
    with_vectors<4>(r.end - r.begin, [&]<int N>() {
      const T* packed = w.kernel + (ptrdiff_t)r.begin * L * width;
      for_each_group(mine.begin, mine.end, [&](int row, int count) {
        const Segment<T> segment{w.ring_at(chunk.begin, row, p.batch), w.ring_row, packed, width};
        product<T, N>(1, &segment, 1, count, sums);
        for (int m = 0; m < count; m++) {
          const int s = chunk.begin + (row + m) / p.batch, b = (row + m) % p.batch;
          T* out = p.dx + p.row(p.step(s), b) * p.in_features;
          for (int u = 0; u < N; u++) {
            const int feature = (r.begin + u) * L;
            store(out + feature, load(sums + (m * N + u) * L), p.in_features - feature);
          }
        }
      });
    });
  }
}

}  // namespace jaxrnn::JAXRNN_ISA
