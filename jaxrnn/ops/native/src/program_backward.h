// The backward pass of a program: at every step, for a group of rows, the product that gives the gradient of h, and then
// the program for blocks of them. Every few steps, the weight gradients of those steps.

#pragma once

#include "amx_gradients.h"
#include "gradients.h"
#include "program_workspace.h"

namespace jaxrnn::JAXRNN_ISA {

// Row b of a part of the carry before running step s. It has the units, and not always a whole block behind them.
template <class T>
const T* carry_before(const ProgramProblem<T>& p, int s, int b, int i) {
  const ptrdiff_t at = (ptrdiff_t)b * p.row_units;
  if (p.is_reset(p.step(s), b)) return p.reset_carry[i] + at;
  // In reverse the padding comes first, and does not change the initial carry.
  if (s == 0 || !p.is_valid(p.step(s - 1), b)) return p.carry[i] + at;
  const int t = p.step(s - 1), slot = (int)p.carry_slots[i];
  return slot >= 0 ? p.saved_at(t, slot, b) : p.y + p.row(t, b) * p.row_units;
}

// A section of rows b to b + rows of step t of an array [steps, units] as an operand. The last vector of a row may reach
// into what follows it; rows are copied to a block where that would be past the end of the array.
template <class T>
Operand<T> units(const ProgramProblem<T>& p, const ProgramWorkspace<T>& w, const Section& section, const T* array, int t,
                 int b, int rows, T* block) {
  constexpr int L = kLanes<T>;
  const int unit = section.unit, end = unit + section.vectors * L;
  const T* from = array + p.row(t, b) * p.row_units + unit;
  const ptrdiff_t row = p.next_row() * p.row_units, after = (ptrdiff_t)p.time * p.batch - 1 - p.row(t, b + rows - 1);
  if (after * p.row_units + p.hidden >= end) return {const_cast<T*>(from), row, L};
  for (int r = 0; r < rows; r++) copy_to_block(block + (ptrdiff_t)r * w.width, from + r * row, p.hidden - unit, end - unit);
  return {block, w.width, L};
}

template <class T>
Operand<T> carry_operand(const ProgramProblem<T>& p, const ProgramWorkspace<T>& w, const Section& section, int s, int b,
                         int rows, int i, T* block) {
  constexpr int L = kLanes<T>;
  bool together = s > 0;
  for (int r = 0; r < rows && together && (p.valid || p.resets); r++) {
    together = p.is_valid(p.step(s - 1), b + r) && !p.is_reset(p.step(s), b + r);
  }
  const int unit = section.unit;
  if (together) {
    const int t = p.step(s - 1), slot = (int)p.carry_slots[i];
    if (slot >= 0) return {p.saved_at(t, slot, b) + unit, w.pitch, L};
    return units(p, w, section, p.y, t, b, rows, block);
  }
  for (int r = 0; r < rows; r++) {
    const T* from = carry_before(p, s, b + r, i) + unit;
    copy_to_block(block + (ptrdiff_t)r * w.width, from, p.hidden - unit, section.vectors * L);
  }
  return {block, w.width, L};
}

// Asks for what the program will read of these rows, which lie far apart, so that it arrives during the product. As in
// backward.h, this must be inlined.
template <class T>
INLINE void fetch_ahead(const ProgramProblem<T>& p, const Section& section, int t, int b, int rows) {
  const int begin = section.unit, end = std::min(begin + section.vectors * kLanes<T>, p.hidden);
  auto fetch = [&](const T* from) __attribute__((always_inline)) {
    for (int j = begin; j < end; j += 64 / sizeof(T)) __builtin_prefetch(from + j, 0, /*locality=*/2);
  };
  for (int r = b; r < b + rows; r++) {
    if (p.dy) fetch(p.dy + p.row(t, r) * p.row_units);
    fetch(p.y + p.row(t, r) * p.row_units);
    for (int slot = 0; slot < p.saved_count; slot++) fetch(p.saved_at(t, slot, r));
  }
}

// dh += (drh of the step after s) @ recurrent_kernel.T * scale, for rows b to b + rows.
template <class T>
void add_recurrent_gradient(const ProgramProblem<T>& p, const ProgramWorkspace<T>& w, const Section& section, int s, int b,
                            int rows) {
  constexpr int L = kLanes<T>;
  const int H = p.hidden, depth = padded(H), width = p.recurrent_gates * depth;
  prepare_tiles(rows);
  T* dh = w.carry(p, s, p.carries - 1, b);
  alignas(64) T tiles[kGroupRows * kProgramVectors * L];
  for (int i = section.panels.begin; i < section.panels.end; i++) {
    const Panel& panel = w.panels[i];
    const Side<T>* packed = w.recurrent + (ptrdiff_t)panel.first * width * L;
    with_vectors<kProgramVectors>(panel.vectors, [&]<int N>() {
      Segment<Side<T>> segments[kMostGates];
      for (int g = 0; g < p.recurrent_gates; g++) {
        const Side<T>* drh = w.factors_at(s + 1, b, p.batch, w.drh_block(p, g));
        segments[g] = {drh, w.next_factors(), packed + (ptrdiff_t)g * depth * N * L, depth};
      }
      T* to = dh + panel.first * L;
      if (!p.scale) return product<T, N>(w.sets, segments, p.recurrent_gates, rows, to, w.pitch, to, w.pitch);
      product<T, N>(w.sets, segments, p.recurrent_gates, rows, tiles);
      for (int r = 0; r < rows; r++, to += w.pitch) {
        const T* scale = p.scale + (ptrdiff_t)(b + r) * p.row_units;
        for (int u = 0; u < N; u++) {
          const int unit = (panel.first + u) * L;
          const Vector<T> v = load(tiles + (r * N + u) * L) * load(scale + unit, H - unit);
          store<T>(to + u * L, load(to + u * L) + v);
        }
      }
    });
  }
}

// One step of rows b to b + rows. s == -1 is the end of the backward pass: it writes the gradient of the initial carry.
template <class T>
void backward_block(const ProgramProblem<T>& p, const ProgramWorkspace<T>& w, const Section& section,
                    Operand<T>* operands, int s, int b, int rows, int part) {
  constexpr int L = kLanes<T>;
  const int unit = section.unit, size = std::min(section.vectors * L, p.hidden - unit), R = p.row_units;
  const bool first = s == p.time - 1;
  for (int r = 0; r < rows && !first && p.resets; r++) {
    if (!p.is_reset(p.step(s + 1), b + r)) continue;
    for (int i = 0; i < p.carries; i++) {
      T *d = w.carry(p, s, i, b + r) + unit, *to = p.dreset_carry[i] + (ptrdiff_t)(b + r) * R + unit;
      for (int j = 0; j < size; j++) to[j] += d[j];
      std::fill(d, d + section.vectors * L, T(0));
    }
  }
  if (s < 0) {
    for (int i = 0; i < p.carries; i++) {
      for (int r = b; r < b + rows; r++) {
        copy_from_block(p.dcarry[i] + (ptrdiff_t)r * R + unit, w.carry(p, s, i, r) + unit, size);
      }
    }
    return;
  }
  const int t = p.step(s);
  T* ring = w.ring_at(s, b, p.batch) + unit;
  for (int i = 0; i < p.code.operand_count; i++) {
    const auto [place, index] = p.code.operands[i];
    Operand<T>& o = operands[i];
    switch (place) {
      case Place::kDerived: o = {w.derived + index * w.pitch + unit, 0, L}; break;
      case Place::kDCarry: o = {w.carry(p, s, index, b) + unit, w.pitch, L}; break;
      case Place::kDCarryOut: o = {w.carry(p, s + 1, index, b) + unit, w.pitch, L}; break;
      case Place::kSaved: o = {p.saved_at(t, index, b) + unit, w.pitch, L}; break;
      case Place::kNewCarry: o = {p.saved_at(t, (int)p.carry_slots[index], b) + unit, w.pitch, L}; break;
      case Place::kCarry: o = carry_operand(p, w, section, s, b, rows, index, w.carry_block(part, index)); break;
      case Place::kY: o = units(p, w, section, p.y, t, b, rows, w.y_block(part)); break;
      case Place::kDY:
        o = p.dy ? units(p, w, section, p.dy, t, b, rows, w.dy_block(part)) : Operand<T>{w.zero, 0, 0};
        break;
      case Place::kDXw: o = {ring + index * w.pitch, w.ring_row, L}; break;
      case Place::kDRh: o = {ring + w.drh_block(p, index) * w.pitch, w.ring_row, L}; break;
      case Place::kSums: o = {ring + w.sums_block(p, index) * w.pitch, w.ring_row, L}; break;
      default: break;
    }
  }
  run_program(p.code, operands, rows, section.vectors, p.hidden);
  for (int r = 0; r < rows && p.valid; r++) {
    if (p.is_valid(t, b + r)) continue;
    for (int i = 0; i < w.ring_blocks; i++) {
      T* of_row = ring + (ptrdiff_t)r * w.ring_row + i * w.pitch;
      std::fill(of_row, of_row + section.vectors * L, T(0));
    }
    for (int i = 0; i < p.carries; i++) {
      const T* from = w.carry(p, s, i, b + r) + unit;
      std::memcpy(w.carry(p, s + 1, i, b + r) + unit, from, section.vectors * sizeof(Vector<T>));
    }
  }
  if constexpr (kTiles) {
    const int end = unit + size == p.hidden ? w.factor_pitch : unit + size;
    for (int r = 0; r < rows; r++) {
      for (int i = 0; i < w.ring_blocks - p.sum_count; i++) {
        Side<T>* to = w.factors_at(s, b + r, p.batch, i) + unit;
        round_row(ring + (ptrdiff_t)r * w.ring_row + i * w.pitch, size, to, end - unit);
      }
    }
  }
  for (int r = 0; r < rows && p.dxw; r++) {
    for (int g = 0; g < p.gates; g++) {
      const T* from = ring + (ptrdiff_t)r * w.ring_row + g * w.pitch;
      copy_from_block(p.dxw + (p.row(t, b + r) * p.gates + g) * R + unit, from, size);
    }
  }
}

// Adds to the gradients of both kernels and biases, and to the sums. The rows of both kernels are divided, as one list. With
// tiles, copying the right side would then take as long as the products, so the panels of all gates are divided, if there
// are enough of them.
template <class T>
void program_weight_gradients(const ProgramProblem<T>& p, const ProgramWorkspace<T>& w, int part, Share share,
                              Chunk chunk) {
  const int H = p.hidden, R = p.row_units, inputs = p.x ? p.in_features : 0, rows = (chunk.end - chunk.begin) * p.batch;
  const bool by_panels = kTiles && p.gates * w.wide_panel_count >= 4 * share.count;
  const Range mine = by_panels ? Range{0, inputs + H} : share.of(inputs + H), vectors = share.of(w.vectors_of(H));
  const Range of_x{std::min(mine.begin, inputs), std::min(mine.end, inputs)};
  const Range of_h{std::max(mine.begin - inputs, 0), std::max(mine.end - inputs, 0)};
  for (int begin = 0; begin < rows; begin += w.sides.rows) {
    const int depth = std::min(rows - begin, w.sides.rows);
    const bool first = chunk.end == p.time && begin == 0;
    // Chunks begin at a multiple of their length, so the rows of a chunk are contiguous in the ring.
    const T* ring = w.ring_at(chunk.begin, begin, p.batch);
    // Numbers the panels so that a part has those of all gates of some units, which it may have computed itself.
    auto panels_of_gate = [&](int gate, int gates) {
      const Range of_all = by_panels ? share.of(w.wide_panel_count * gates) : Range{0, w.wide_panel_count * gates};
      return Range{(of_all.begin + gates - 1 - gate) / gates, (of_all.end + gates - 1 - gate) / gates};
    };
    auto add = [&](int ring_block, Range panels, Range columns, T* out, ptrdiff_t out_row, T* bias) {
      if (bias) add_rows(vectors, ring + ring_block * w.pitch, w.ring_row, depth, first, bias, H);
      const Side<T>* right = w.factors_at(chunk.begin, begin, p.batch, ring_block);
      for (int i = panels.begin; i < panels.end && columns.begin < columns.end; i++) {
        const Panel& panel = w.wide_panels[i];
        add_product(w.sides, part, columns, panel, right, w.next_factors(), depth, first, out, out_row, H);
      }
    };
    auto fill = [&](Range columns, auto&& row) {
      gather(w.sides, part, chunk, begin, depth, p.batch, columns, row);
    };
    if (p.x) {
      fill(of_x, [&](int s, int b) { return LeftRow<T>{p.x + p.row(p.step(s), b) * p.in_features, nullptr}; });
      for (int g = 0; g < p.gates; g++) {
        const ptrdiff_t width = (ptrdiff_t)p.gates * R;
        add(g, panels_of_gate(g, p.gates), of_x, p.dkernel + g * R, width, p.dbias ? p.dbias + g * R : nullptr);
      }
    }
    fill(of_h, [&](int s, int b) {
      return LeftRow<T>{carry_before(p, s, b, p.carries - 1), p.scale ? p.scale + (ptrdiff_t)b * R : nullptr};
    });
    for (int g = 0; g < p.recurrent_gates; g++) {
      const ptrdiff_t width = (ptrdiff_t)p.recurrent_gates * H;
      T* bias = p.drecurrent_bias ? p.drecurrent_bias + g * R : nullptr;
      add(w.drh_block(p, g), panels_of_gate(g, p.recurrent_gates), of_h, p.drecurrent_kernel + g * H, width, bias);
    }
    for (int i = 0; i < p.sum_count; i++) {
      const T* right = ring + w.sums_block(p, i) * w.pitch;
      add_rows(vectors, right, w.ring_row, depth, first, p.sums + (ptrdiff_t)i * R, H);
    }
  }
}

template <class T>
void program_input_gradients(const ProgramProblem<T>& p, const ProgramWorkspace<T>& w, Share share, Chunk chunk) {
  constexpr int L = kLanes<T>;
  const int depth = padded(p.hidden), width = p.gates * depth;
  const Range mine = share.of((chunk.end - chunk.begin) * p.batch);
  alignas(64) T tiles[kMostRows * 4 * L];
  int prepared = 0;  // see prepare_tiles
  for (int i = 0; i < w.input_panel_count; i++) {
    const Panel& panel = w.input_panels[i];
    const Side<T>* packed = w.kernel + (ptrdiff_t)panel.first * L * width;
    with_vectors<4>(panel.vectors, [&]<int N>() {
      for_each_group<kRowsAtOnce>(mine.begin, mine.end, [&](int row, int count) {
        Segment<Side<T>> segments[kMostGates];
        for (int g = 0; g < p.gates; g++) {
          const Side<T>* dxw = w.factors_at(chunk.begin, row, p.batch, g);
          segments[g] = {dxw, w.next_factors(), packed + (ptrdiff_t)g * depth * N * L, depth};
        }
        if (count != prepared) prepare_tiles(prepared = count);
        product<T, N>(1, segments, p.gates, count, tiles);
        for (int m = 0; m < count; m++) {
          const int s = chunk.begin + (row + m) / p.batch, b = (row + m) % p.batch;
          T* out = p.dx + p.row(p.step(s), b) * p.in_features;
          for (int u = 0; u < N; u++) {
            const int feature = (panel.first + u) * L;
            store(out + feature, load(tiles + (m * N + u) * L), p.in_features - feature);
          }
        }
      });
    });
  }
}

template <class T>
void program_backward(const ProgramProblem<T>& p, const Division& division) {
  const ProgramWorkspace<T> w(p, division, /*backward=*/true);
  const int H = p.hidden, parts = division.parts;
  auto gradients = [&](int part, Chunk chunk, bool at_end) {
    const Share share = division.share_of(part, at_end);
    if (chunk.begin == chunk.end || !share.count) return;
    program_weight_gradients(p, w, part, share, chunk);
    if (p.dx) program_input_gradients(p, w, share, chunk);
  };
  w.each_part([&](int part) {
    const Range panels = split(w.panel_count, part, parts), of_inputs = split(w.input_panel_count, part, parts);
    for (int i = panels.begin; i < panels.end; i++) {
      pack_panel_transposed(w.panels[i], p.recurrent_kernel, H, H, p.recurrent_gates, w.recurrent);
    }
    for (int i = of_inputs.begin; i < of_inputs.end; i++) {
      pack_panel_transposed(w.input_panels[i], p.kernel, p.in_features, H, p.gates, w.kernel);
    }
    if (part == 0) fill_parameters(p, w);
    w.set_operands(p, part);
    const Range rows = split(p.batch, part, parts);
    for (int i = 0; i < p.carries; i++) {
      for (int b = rows.begin; b < rows.end; b++) {
        const ptrdiff_t at = (ptrdiff_t)b * p.row_units;
        copy_to_block(w.carry(p, p.time - 1, i, b), p.dlast_carry[i] + at, H, w.pitch);
        if (p.resets) std::fill(p.dreset_carry[i] + at, p.dreset_carry[i] + at + H, T(0));
      }
    }
  });
  auto equations = [&](const Section& section, int s, Range rows, int part) {
    w.each_block(rows, w.rows, [&](int b, int count) {
      backward_block(p, w, section, w.operands_of(p, part), s, b, count, part);
    });
  };
  // In stages, the equations follow when all parts have done this.
  auto step = [&](int s, int part) {
    if (w.in_stages && s >= 0) {
      const Range rows = split(p.batch, part, parts);
      fetch_ahead(p, w.whole(), p.step(s), rows.begin, rows.end - rows.begin);
    }
    w.each_block(w.rows_of(part, p.batch), w.group, [&](int begin, int size) {
      w.each_section(w.panels_of(part), [&](const Section& section) {
        if (s >= 0 && p.batch > 1 && !w.in_stages) fetch_ahead(p, section, p.step(s), begin, size);
        if (s != p.time - 1) add_recurrent_gradient(p, w, section, s, begin, size);
        if (!w.in_stages) equations(section, s, {begin, begin + size}, part);
      });
    });
  };
  auto stage_of_equations = [&](int s) {
    w.each_part([&](int part) { equations(w.whole(), s, split(p.batch, part, parts), part); });
  };
  // The weight gradients of a chunk of steps need all parts of them. So they are computed at the beginning of the next
  // chunk, whose steps use the other half of the ring.
  Chunk done{p.time, p.time};
  for (int end = p.time; end > 0; end = done.begin) {
    const Chunk chunk{(end - 1) / w.chunk * w.chunk, end};
    // Parts that are rows do not need each other within a chunk.
    const int together = division.by_rows ? chunk.end - chunk.begin : 1;
    for (int last = chunk.end; last > chunk.begin; last -= together) {
      w.each_part([&](int part) {
        if (last == chunk.end) gradients(part, done, /*at_end=*/false);
        for (int s = last - 1; s >= last - together; s--) step(s, part);
      });
      if (w.in_stages) stage_of_equations(last - 1);
    }
    done = chunk;
  }
  w.each_part([&](int part) {
    gradients(part, done, /*at_end=*/true);
    step(-1, part);
  });
  if (w.in_stages) stage_of_equations(-1);
}

}  // namespace jaxrnn::JAXRNN_ISA
