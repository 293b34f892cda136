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

#include "backward.h"
#include "cells.h"
#include "forward.h"
#include "gradients.h"
#include "workspace.h"

namespace jaxrnn::JAXRNN_ISA {

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
