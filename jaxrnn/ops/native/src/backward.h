// A backward step for some rows of the batch and a panel of units. It writes the gradients of the step's
// pre-activations to the ring (see workspace.h).

#pragma once

#include "cells.h"
#include "gradients.h"
#include "recurrence.h"
#include "tile.h"
#include "workspace.h"

namespace jaxrnn::JAXRNN_ISA {

// The end of a backward step for one row and panel. `product` is dr_{t+1} @ recurrent_kernel.T, or null for the last
// step. s == -1 is the end of the backward pass: it writes the gradient of the initial carry.
template <class T, class CellType, int kVectors>
INLINE void finish_backward(const Problem<T>& p, const Workspace<T>& w, int s, int b, const Panel& panel,
                            const T* product) {
  constexpr int L = kLanes<T>, kGates = CellType::kGates;
  constexpr bool kOfGates = CellType::kBlocks > kGates;  // a second stage: its leak and its `more` belong to a gate
  const int H = p.hidden, R = p.row_units;
  const ptrdiff_t at = (ptrdiff_t)b * H, of_caller = (ptrdiff_t)b * R;
  const bool reset = s + 1 < p.time && p.is_reset(p.step(s + 1), b);
  const int t = s < 0 ? 0 : p.step(s);
  const bool valid = p.is_valid(t, b);
  const ptrdiff_t row = p.row(t, b);
  const T* saved_row = p.saved + row * CellType::kSaved * H;
  const Previous<T> before = s < 0 ? Previous<T>{} : previous<T, CellType>(p, s, b);
  T* ring = s < 0 ? nullptr : w.ring_at(s, b, p.batch);
  for (int u = 0; u < kVectors; u++) {
    const int unit = (panel.first + u) * L, lanes = H - unit;
    State<T> d{load(w.direct + at + unit, lanes), Vector<T>{}};
    if (CellType::kHasC) d.c = load(w.c + at + unit, lanes);
    if (product) {
      Vector<T> dh = load(product + u * L);
      if (p.scale) dh *= load(p.scale + of_caller + unit, lanes);
      d.h += dh;
    }
    if (reset) {
      store(p.dreset_h + of_caller + unit, load(p.dreset_h + of_caller + unit, lanes) + d.h, lanes);
      if (CellType::kHasC) {
        store(p.dreset_c + of_caller + unit, load(p.dreset_c + of_caller + unit, lanes) + d.c, lanes);
      }
      d = State<T>{};
    }
    if (s < 0) {
      store(p.dh + of_caller + unit, d.h, lanes);
      if (CellType::kHasC) store(p.dc + of_caller + unit, d.c, lanes);
      continue;
    }
    Vector<T> dx[kGates] = {}, more = {};
    if (valid) {
      if (p.dy) d.h += load(p.dy + row * R + unit, lanes);
      Vector<T> saved[CellType::kSaved + 1];
      for (int i = 0; i < CellType::kSaved; i++) saved[i] = load(saved_row + i * H + unit, lanes);
      State<T> old{};
      if (CellType::kApart || CellType::kHasLeak) old.h = load(before.h + unit, lanes);
      if (CellType::kHasC) old.c = load(before.c + unit, lanes);
      Vector<T> y{};
      if (CellType::kSaved == 0) y = load(p.y + row * R + unit, lanes);
      Vector<T> leak{};
      if (CellType::kHasLeak) leak = kOfGates ? T(1) - saved[1] : load(p.cell_param + unit, lanes);
      CellType::backward(y, old, leak, saved, d, dx, more);
    }
    store(w.direct + at + unit, d.h, lanes);
    if (CellType::kHasC) store(w.c + at + unit, d.c, lanes);
    for (int g = 0; g < kGates; g++) {
      const int block = CellType::kFirst + g;
      store(ring + block * H + unit, dx[g], lanes);
      if (p.dxw) store(p.dxw + (row * CellType::kBlocks + block) * R + unit, dx[g], lanes);
    }
    if (CellType::kApart || CellType::kHasLeak) store(ring + CellType::kMore * H + unit, more, lanes);
    if (kOfGates && p.dxw) store(p.dxw + (row * CellType::kBlocks + CellType::kMore) * R + unit, more, lanes);
  }
}

// The first stage of a backward step: the gradient of q h gives the gradients of the pre-activation of q, and of h.
template <class T, int kVectors>
void gates_backward_panel(const Problem<T>& p, const Workspace<T>& w, int s, Range rows, const Panel& panel) {
  constexpr int L = kLanes<T>;
  const int H = p.hidden, t = p.step(s);
  const ptrdiff_t width = (ptrdiff_t)Workspace<T>::vectors_of(H) * L;
  alignas(64) T tiles[kMostRows * kVectors * L];
  for_each_group(rows.begin, rows.end, [&](int b, int count) {
    const T* dn = w.ring_at(s, b, p.batch) + 2 * H;
    const Segment<T> segment{dn, w.ring_row, w.recurrent + 2 * width * H + (ptrdiff_t)panel.first * H * L, H};
    product<T, kVectors>(w.sets, &segment, 1, count, tiles);
    for (int m = 0; m < count; m++) {
      const ptrdiff_t row = p.row(t, b + m), at = (ptrdiff_t)(b + m) * H;
      const T* h = previous<T, Candidate<T>>(p, s, b + m).h;
      for (int u = 0; u < kVectors; u++) {
        const int unit = (panel.first + u) * L, lanes = H - unit;
        const Vector<T> d = load(tiles + (m * kVectors + u) * L), q = load(p.saved + row * 3 * H + unit, lanes);
        const Vector<T> dq = p.is_valid(t, b + m) ? d * load(h + unit, lanes) * q * (T(1) - q) : Vector<T>{};
        store(w.ring_at(s, b + m, p.batch) + unit, dq, lanes);
        if (p.dxw) store(p.dxw + row * 3 * p.row_units + unit, dq, lanes);
        if (p.is_valid(t, b + m)) store(w.direct + at + unit, load(w.direct + at + unit, lanes) + d * q, lanes);
      }
    }
  });
}

// Asks for what a step will read of these rows, which lie far apart, so that it arrives during the product. A function
// that only does this must be inlined: the compiler takes a call of it for one without effect.
template <class T, class CellType, int kVectors>
INLINE void fetch_ahead(const Problem<T>& p, int t, int b, int rows, const Panel& panel) {
  constexpr int L = kLanes<T>, kLine = 64 / sizeof(T);
  auto fetch = [&](const T* from) __attribute__((always_inline)) {
    for (int j = 0; j < kVectors * L; j += kLine) __builtin_prefetch(from + panel.first * L + j, 0, /*locality=*/2);
  };
  for (int r = b; r < b + rows; r++) {
    const ptrdiff_t row = p.row(t, r);
    if (p.dy) fetch(p.dy + row * p.row_units);
    if (CellType::kSaved == 0) fetch(p.y + row * p.row_units);
    for (int i = 0; i < CellType::kSaved; i++) fetch(p.saved + (row * CellType::kSaved + i) * p.hidden);
  }
}

template <class T, class CellType, int kVectors>
void backward_panel(const Problem<T>& p, const Workspace<T>& w, int s, Range rows, const Panel& panel) {
  constexpr bool kSecondStage = CellType::kBlocks > CellType::kGates;
  const int H = p.hidden, width = kSecondStage ? 2 * H : CellType::kGates * H;
  // dr equals dx for all gates, or for all but the last.
  const int shared = CellType::kApart ? width - H : width;
  const T* packed = w.recurrent + (ptrdiff_t)panel.first * width * kLanes<T>;
  alignas(64) T tiles[kMostRows * kVectors * kLanes<T>];
  for_each_group(rows.begin, rows.end, [&](int b, int count) {
    const bool first = s == p.time - 1;
    if (s >= 0 && p.batch > 1) fetch_ahead<T, CellType, kVectors>(p, p.step(s), b, count, panel);
    if (!first) {
      const T* rest = packed + (ptrdiff_t)shared * kVectors * kLanes<T>;
      const T* ring = w.ring_at(s + 1, b, p.batch);
      const Segment<T> segments[2] = {{ring, w.ring_row, packed, shared}, {ring + width, w.ring_row, rest, H}};
      product<T, kVectors>(w.sets, segments, CellType::kApart ? 2 : 1, count, tiles);
    }
    for (int m = 0; m < count; m++) {
      const T* product = first ? nullptr : tiles + m * kVectors * kLanes<T>;
      finish_backward<T, CellType, kVectors>(p, w, s, b + m, panel, product);
    }
  });
}

}  // namespace jaxrnn::JAXRNN_ISA
