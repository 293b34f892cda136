// Divides the units of a cell into panels and the panels among parts, and lays out the scratch arrays of a call.

#pragma once

#include <algorithm>

#include "recurrence.h"
#include "tile.h"

namespace jaxrnn::JAXRNN_ISA {

// At least this many numbers as an odd number of cache lines, so that rows are spread over all sets of the cache.
template <class T>
constexpr int odd_lines(int numbers) {
  constexpr int kLine = 64 / sizeof(T);
  return ((numbers + kLine - 1) / kLine | 1) * kLine;
}

// Consecutive vectors of units that one tile computes.
struct Panel {
  int first, vectors;
};

// Both sides of the products for the weight gradients, of which every part has its own: blocks of rows of inputs or
// hidden states, and of a panel of the ring, copied so that what a tile reads lies close together.
template <class T>
struct Sides {
  int rows;      // of a block
  int left_row;  // from one row of the left side to the next
  T *left, *right;

  T* left_of(int part) const { return left + (ptrdiff_t)part * rows * left_row; }
  T* right_of(int part) const { return right + (ptrdiff_t)part * rows * kMostVectors * kLanes<T>; }

  template <class Take>
  void lay_out(int hidden, int in_features, int gates, int parts, Take&& take) {
    // The right side stays in the cache of level 1 while all tiles read it. But adding a block's product to the result
    // costs time in proportion to the result's size, so blocks are longer where that is large.
    const int64_t bytes = (int64_t)(hidden + in_features) * hidden * gates * sizeof(T);
    rows = sizeof(T) > 2 && bytes <= (4 << 20) ? 128 : 256;
    left_row = odd_lines<T>(std::max(hidden, in_features));
    take(left, (size_t)parts * rows * left_row);
    take(right, (size_t)parts * rows * kMostVectors * kLanes<T>);
  }
};

// The scratch arrays of a call. All parts share them, except those of `sides`.
template <class T>
struct Workspace {
  T* recurrent;   // packed: recurrent_kernel forward, its transpose backward
  T* kernel;      // packed: kernel forward, its transpose backward
  T* h[2];        // the hidden state before and after a step, [batch, hidden]
  T* scaled[2];   // h * scale
  T* c;           // the cell state; backward: its gradient
  T *q_h, *leak;  // passed from the first to the second stage of a step: q h and 1 - z, [batch, hidden]
  // The gradients of the pre-activations, in a ring buffer of two chunks of steps, [2 * chunk, batch, ring_row]: dx of
  // all gates, then `more` (see cells.h). There are two chunks, so that a thread can write one while another thread
  // still reads the other.
  T* ring;
  int ring_row;
  T* direct;      // the part of dh that does not pass through the recurrent product
  Sides<T> sides;
  int chunk;
  Panel* panels;
  int panel_count;
  int parts;
  bool by_rows;
  int sets;  // of accumulators, see tile.h

  Workspace(const Problem<T>& p, int gates, int most_vectors, const Division& division, bool backward)
      : parts(division.parts), by_rows(division.by_rows), sets(sets_of(p.batch)) {
    lay_out(p, gates, backward, parts, (char*)division.workspace);
    panel_count = 0;
    const int count = by_rows ? 1 : parts;
    for (int part = 0; part < count; part++) {
      const Range range = split(vectors_of(p.hidden), part, count);
      const int panels_of_part = (range.end - range.begin + most_vectors - 1) / most_vectors;
      for (int i = 0; i < panels_of_part; i++) {
        const Range r = split(range.end - range.begin, i, panels_of_part);
        panels[panel_count++] = {range.begin + r.begin, r.end - r.begin};
      }
      part_end(part) = panel_count;
    }
  }

  // The panels of a part, if units are divided, and the panels that it packs.
  Range panels_of(int part) const { return {part ? part_end(part - 1) : 0, part_end(part)}; }
  Range packed_by(int part) const { return by_rows ? split(panel_count, part, parts) : panels_of(part); }
  Range all_panels() const { return {0, panel_count}; }

  static int vectors_of(int hidden) { return (hidden + kLanes<T> - 1) / kLanes<T>; }

  T* ring_at(int s, int b, int batch) const { return ring + ((ptrdiff_t)(s % (2 * chunk)) * batch + b) * ring_row; }

  static size_t bytes(const Problem<T>& p, int gates, bool backward, int parts) {
    Workspace w;
    return w.lay_out(p, gates, backward, parts, nullptr);
  }

 private:
  Workspace() = default;

  int* part_ends;

  int& part_end(int part) const { return part_ends[part]; }

  size_t lay_out(const Problem<T>& p, int gates, bool backward, int count, char* memory) {
    size_t used = 0;
    auto take = [&](auto*& pointer, size_t count) {
      pointer = (__typeof__(pointer + 0))(memory + used);
      used += (count * sizeof(*pointer) + 63) / 64 * 64;
    };
    const size_t width = (size_t)vectors_of(p.hidden) * kLanes<T> * gates, carry = (size_t)p.batch * p.hidden;
    take(recurrent, width * p.hidden);
    take(c, carry);
    const bool two_stages = p.cell == Cell::kGRUBefore;
    take(q_h, two_stages && !backward ? carry : 0);
    take(leak, two_stages && !backward ? carry : 0);
    if (backward) {
      // The gradients of a chunk of steps are kept until they are added to the weight gradients.
      sides.lay_out(p.hidden, p.x ? p.in_features : 0, gates, count, take);
      chunk = std::min((sides.rows + p.batch - 1) / p.batch, p.time);
      take(kernel, p.dx ? (size_t)vectors_of(p.in_features) * kLanes<T> * gates * p.hidden : 0);
      take(direct, carry);
      // The last vector of a row is read as a whole, and must not reach into the next one: another part may write that.
      const bool more = p.cell == Cell::kGRU || p.cell == Cell::kLeaky;
      ring_row = odd_lines<T>((gates + (more ? 1 : 0) - 1) * p.hidden + vectors_of(p.hidden) * kLanes<T>);
      take(ring, (size_t)p.batch * 2 * chunk * ring_row);
    } else {
      take(kernel, p.x ? width * p.in_features : 0);
      for (T*& part : h) take(part, carry);
      for (T*& part : scaled) take(part, p.scale ? carry : 0);
    }
    take(panels, vectors_of(p.hidden));
    take(part_ends, count);
    return used;
  }
};

// Packs columns of `gates` blocks of `weights [depth, blocks * row_units]` in the order in which tile() reads them:
// [k][gate][vector][lane]. A block of weights has `row_units` columns, of which `hidden` are used.
template <class T>
void pack_panel(const Panel& panel, const T* weights, int depth, int gates, int hidden, int row_units, int blocks,
                T* packed) {
  constexpr int L = kLanes<T>;
  T* to = packed + (ptrdiff_t)panel.first * L * depth * gates;
  for (int k = 0; k < depth; k++) {
    for (int g = 0; g < gates; g++) {
      const T* from = weights + ((ptrdiff_t)k * blocks + g) * row_units;
      for (int u = 0; u < panel.vectors; u++, to += L) {
        const int unit = (panel.first + u) * L;
        store<T>(to, load(from + unit, hidden - unit));
      }
    }
  }
}

// The same for the transpose of `weights [hidden, depth]`.
template <class T>
void pack_panel_transposed(const Panel& panel, const T* weights, int hidden, int depth, T* packed) {
  constexpr int L = kLanes<T>;
  T* to = packed + (ptrdiff_t)panel.first * L * depth;
  const int width = panel.vectors * L, first = panel.first * L;
  const int present = hidden - first < width ? hidden - first : width;
  for (int begin = 0; begin < depth; begin += L) {  // in blocks, so that the lines of `weights` stay in the cache
    const int end = begin + L < depth ? begin + L : depth;
    for (int j = 0; j < width; j++) {
      for (int k = begin; k < end; k++) {
        to[(ptrdiff_t)k * width + j] = j < present ? weights[(ptrdiff_t)(first + j) * depth + k] : T(0);
      }
    }
  }
}

}  // namespace jaxrnn::JAXRNN_ISA
