// How the units of a cell are cut into panels and shared out, and where the scratch arrays of a call lie.

#pragma once

#include "recurrence.h"
#include "tile.h"

namespace jaxrnn::JAXRNN_ISA {

struct Range {
  int begin, end;
};

// Part `index` of `count` nearly equal parts of 0..n.
INLINE Range split(int n, int index, int count) {
  return {(int)((int64_t)n * index / count), (int)((int64_t)n * (index + 1) / count)};
}

// Neighbouring vectors of units that one tile computes.
struct Panel {
  int first, vectors;
};

// The scratch arrays. All members of a team see the same ones, except
// `block_*` and `panels`, which each has alone.
template <class T>
struct Workspace {
  T* recurrent;   // packed: recurrent_kernel forward, its transpose backward
  T* kernel;      // packed: kernel forward, its transpose backward
  T* h[2];        // the hidden state before and after a step, [batch, hidden]
  T* scaled[2];   // h * scale
  T* c;           // the cell state; backward: its gradient
  T *q_h, *leak;  // between the two stages of a step: q h and 1 - z, [batch, hidden]
  // The gradients of the pre-activations, a ring of two chunks of steps, [2 * chunk, batch, ring_row]: dx of all
  // gates, then dr of the last gate where that differs. Two, so that a thread can go on while another still reads.
  T* ring;
  int ring_row;
  T* direct;      // what of dh does not pass through the recurrent product
  T* block_h;     // scaled hidden states, see gradients.h
  const T** block_rows;
  int chunk;
  Panel* panels;
  int panel_count;
  Range own;   // the panels of this member, where units are divided
  Range pack;  // the panels it packs

  Workspace(const Problem<T>& p, int gates, int most_vectors, const Member& member, bool backward) {
    lay_out(p, gates, backward, member.size, member.rank, (char*)member.workspace);
    const int vectors = vectors_of(p.hidden), parts = member.by_rows ? 1 : member.size;
    panel_count = 0;
    own = {0, 0};
    for (int part = 0; part < parts; part++) {
      const Range range = split(vectors, part, parts);
      const int first = panel_count, count = (range.end - range.begin + most_vectors - 1) / most_vectors;
      for (int i = 0; i < count; i++) {
        const Range r = split(range.end - range.begin, i, count);
        panels[panel_count++] = {range.begin + r.begin, r.end - r.begin};
      }
      if (part == member.rank) own = {first, panel_count};
    }
    pack = member.by_rows ? split(panel_count, member.rank, member.size) : own;
  }

  static int vectors_of(int hidden) { return (hidden + kLanes<T> - 1) / kLanes<T>; }

  // Rows of a block of the weight gradients' product: long enough that adding a block to the result, which costs
  // its size, does not matter.
  static int block_size(const Problem<T>& p, int gates) {
    const int64_t bytes = (int64_t)(p.hidden + p.in_features) * p.hidden * gates * sizeof(T);
    return bytes <= (1 << 20) ? 256 : 512;
  }

  T* ring_at(int s, int b, int batch) const { return ring + ((ptrdiff_t)(s % (2 * chunk)) * batch + b) * ring_row; }

  static size_t bytes(const Problem<T>& p, int gates, bool backward, int members) {
    Workspace w;
    return w.lay_out(p, gates, backward, members, 0, nullptr);
  }

 private:
  Workspace() = default;

  size_t lay_out(const Problem<T>& p, int gates, bool backward, int members, int rank, char* memory) {
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
      // Steps whose gradients are kept until the weights' are added up: a block of rows.
      const int block = block_size(p, gates);
      chunk = (block + p.batch - 1) / p.batch;
      if (chunk > p.time) chunk = p.time;
      take(kernel, p.dx ? (size_t)vectors_of(p.in_features) * kLanes<T> * gates * p.hidden : 0);
      take(direct, carry);
      // Rows an odd number of cache lines apart do not crowd into a few sets of the cache; vectors that reach past
      // the last row's end are read, not used.
      const int line = 64 / sizeof(T);
      const bool more = p.cell == Cell::kGRU || p.cell == Cell::kLeaky;
      ring_row = ((gates + (more ? 1 : 0)) * p.hidden + line - 1) / line;
      ring_row = (ring_row | 1) * line;
      take(ring, (size_t)p.batch * 2 * chunk * ring_row + 4 * kLanes<T>);
      for (int i = 0; i < members; i++) {
        T* h_rows;
        const T** rows;
        take(h_rows, p.scale || two_stages ? (size_t)block * p.hidden : 0);
        take(rows, block);
        if (i == rank) block_h = h_rows, block_rows = rows;
      }
    } else {
      take(kernel, p.x ? width * p.in_features : 0);
      for (T*& part : h) take(part, carry);
      for (T*& part : scaled) take(part, p.scale ? carry : 0);
    }
    for (int i = 0; i < members; i++) {
      Panel* list;
      take(list, vectors_of(p.hidden));
      if (i == rank) panels = list;
    }
    return used;
  }
};

// What of every step is this member's.
struct Share {
  Range rows, panels;

  template <class T>
  Share(const Problem<T>& p, const Workspace<T>& w, const Member& member) {
    rows = member.by_rows ? split(p.batch, member.rank, member.size) : Range{0, p.batch};
    panels = member.by_rows ? Range{0, w.panel_count} : w.own;
  }
};

// Columns of `gates` blocks of `weights [depth, blocks * hidden]`, as tile() reads them: [k][gate][vector][lane].
template <class T>
void pack_panel(const Panel& panel, const T* weights, int depth, int gates, int hidden, int blocks, T* packed) {
  constexpr int L = kLanes<T>;
  T* to = packed + (ptrdiff_t)panel.first * L * depth * gates;
  for (int k = 0; k < depth; k++) {
    for (int g = 0; g < gates; g++) {
      const T* from = weights + ((ptrdiff_t)k * blocks + g) * hidden;
      for (int u = 0; u < panel.vectors; u++, to += L) {
        const int unit = (panel.first + u) * L;
        store<T>(to, load(from + unit, hidden - unit));
      }
    }
  }
}

// The same of the transpose of `weights [hidden, depth]`.
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
