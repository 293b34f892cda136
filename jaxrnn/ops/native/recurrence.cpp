// The forward and the backward loop over time, for the instruction set this file is compiled for.
//
// Forward, at every step, a panel of units of every gate at a time:
//
//     x = x_t @ kernel + bias     r = h_{t-1} @ recurrent_kernel + recurrent_bias     carry_t = cell(x, r, carry_{t-1})
//
// so that no pre-activation ever goes through memory. Backward, from the last step to the first:
//
//     dh_t  = dy_t + dr_{t+1} @ recurrent_kernel.T + what the cell hands back directly
//     dx_t, dr_t = derivative of the cell
//
// and after the loop the weight gradients, sums over all steps: see gradients.h.

#include "recurrence.h"

#include <type_traits>

#include "cells.h"
#include "gradients.h"
#include "tile.h"
#include "workspace.h"

namespace jaxrnn::JAXRNN_ISA {


// What x @ kernel or h @ recurrent_kernel has come to, and what there is to add, for one panel of units.
template <class T>
struct Addend {
  const T* tiles;  // [gate][vector][lane] a row; null for none
  const T* rows;   // xw of this row; null for none
  const T* bias;   // null for none

  template <int kVectors>
  INLINE Vector<T> at(int gate, int u, int unit, int hidden, int lanes) const {
    Vector<T> v = Vector<T>{};
    if (tiles) v = load(tiles + (gate * kVectors + u) * kLanes<T>);
    if (rows) v += load(rows + gate * hidden + unit, lanes);
    if (bias) v += load(bias + gate * hidden + unit, lanes);
    return v;
  }
};

// The end of a step for one row and panel: the cell's equations, and everything that is stored.
template <class T, class CellType, int kVectors>
INLINE void finish_forward(const Problem<T>& p, const Workspace<T>& w, int s, int b, const Panel& panel,
                           const Addend<T>& x, const Addend<T>& r) {
  constexpr int L = kLanes<T>;
  constexpr bool kOfGates = CellType::kBlocks > CellType::kGates;  // a second stage: its leak is a gate's
  const int H = p.hidden, t = p.step(s);
  const bool valid = p.is_valid(t, b), last = s + 1 == p.time;
  const bool reset = !last && p.is_reset(p.step(s + 1), b);
  const ptrdiff_t row = p.row(t, b), at = (ptrdiff_t)b * H;
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
        xs[g] = x.template at<kVectors>(g, u, unit, H, lanes);
        rs[g] = r.template at<kVectors>(g, u, unit, H, lanes);
      }
      Vector<T> leak{};
      if (CellType::kHasLeak) leak = load(kOfGates ? w.leak + at + unit : p.own + unit, lanes);
      state = CellType::forward(xs, rs, old, leak, saved);
    }
    store(p.y + row * H + unit, valid ? state.h : Vector<T>{}, lanes);
    if (p.saved) {
      for (int i = CellType::kFirstSaved; i < CellType::kSaved; i++) store(saved_row + i * H + unit, saved[i], lanes);
    }
    if (last) {
      store(p.last_h + at + unit, state.h, lanes);
      if (CellType::kHasC) store(p.last_c + at + unit, state.c, lanes);
      continue;
    }
    if (reset) state.h = load(p.reset_h + at + unit, lanes);
    if (reset && CellType::kHasC) state.c = load(p.reset_c + at + unit, lanes);
    store(h_out + unit, state.h, lanes);
    if (CellType::kHasC) store(w.c + at + unit, state.c, lanes);
    if (p.scale) {
      store(w.scaled[(s + 1) & 1] + at + unit, state.h * load(p.scale + at + unit, lanes), lanes);
    }
  }
}

template <class T, class CellType, int kVectors>
void forward_panel(const Problem<T>& p, const Workspace<T>& w, int s, Range rows, const Panel& panel) {
  constexpr int N = CellType::kGates * kVectors;
  const int H = p.hidden, t = p.step(s);
  const T* h = (p.scale ? w.scaled : w.h)[s & 1];
  alignas(64) T tiles[2][24 * kLanes<T>];
  for (int b = rows.begin; b < rows.end; b += kRows[N]) {
    const int count = rows.end - b < kRows[N] ? rows.end - b : kRows[N];
    const auto tile = tile_of<T, N>(count);
    Segment<T> segments[2];
    int used = 0;
    if (p.x) {
      const T* x = p.x + p.row(t, b) * p.in_features;
      const T* packed = w.kernel + (ptrdiff_t)panel.first * p.in_features * CellType::kGates * kLanes<T>;
      segments[used++] = {x, p.next_row() * p.in_features, packed, p.in_features};
      if (CellType::kApart) {
        tile(segments, used, tiles[1]);
        used = 0;
      }
    }
    const T* packed = w.recurrent + (ptrdiff_t)panel.first * H * CellType::kGates * kLanes<T>;
    segments[used++] = {h + (ptrdiff_t)b * H, H, packed, H};
    tile(segments, used, tiles[0]);
    for (int m = 0; m < count; m++) {
      const ptrdiff_t in_tile = m * N * kLanes<T>;
      const T* xw = p.xw ? p.xw + p.row(t, b + m) * CellType::kGates * H : nullptr;
      const Addend<T> x{CellType::kApart && p.x ? tiles[1] + in_tile : nullptr, xw, p.bias};
      const Addend<T> r{tiles[0] + in_tile, nullptr, p.recurrent_bias};
      finish_forward<T, CellType, kVectors>(p, w, s, b + m, panel, x, r);
    }
  }
}

// The first stage of a step: q and z, and what the second one needs of them.
template <class T, int kVectors>
void gates_panel(const Problem<T>& p, const Workspace<T>& w, int s, Range rows, const Panel& panel) {
  constexpr int N = 2 * kVectors, L = kLanes<T>;
  const int H = p.hidden, t = p.step(s);
  const T* h = (p.scale ? w.scaled : w.h)[s & 1];
  alignas(64) T tiles[24 * L];
  for (int b = rows.begin; b < rows.end; b += kRows[N]) {
    const int count = rows.end - b < kRows[N] ? rows.end - b : kRows[N];
    Segment<T> segments[2];
    int used = 0;
    if (p.x) {
      const T* x = p.x + p.row(t, b) * p.in_features;
      const T* packed = w.kernel + (ptrdiff_t)panel.first * p.in_features * 2 * L;
      segments[used++] = {x, p.next_row() * p.in_features, packed, p.in_features};
    }
    segments[used++] = {h + (ptrdiff_t)b * H, H, w.recurrent + (ptrdiff_t)panel.first * H * 2 * L, H};
    tile_of<T, N>(count)(segments, used, tiles);
    for (int m = 0; m < count; m++) {
      const ptrdiff_t row = p.row(t, b + m), at = (ptrdiff_t)(b + m) * H;
      const Addend<T> x{tiles + m * N * L, p.xw ? p.xw + row * 3 * H : nullptr, p.bias};
      const Addend<T> r{nullptr, nullptr, p.recurrent_bias};
      for (int u = 0; u < kVectors; u++) {
        const int unit = (panel.first + u) * L, lanes = H - unit;
        auto gate = [&](int g) {
          if (!p.is_valid(t, b + m)) return Vector<T>{};
          return sigmoid_vector<T>(x.template at<kVectors>(g, u, unit, H, lanes) +
                                   r.template at<kVectors>(g, u, unit, H, lanes));
        };
        const Vector<T> q = gate(0), z = gate(1);
        store(w.q_h + at + unit, q * load(w.h[s & 1] + at + unit, lanes), lanes);
        store(w.leak + at + unit, T(1) - z, lanes);
        if (p.saved) store(p.saved + row * 3 * H + unit, q, lanes), store(p.saved + (row * 3 + 1) * H + unit, z, lanes);
      }
    }
  }
}

// The second stage: the candidate, and the new state.
template <class T, int kVectors>
void candidate_panel(const Problem<T>& p, const Workspace<T>& w, int s, Range rows, const Panel& panel) {
  constexpr int L = kLanes<T>;
  const int H = p.hidden, t = p.step(s);
  const ptrdiff_t width = (ptrdiff_t)Workspace<T>::vectors_of(H) * L;
  alignas(64) T tiles[24 * L];
  for (int b = rows.begin; b < rows.end; b += kRows[kVectors]) {
    const int count = rows.end - b < kRows[kVectors] ? rows.end - b : kRows[kVectors];
    Segment<T> segments[2];
    int used = 0;
    if (p.x) {
      const T* x = p.x + p.row(t, b) * p.in_features;
      const T* packed = w.kernel + (2 * width + panel.first * L) * p.in_features;
      segments[used++] = {x, p.next_row() * p.in_features, packed, p.in_features};
    }
    segments[used++] = {w.q_h + (ptrdiff_t)b * H, H, w.recurrent + (2 * width + panel.first * L) * H, H};
    tile_of<T, kVectors>(count)(segments, used, tiles);
    for (int m = 0; m < count; m++) {
      const T* xw = p.xw ? p.xw + (p.row(t, b + m) * 3 + 2) * H : nullptr;
      const Addend<T> x{tiles + m * kVectors * L, xw, p.bias ? p.bias + 2 * H : nullptr};
      finish_forward<T, Candidate<T>, kVectors>(p, w, s, b + m, panel, x, Addend<T>{});
    }
  }
}

// The end of a backward step for one row and panel. `product` is dr_{t+1} @ recurrent_kernel.T, null at first.
// s == -1 stands for what is before the first step: there the gradient of the initial carry is handed out.
template <class T, class CellType, int kVectors>
INLINE void finish_backward(const Problem<T>& p, const Workspace<T>& w, int s, int b, const Panel& panel,
                            const T* product) {
  constexpr int L = kLanes<T>, kGates = CellType::kGates;
  constexpr bool kOfGates = CellType::kBlocks > kGates;  // a second stage: its leak and its `more` are a gate's
  const int H = p.hidden;
  const ptrdiff_t at = (ptrdiff_t)b * H;
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
      if (p.scale) dh *= load(p.scale + at + unit, lanes);
      d.h += dh;
    }
    if (reset) {
      store(p.dreset_h + at + unit, load(p.dreset_h + at + unit, lanes) + d.h, lanes);
      if (CellType::kHasC) store(p.dreset_c + at + unit, load(p.dreset_c + at + unit, lanes) + d.c, lanes);
      d = State<T>{};
    }
    if (s < 0) {
      store(p.dh + at + unit, d.h, lanes);
      if (CellType::kHasC) store(p.dc + at + unit, d.c, lanes);
      continue;
    }
    Vector<T> dx[kGates] = {}, more = {};
    if (valid) {
      if (p.dy) d.h += load(p.dy + row * H + unit, lanes);
      Vector<T> saved[CellType::kSaved + 1];
      for (int i = 0; i < CellType::kSaved; i++) saved[i] = load(saved_row + i * H + unit, lanes);
      State<T> old{};
      if (CellType::kApart || CellType::kHasLeak) old.h = load(before.h + unit, lanes);
      if (CellType::kHasC) old.c = load(before.c + unit, lanes);
      Vector<T> y{};
      if (CellType::kSaved == 0) y = load(p.y + row * H + unit, lanes);
      Vector<T> leak{};
      if (CellType::kHasLeak) leak = kOfGates ? T(1) - saved[1] : load(p.own + unit, lanes);
      CellType::backward(y, old, leak, saved, d, dx, more);
    }
    store(w.direct + at + unit, d.h, lanes);
    if (CellType::kHasC) store(w.c + at + unit, d.c, lanes);
    for (int g = 0; g < kGates; g++) {
      const int block = CellType::kFirst + g;
      store(ring + block * H + unit, dx[g], lanes);
      if (p.dxw) store(p.dxw + (row * CellType::kBlocks + block) * H + unit, dx[g], lanes);
    }
    if (CellType::kApart || CellType::kHasLeak) store(ring + CellType::kMore * H + unit, more, lanes);
    if (kOfGates && p.dxw) store(p.dxw + (row * CellType::kBlocks + CellType::kMore) * H + unit, more, lanes);
  }
}

// The first stage's part of a backward step: what reaches q h goes on to the pre-activation of q, and to h.
template <class T, int kVectors>
void gates_backward_panel(const Problem<T>& p, const Workspace<T>& w, int s, Range rows, const Panel& panel) {
  constexpr int L = kLanes<T>;
  const int H = p.hidden, t = p.step(s);
  const ptrdiff_t width = (ptrdiff_t)Workspace<T>::vectors_of(H) * L;
  alignas(64) T tiles[24 * L];
  for (int b = rows.begin; b < rows.end; b += kRows[kVectors]) {
    const int count = rows.end - b < kRows[kVectors] ? rows.end - b : kRows[kVectors];
    const T* dn = w.ring_at(s, b, p.batch) + 2 * H;
    const Segment<T> segment{dn, w.ring_row, w.recurrent + 2 * width * H + (ptrdiff_t)panel.first * H * L, H};
    tile_of<T, kVectors>(count)(&segment, 1, tiles);
    for (int m = 0; m < count; m++) {
      const ptrdiff_t row = p.row(t, b + m), at = (ptrdiff_t)(b + m) * H;
      const T* h = previous<T, Candidate<T>>(p, s, b + m).h;
      for (int u = 0; u < kVectors; u++) {
        const int unit = (panel.first + u) * L, lanes = H - unit;
        const Vector<T> d = load(tiles + (m * kVectors + u) * L), q = load(p.saved + row * 3 * H + unit, lanes);
        const Vector<T> dq = p.is_valid(t, b + m) ? d * load(h + unit, lanes) * q * (T(1) - q) : Vector<T>{};
        store(w.ring_at(s, b + m, p.batch) + unit, dq, lanes);
        if (p.dxw) store(p.dxw + row * 3 * H + unit, dq, lanes);
        if (p.is_valid(t, b + m)) store(w.direct + at + unit, load(w.direct + at + unit, lanes) + d * q, lanes);
      }
    }
  }
}

template <class T, class CellType, int kVectors>
void backward_panel(const Problem<T>& p, const Workspace<T>& w, int s, Range rows, const Panel& panel) {
  constexpr bool kSecondStage = CellType::kBlocks > CellType::kGates;
  const int H = p.hidden, width = kSecondStage ? 2 * H : CellType::kGates * H;
  // Of dr, all gates or all but the last are dx.
  const int shared = CellType::kApart ? width - H : width;
  const T* packed = w.recurrent + (ptrdiff_t)panel.first * width * kLanes<T>;
  alignas(64) T tiles[24 * kLanes<T>];
  for (int b = rows.begin; b < rows.end; b += kRows[kVectors]) {
    const int count = rows.end - b < kRows[kVectors] ? rows.end - b : kRows[kVectors];
    const bool first = s == p.time - 1;
    if (!first) {
      const T* rest = packed + (ptrdiff_t)shared * kVectors * kLanes<T>;
      const T* ring = w.ring_at(s + 1, b, p.batch);
      const Segment<T> segments[2] = {{ring, w.ring_row, packed, shared}, {ring + width, w.ring_row, rest, H}};
      tile_of<T, kVectors>(count)(segments, CellType::kApart ? 2 : 1, tiles);
    }
    for (int m = 0; m < count; m++) {
      const T* product = first ? nullptr : tiles + m * kVectors * kLanes<T>;
      finish_backward<T, CellType, kVectors>(p, w, s, b + m, panel, product);
    }
  }
}

template <class T, class CellType>
void forward(const Problem<T>& p, const Member& member) {
  constexpr int kMost = CellType::kTwoStages ? 2 : CellType::kGates == 1 ? 4 : 1;
  constexpr int kFirstGates = CellType::kTwoStages ? 2 : CellType::kGates;
  const Workspace<T> w(p, CellType::kGates, kMost, member, /*backward=*/false);
  const Share share(p, w, member);
  const Range mine = split(p.batch, member.rank, member.size);
  const int H = p.hidden;
  for (int i = w.pack.begin; member.packs && i < w.pack.end; i++) {
    if (p.x) pack_panel(w.panels[i], p.kernel, p.in_features, kFirstGates, H, CellType::kGates, w.kernel);
    pack_panel(w.panels[i], p.recurrent_kernel, H, kFirstGates, H, kFirstGates, w.recurrent);
    if (!CellType::kTwoStages) continue;
    const ptrdiff_t width = (ptrdiff_t)Workspace<T>::vectors_of(H) * kLanes<T>;
    if (p.x) pack_panel(w.panels[i], p.kernel + 2 * H, p.in_features, 1, H, 3, w.kernel + 2 * width * p.in_features);
    pack_panel(w.panels[i], p.own, H, 1, H, 1, w.recurrent + 2 * width * H);
  }
  if (!member.runs) return;
  for (int b = mine.begin; b < mine.end; b++) {
    const bool reset = p.is_reset(p.step(0), b);
    const ptrdiff_t at = (ptrdiff_t)b * H;
    for (ptrdiff_t j = at; j < at + H; j++) {
      w.h[0][j] = reset ? p.reset_h[j] : p.h[j];
      if (CellType::kHasC) w.c[j] = reset ? p.reset_c[j] : p.c[j];
      if (p.scale) w.scaled[0][j] = w.h[0][j] * p.scale[j];
    }
  }
  member.wait();
  auto stage = [&](auto&& run) {
    for (int i = share.panels.begin; i < share.panels.end; i++) {
      with_vectors<kMost>(w.panels[i].vectors, [&]<int kVectors>() { run.template operator()<kVectors>(w.panels[i]); });
    }
    if (!member.by_rows) member.wait();
  };
  for (int s = 0; s < p.time; s++) {
    if constexpr (CellType::kTwoStages) {
      stage([&]<int kVectors>(const Panel& panel) { gates_panel<T, kVectors>(p, w, s, share.rows, panel); });
      stage([&]<int kVectors>(const Panel& panel) { candidate_panel<T, kVectors>(p, w, s, share.rows, panel); });
    } else {
      stage([&]<int kVectors>(const Panel& panel) {
        forward_panel<T, CellType, kVectors>(p, w, s, share.rows, panel);
      });
    }
  }
}

template <class T, class CellType>
void backward(const Problem<T>& p, const Member& member) {
  const Workspace<T> w(p, CellType::kGates, 4, member, /*backward=*/true);
  const Share share(p, w, member);
  const Range mine = split(p.batch, member.rank, member.size);
  const int H = p.hidden;
  for (int i = w.pack.begin; i < w.pack.end; i++) {
    const int width = (CellType::kTwoStages ? 2 : CellType::kGates) * H;
    pack_panel_transposed(w.panels[i], p.recurrent_kernel, H, width, w.recurrent);
    if (!CellType::kTwoStages) continue;
    pack_panel_transposed(w.panels[i], p.own, H, H, w.recurrent + 2 * (ptrdiff_t)w.vectors_of(H) * kLanes<T> * H);
  }
  for (ptrdiff_t j = (ptrdiff_t)mine.begin * H; j < (ptrdiff_t)mine.end * H; j++) {
    w.direct[j] = p.dlast_h[j];
    if (CellType::kHasC) w.c[j] = p.dlast_c[j];
    if (p.resets) p.dreset_h[j] = 0;
    if (p.resets && CellType::kHasC) p.dreset_c[j] = 0;
  }
  if (p.dx) {
    const int vectors = Workspace<T>::vectors_of(p.in_features), panels = (vectors + 3) / 4;
    const Range own = split(panels, member.rank, member.size);
    for (int i = own.begin; i < own.end; i++) {
      const Range r = split(vectors, i, panels);
      pack_panel_transposed({r.begin, r.end - r.begin}, p.kernel, p.in_features, CellType::kGates * H, w.kernel);
    }
  }
  member.wait();
  bool first = true;
  Chunk chunk{0, p.time};
  for (int s = p.time - 1; s >= -1; s--) {
    auto stage = [&](auto&& run) {
      for (int i = share.panels.begin; i < share.panels.end; i++) {
        with_vectors<4>(w.panels[i].vectors, [&]<int kVectors>() { run.template operator()<kVectors>(w.panels[i]); });
      }
    };
    using Last = std::conditional_t<CellType::kTwoStages, Candidate<T>, CellType>;
    stage([&]<int kVectors>(const Panel& panel) { backward_panel<T, Last, kVectors>(p, w, s, share.rows, panel); });
    if (s < 0) break;
    if (CellType::kTwoStages) {
      if (!member.by_rows) member.wait();
      stage([&]<int kVectors>(const Panel& panel) { gates_backward_panel<T, kVectors>(p, w, s, share.rows, panel); });
    }
    // A chunk is whole when its first step is done. Who has done his part of its gradients may go on, since the next
    // chunk lies elsewhere in the ring, and at the end of that one everybody waits again.
    if (!member.by_rows || s % w.chunk == 0) member.wait();
    if (s % w.chunk != 0) continue;
    chunk.begin = s;
    weight_gradients<T, CellType>(p, w, member, chunk, first);
    if (p.dx) input_gradients(p, w, member, chunk, CellType::kGates);
    chunk.end = s;
    first = false;
  }
}

template <class T, template <class> class Body>
void for_cell(const Problem<T>& p, const Member& member) {
  switch (p.cell) {
    case Cell::kTanh: return Body<Simple<T, Cell::kTanh>>::run(p, member);
    case Cell::kRelu: return Body<Simple<T, Cell::kRelu>>::run(p, member);
    case Cell::kSigmoid: return Body<Simple<T, Cell::kSigmoid>>::run(p, member);
    case Cell::kLSTM: return Body<LSTM<T>>::run(p, member);
    case Cell::kGRU: return Body<GRU<T>>::run(p, member);
    case Cell::kLeaky: return Body<Leaky<T>>::run(p, member);
    case Cell::kGRUBefore: return Body<GRUBefore<T>>::run(p, member);
  }
}

template <class CellType>
struct Forward {
  template <class T>
  static void run(const Problem<T>& p, const Member& member) {
    forward<T, CellType>(p, member);
  }
};

template <class CellType>
struct Backward {
  template <class T>
  static void run(const Problem<T>& p, const Member& member) {
    backward<T, CellType>(p, member);
  }
};

template <class T>
size_t workspace(const Problem<T>& p, bool backward, int threads) {
  return Workspace<T>::bytes(p, gates_of(p.cell), backward, threads);
}

extern const Kernels<float> kernels_f32{workspace<float>, for_cell<float, Forward>, for_cell<float, Backward>};
extern const Kernels<double> kernels_f64{workspace<double>, for_cell<double, Forward>, for_cell<double, Backward>};

}  // namespace jaxrnn::JAXRNN_ISA
