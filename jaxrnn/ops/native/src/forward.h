// A forward step for some rows of the batch and a panel of units: products, cell equations, and stores.

#pragma once

#include "cells.h"
#include "recurrence.h"
#include "tile.h"
#include "workspace.h"

namespace jaxrnn::JAXRNN_ISA {

// x @ kernel or h @ recurrent_kernel for one panel of units, and the terms to add to it.
template <class T>
struct Addend {
  const T* tiles;  // the product of this row, [gate][vector][lane], or null
  const T* rows;   // xw of this row, or null
  const T* bias;   // or null

  template <int kVectors>
  INLINE Vector<T> at(int gate, int u, int unit, int row_units, int lanes) const {
    Vector<T> v = Vector<T>{};
    if (tiles) v = load(tiles + (gate * kVectors + u) * kLanes<T>);
    if (rows) v += load(rows + gate * row_units + unit, lanes);
    if (bias) v += load(bias + gate * row_units + unit, lanes);
    return v;
  }
};

// The end of a step for one row and panel: applies the cell's equations and stores all results.
template <class T, class CellType, int kVectors>
INLINE void finish_forward(const Problem<T>& p, const Workspace<T>& w, int s, int b, const Panel& panel,
                           const Addend<T>& x, const Addend<T>& r) {
  constexpr int L = kLanes<T>;
  constexpr bool kOfGates = CellType::kBlocks > CellType::kGates;  // a second stage: its leak comes from a gate
  const int H = p.hidden, R = p.row_units, t = p.step(s);
  const bool valid = p.is_valid(t, b), last = s + 1 == p.time;
  const bool reset = !last && p.is_reset(p.step(s + 1), b);
  const ptrdiff_t row = p.row(t, b), at = (ptrdiff_t)b * H, of_caller = (ptrdiff_t)b * R;
  const T* h_in = w.h[s & 1] + at;
  T* h_out = w.h[(s + 1) & 1] + at;
  T* saved_row = p.saved + row * CellType::kSaved * H;
  for (int u = 0; u < kVectors; u++) {
    const int unit = (panel.first + u) * L, lanes = H - unit;
    State<T> old{load(h_in + unit, lanes), Vector<T>{}};
    if (CellType::kHasC) old.c = load(w.c + at + unit, lanes);
    Vector<T> saved[CellType::kSaved + 1] = {};
    State<T> state = old;
    if (valid) {
      Vector<T> xs[CellType::kGates], rs[CellType::kGates];
      for (int g = 0; g < CellType::kGates; g++) {
        xs[g] = x.template at<kVectors>(g, u, unit, R, lanes);
        rs[g] = r.template at<kVectors>(g, u, unit, R, lanes);
      }
      Vector<T> leak{};
      if (CellType::kHasLeak) leak = load(kOfGates ? w.leak + at + unit : p.cell_param + unit, lanes);
      state = CellType::forward(xs, rs, old, leak, saved);
    }
    store(p.y + row * R + unit, valid ? state.h : Vector<T>{}, lanes);
    if (p.saved) {
      for (int i = CellType::kFirstSaved; i < CellType::kSaved; i++) store(saved_row + i * H + unit, saved[i], lanes);
    }
    if (last) {
      store(p.last_h + of_caller + unit, state.h, lanes);
      if (CellType::kHasC) store(p.last_c + of_caller + unit, state.c, lanes);
      continue;
    }
    if (reset) state.h = load(p.reset_h + of_caller + unit, lanes);
    if (reset && CellType::kHasC) state.c = load(p.reset_c + of_caller + unit, lanes);
    store(h_out + unit, state.h, lanes);
    if (CellType::kHasC) store(w.c + at + unit, state.c, lanes);
    if (p.scale) {
      store(w.scaled[(s + 1) & 1] + at + unit, state.h * load(p.scale + of_caller + unit, lanes), lanes);
    }
  }
}

template <class T, class CellType, int kVectors>
void forward_panel(const Problem<T>& p, const Workspace<T>& w, int s, Range rows, const Panel& panel) {
  constexpr int N = CellType::kGates * kVectors;
  const int H = p.hidden, t = p.step(s);
  const T* h = (p.scale ? w.scaled : w.h)[s & 1];
  alignas(64) T of_x[CellType::kApart ? kMostRows * N * kLanes<T> : 1], of_h[kMostRows * N * kLanes<T>];
  for_each_group(rows.begin, rows.end, [&](int b, int count) {
    Segment<T> segments[2];
    int used = 0;
    if (p.x) {
      const T* x = p.x + p.row(t, b) * p.in_features;
      const T* packed = w.kernel + (ptrdiff_t)panel.first * p.in_features * CellType::kGates * kLanes<T>;
      segments[used++] = {x, p.next_row() * p.in_features, packed, p.in_features};
      if (CellType::kApart) {
        product<T, N>(w.sets, segments, used, count, of_x);
        used = 0;
      }
    }
    const T* packed = w.recurrent + (ptrdiff_t)panel.first * H * CellType::kGates * kLanes<T>;
    segments[used++] = {h + (ptrdiff_t)b * H, H, packed, H};
    product<T, N>(w.sets, segments, used, count, of_h);
    for (int m = 0; m < count; m++) {
      const ptrdiff_t in_tile = m * N * kLanes<T>;
      const T* xw = p.xw ? p.xw + p.row(t, b + m) * CellType::kGates * p.row_units : nullptr;
      const Addend<T> x{CellType::kApart && p.x ? of_x + in_tile : nullptr, xw, p.bias};
      const Addend<T> r{of_h + in_tile, nullptr, p.recurrent_bias};
      finish_forward<T, CellType, kVectors>(p, w, s, b + m, panel, x, r);
    }
  });
}

// The first stage of a step: computes q and z, and stores q h and 1 - z for the second stage.
template <class T, int kVectors>
void gates_panel(const Problem<T>& p, const Workspace<T>& w, int s, Range rows, const Panel& panel) {
  constexpr int N = 2 * kVectors, L = kLanes<T>;
  const int H = p.hidden, R = p.row_units, t = p.step(s);
  const T* h = (p.scale ? w.scaled : w.h)[s & 1];
  alignas(64) T tiles[kMostRows * N * L];
  for_each_group(rows.begin, rows.end, [&](int b, int count) {
    Segment<T> segments[2];
    int used = 0;
    if (p.x) {
      const T* x = p.x + p.row(t, b) * p.in_features;
      const T* packed = w.kernel + (ptrdiff_t)panel.first * p.in_features * 2 * L;
      segments[used++] = {x, p.next_row() * p.in_features, packed, p.in_features};
    }
    segments[used++] = {h + (ptrdiff_t)b * H, H, w.recurrent + (ptrdiff_t)panel.first * H * 2 * L, H};
    product<T, N>(w.sets, segments, used, count, tiles);
    for (int m = 0; m < count; m++) {
      const ptrdiff_t row = p.row(t, b + m), at = (ptrdiff_t)(b + m) * H;
      const Addend<T> x{tiles + m * N * L, p.xw ? p.xw + row * 3 * R : nullptr, p.bias};
      const Addend<T> r{nullptr, nullptr, p.recurrent_bias};
      for (int u = 0; u < kVectors; u++) {
        const int unit = (panel.first + u) * L, lanes = H - unit;
        auto gate = [&](int g) {
          if (!p.is_valid(t, b + m)) return Vector<T>{};
          return sigmoid_vector<T>(x.template at<kVectors>(g, u, unit, R, lanes) +
                                   r.template at<kVectors>(g, u, unit, R, lanes));
        };
        const Vector<T> q = gate(0), z = gate(1);
        store(w.q_h + at + unit, q * load(w.h[s & 1] + at + unit, lanes), lanes);
        store(w.leak + at + unit, T(1) - z, lanes);
        if (p.saved) store(p.saved + row * 3 * H + unit, q, lanes), store(p.saved + (row * 3 + 1) * H + unit, z, lanes);
      }
    }
  });
}

// The second stage of a step: computes the candidate and the new state.
template <class T, int kVectors>
void candidate_panel(const Problem<T>& p, const Workspace<T>& w, int s, Range rows, const Panel& panel) {
  constexpr int L = kLanes<T>;
  const int H = p.hidden, t = p.step(s);
  const ptrdiff_t width = (ptrdiff_t)Workspace<T>::vectors_of(H) * L;
  alignas(64) T tiles[kMostRows * kVectors * L];
  for_each_group(rows.begin, rows.end, [&](int b, int count) {
    Segment<T> segments[2];
    int used = 0;
    if (p.x) {
      const T* x = p.x + p.row(t, b) * p.in_features;
      const T* packed = w.kernel + (2 * width + panel.first * L) * p.in_features;
      segments[used++] = {x, p.next_row() * p.in_features, packed, p.in_features};
    }
    segments[used++] = {w.q_h + (ptrdiff_t)b * H, H, w.recurrent + (2 * width + panel.first * L) * H, H};
    product<T, kVectors>(w.sets, segments, used, count, tiles);
    for (int m = 0; m < count; m++) {
      const T* xw = p.xw ? p.xw + (p.row(t, b + m) * 3 + 2) * p.row_units : nullptr;
      const Addend<T> x{tiles + m * kVectors * L, xw, p.bias ? p.bias + 2 * p.row_units : nullptr};
      finish_forward<T, Candidate<T>, kVectors>(p, w, s, b + m, panel, x, Addend<T>{});
    }
  });
}

}  // namespace jaxrnn::JAXRNN_ISA
