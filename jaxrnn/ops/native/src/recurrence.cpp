// The forward and the backward loop over time, for the instruction set this file is compiled for.
//
// The forward pass computes at every step, for one panel of units of all gates at a time:
//
//     x = x_t @ kernel + bias     r = h_{t-1} @ recurrent_kernel + recurrent_bias     carry_t = cell(x, r, carry_{t-1})
//
// so that pre-activations stay in registers and the cache. The backward pass goes from the last step to the first:
//
//     dh_t  = dy_t + dr_{t+1} @ recurrent_kernel.T + the direct gradient from the cell's equations
//     dx_t, dr_t = derivative of the cell
//
// Every few steps it adds to the weight gradients, which are sums over all steps: see gradients.h.

#include "recurrence.h"

#include <algorithm>
#include <type_traits>

#include "backward.h"
#include "cells.h"
#include "forward.h"
#include "gradients.h"
#include "workspace.h"

namespace jaxrnn::JAXRNN_ISA {

// Calls run<vectors>(panel) for these panels.
template <int kMost, class T, class Run>
INLINE void for_each_panel(const Workspace<T>& w, Range panels, Run&& run) {
  for (int i = panels.begin; i < panels.end; i++) {
    with_vectors<kMost>(w.panels[i].vectors, [&]<int kVectors>() { run.template operator()<kVectors>(w.panels[i]); });
  }
}

template <class T, class CellType>
void forward(const Problem<T>& p, const Division& division) {
  constexpr int kFirstGates = CellType::kTwoStages ? 2 : CellType::kGates;
  constexpr int kMost = kMostVectors / kFirstGates;
  const int most = std::max(1, most_vectors(p.batch) / kFirstGates);
  const Workspace<T> w(p, CellType::kGates, most, division, /*backward=*/false);
  const int H = p.hidden, R = p.row_units;
  auto pack = [&](Range panels) {
    for (int i = panels.begin; i < panels.end; i++) {
      if (p.x) pack_panel(w.panels[i], p.kernel, p.in_features, kFirstGates, H, R, CellType::kGates, w.kernel);
      pack_panel(w.panels[i], p.recurrent_kernel, H, kFirstGates, H, H, kFirstGates, w.recurrent);
      if (!CellType::kTwoStages) continue;
      const ptrdiff_t width = (ptrdiff_t)Workspace<T>::vectors_of(H) * kLanes<T>;
      T* third = w.kernel + 2 * width * p.in_features;
      if (p.x) pack_panel(w.panels[i], p.kernel + 2 * R, p.in_features, 1, H, R, 3, third);
      pack_panel(w.panels[i], p.cell_param, H, 1, H, H, 1, w.recurrent + 2 * width * H);
    }
  };
  auto begin = [&](Range rows) {
    for (int b = rows.begin; b < rows.end; b++) {
      const bool reset = p.is_reset(p.step(0), b);
      const ptrdiff_t at = (ptrdiff_t)b * H, of_caller = (ptrdiff_t)b * R;
      for (int j = 0; j < H; j++) {
        w.h[0][at + j] = (reset ? p.reset_h : p.h)[of_caller + j];
        if (CellType::kHasC) w.c[at + j] = (reset ? p.reset_c : p.c)[of_caller + j];
        if (p.scale) w.scaled[0][at + j] = w.h[0][at + j] * p.scale[of_caller + j];
      }
    }
  };
  // A step has one stage, or two if the candidate's product needs the reset gate.
  constexpr int kStages = CellType::kTwoStages ? 2 : 1;
  auto run = [&](int s, int stage, Range rows, Range panels) {
    for_each_panel<kMost>(w, panels, [&]<int kVectors>(const Panel& panel) {
      if constexpr (!CellType::kTwoStages) {
        forward_panel<T, CellType, kVectors>(p, w, s, rows, panel);
      } else if (stage == 0) {
        gates_panel<T, kVectors>(p, w, s, rows, panel);
      } else {
        candidate_panel<T, kVectors>(p, w, s, rows, panel);
      }
    });
  };
  const Range all_rows{0, p.batch}, all_panels = w.all_panels();
  if (division.by_rows) {
    // The caller packs alone, so that it need not wait for threads that start late.
    if (division.packs) pack(all_panels);
    if (!division.runs) return;
    division.each_part([&](int part) {
      const Range rows = division.rows_of(part, p.batch);
      begin(rows);
      for (int s = 0; s < p.time; s++) {
        for (int stage = 0; stage < kStages; stage++) run(s, stage, rows, all_panels);
      }
    });
    return;
  }
  division.each_part([&](int part) {
    pack(w.packed_by(part));
    begin(split(p.batch, part, division.parts));
  });
  for (int s = 0; s < p.time; s++) {
    for (int stage = 0; stage < kStages; stage++) {
      division.each_part([&](int part) { run(s, stage, all_rows, w.panels_of(part)); });
    }
  }
}

template <class T, class CellType>
void backward(const Problem<T>& p, const Division& division) {
  const Workspace<T> w(p, CellType::kGates, most_vectors(p.batch), division, /*backward=*/true);
  const int H = p.hidden, parts = division.parts;
  auto begin = [&](int part) {
    const Range panels = w.packed_by(part), rows = split(p.batch, part, parts);
    for (int i = panels.begin; i < panels.end; i++) {
      const int width = (CellType::kTwoStages ? 2 : CellType::kGates) * H;
      pack_panel_transposed(w.panels[i], p.recurrent_kernel, H, width, w.recurrent);
      if (!CellType::kTwoStages) continue;
      const ptrdiff_t width_of_units = (ptrdiff_t)w.vectors_of(H) * kLanes<T>;
      pack_panel_transposed(w.panels[i], p.cell_param, H, H, w.recurrent + 2 * width_of_units * H);
    }
    for (int b = rows.begin; b < rows.end; b++) {
      const ptrdiff_t at = (ptrdiff_t)b * H, of_caller = (ptrdiff_t)b * p.row_units;
      for (int j = 0; j < H; j++) {
        w.direct[at + j] = p.dlast_h[of_caller + j];
        if (CellType::kHasC) w.c[at + j] = p.dlast_c[of_caller + j];
        if (p.resets) p.dreset_h[of_caller + j] = 0;
        if (p.resets && CellType::kHasC) p.dreset_c[of_caller + j] = 0;
      }
    }
    if (!p.dx) return;
    const int vectors = Workspace<T>::vectors_of(p.in_features), input_panels = (vectors + 3) / 4;
    const Range mine = split(input_panels, part, parts);
    for (int i = mine.begin; i < mine.end; i++) {
      const Range r = split(vectors, i, input_panels);
      pack_panel_transposed({r.begin, r.end - r.begin}, p.kernel, p.in_features, CellType::kGates * H, w.kernel);
    }
  };
  auto step = [&](int s, Range rows, Range panels) {
    using Last = std::conditional_t<CellType::kTwoStages, Candidate<T>, CellType>;
    for_each_panel<kMostVectors>(w, panels, [&]<int kVectors>(const Panel& panel) {
      backward_panel<T, Last, kVectors>(p, w, s, rows, panel);
    });
  };
  auto gates = [&](int s, Range rows, Range panels) {
    for_each_panel<kMostVectors>(w, panels, [&]<int kVectors>(const Panel& panel) {
      gates_backward_panel<T, kVectors>(p, w, s, rows, panel);
    });
  };
  auto gradients = [&](int part, Chunk chunk, bool at_end) {
    const Share share = division.share_of(part, at_end);
    if (chunk.begin == chunk.end || !share.count) return;
    weight_gradients<T, CellType>(p, w, part, share, chunk, /*first=*/chunk.end == p.time);
    if (p.dx) input_gradients(p, w, share, chunk, CellType::kGates);
  };
  auto rows_of = [&](int part) { return division.rows_of(part, p.batch); };
  auto panels_of = [&](int part) { return division.by_rows ? w.all_panels() : w.panels_of(part); };
  division.each_part(begin);
  // A chunk's weight gradients need all parts of its steps. So they are computed at the beginning of the next chunk,
  // whose steps use the other half of the ring.
  Chunk done{p.time, p.time};
  for (int end = p.time; end > 0; end = done.begin) {
    const Chunk chunk{(end - 1) / w.chunk * w.chunk, end};
    if (division.by_rows) {
      division.each_part([&](int part) {
        gradients(part, done, /*at_end=*/false);
        for (int s = chunk.end - 1; s >= chunk.begin; s--) {
          step(s, rows_of(part), panels_of(part));
          if (CellType::kTwoStages) gates(s, rows_of(part), panels_of(part));
        }
      });
    } else {
      for (int s = chunk.end - 1; s >= chunk.begin; s--) {
        division.each_part([&](int part) {
          if (s == chunk.end - 1) gradients(part, done, /*at_end=*/false);
          step(s, rows_of(part), panels_of(part));
        });
        if (!CellType::kTwoStages) continue;
        division.each_part([&](int part) { gates(s, rows_of(part), panels_of(part)); });
      }
    }
    done = chunk;
  }
  division.each_part([&](int part) {
    gradients(part, done, /*at_end=*/true);
    step(-1, rows_of(part), panels_of(part));
  });
}

template <class T, template <class> class Body>
void for_cell(const Problem<T>& p, const Division& division) {
  switch (p.cell) {
    case Cell::kTanh: return Body<Simple<T, Cell::kTanh>>::run(p, division);
    case Cell::kRelu: return Body<Simple<T, Cell::kRelu>>::run(p, division);
    case Cell::kSigmoid: return Body<Simple<T, Cell::kSigmoid>>::run(p, division);
    case Cell::kLSTM: return Body<LSTM<T>>::run(p, division);
    case Cell::kGRU: return Body<GRU<T>>::run(p, division);
    case Cell::kLeaky: return Body<Leaky<T>>::run(p, division);
    case Cell::kGRUBefore: return Body<GRUBefore<T>>::run(p, division);
  }
}

template <class CellType>
struct Forward {
  template <class T>
  static void run(const Problem<T>& p, const Division& division) {
    forward<T, CellType>(p, division);
  }
};

template <class CellType>
struct Backward {
  template <class T>
  static void run(const Problem<T>& p, const Division& division) {
    backward<T, CellType>(p, division);
  }
};

template <class T>
size_t workspace(const Problem<T>& p, bool backward, int parts) {
  return Workspace<T>::bytes(p, gates_of(p.cell), backward, parts);
}

extern const Kernels<float> kernels_f32{workspace<float>, for_cell<float, Forward>, for_cell<float, Backward>};
#if !defined(JAXRNN_FLOAT32_ONLY)  // for the sanitizers, under which every function takes long to compile
extern const Kernels<double> kernels_f64{workspace<double>, for_cell<double, Forward>, for_cell<double, Backward>};
#endif

}  // namespace jaxrnn::JAXRNN_ISA
