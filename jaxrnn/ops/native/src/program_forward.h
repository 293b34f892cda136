// The forward pass of a program: at every step, for a group of rows, the products, and then the program for blocks of them.

#pragma once

#include "program_workspace.h"

namespace jaxrnn::JAXRNN_ISA {

// out = the products of the segments + bias + rows, for one gate. Rows, which may be null, have only the units.
template <class T>
void gate_product(const ProgramWorkspace<T>& w, const Segment<T>* segments, int count, int rows, int hidden, T* out,
                  const T* bias, const T* added, ptrdiff_t added_row) {
  constexpr int L = kLanes<T>;
  alignas(64) T tiles[kMostRows * kProgramVectors * L];
  for (int i = 0; i < w.panel_count; i++) {
    const Panel& panel = w.panels[i];
    with_vectors<kProgramVectors>(panel.vectors, [&]<int N>() {
      Segment<T> moved[2];
      for (int s = 0; s < count; s++) {
        moved[s] = segments[s];
        moved[s].b += (ptrdiff_t)panel.first * L * moved[s].depth;
      }
      product<T, N>(w.sets, moved, count, rows, tiles);
      for (int r = 0; r < rows; r++) {
        for (int u = 0; u < N; u++) {
          const int unit = (panel.first + u) * L;
          Vector<T> v = load(tiles + (r * N + u) * L) + load(bias + unit);
          if (added) v += load(added + r * added_row + unit, hidden - unit);
          store<T>(out + (ptrdiff_t)r * w.pitch + unit, v);
        }
      }
    });
  }
}

// x and r of every gate for rows b to b + rows, or their sum where the program takes that.
template <class T>
void forward_products(const ProgramProblem<T>& p, const ProgramWorkspace<T>& w, int s, int b, int rows, int part) {
  constexpr int L = kLanes<T>;
  const int H = p.hidden, R = p.row_units, t = p.step(s);
  const size_t width = (size_t)w.vectors_of(H) * L;
  const T* h = w.carry(p, s, p.carries - 1, b);
  if (p.scale) {
    T* scaled = w.scaled_of(part);
    for (int r = 0; r < rows; r++) {
      const T* scale = p.scale + (ptrdiff_t)(b + r) * R;
      for (int j = 0; j < H; j++) scaled[(ptrdiff_t)r * w.pitch + j] = h[(ptrdiff_t)r * w.pitch + j] * scale[j];
    }
    h = scaled;
  }
  const ptrdiff_t row = p.row(t, b), next = p.next_row();
  for (int g = 0; g < p.gates || g < p.recurrent_gates; g++) {
    Segment<T> segments[2];
    int count = 0;
    if (p.x && g < p.gates) {
      const T* packed = w.kernel + g * width * p.in_features;
      segments[count++] = {p.x + row * p.in_features, next * p.in_features, packed, p.in_features};
    }
    const Segment<T> recurrent{h, w.pitch, w.recurrent + g * width * H, H};
    const T* xw = p.xw && g < p.gates ? p.xw + (row * p.gates + g) * R : nullptr;
    const ptrdiff_t xw_row = next * p.gates * R;
    if (g < p.gates && p.summed[g]) {
      segments[count++] = recurrent;
      gate_product(w, segments, count, rows, H, w.xw_of(part, g), w.sum_bias + g * w.pitch, xw, xw_row);
      continue;
    }
    if (g < p.gates) {
      gate_product(w, segments, count, rows, H, w.xw_of(part, g), w.bias + g * w.pitch, xw, xw_row);
    }
    if (g < p.recurrent_gates) {
      const T* bias = w.recurrent_bias + g * w.pitch;
      gate_product<T>(w, &recurrent, 1, rows, H, w.rh_of(p, part, g), bias, nullptr, 0);
    }
  }
}

// One step of rows b to b + rows, which are in a group from its row `in_group` on.
template <class T>
void forward_block(const ProgramProblem<T>& p, const ProgramWorkspace<T>& w, Operand<T>* operands, int s, int b,
                   int rows, int in_group, int part) {
  constexpr int L = kLanes<T>;
  const int H = p.hidden, R = p.row_units, t = p.step(s), h = p.carries - 1;
  const ptrdiff_t first = (ptrdiff_t)in_group * w.pitch;
  const T* y = w.carry(p, s + 1, h, b);
  for (int i = 0; i < p.code.operand_count; i++) {
    const auto [place, index] = p.code.operands[i];
    Operand<T>& o = operands[i];
    if (place == Place::kXw || place == Place::kSum) o = {w.xw_of(part, index) + first, w.pitch, L};
    if (place == Place::kRh) o = {w.rh_of(p, part, index) + first, w.pitch, L};
    if (place == Place::kCarry) o = {w.carry(p, s, index, b), w.pitch, L};
    if (place == Place::kCarryOut) o = {w.carry(p, s + 1, index, b), w.pitch, L};
    if (place == Place::kSaved) o = {p.saved_at(t, index, b), w.pitch, L};
    if (place == Place::kY) {
      o = {w.y_block(part), w.pitch, L};
      y = o.base;
    }
  }
  run_program(p.code, operands, rows, w.vectors_of(H), H);
  const bool last = s + 1 == p.time;
  for (int r = 0; r < rows; r++) {
    T* to = p.y + p.row(t, b + r) * R;
    const bool valid = p.is_valid(t, b + r), reset = !last && p.is_reset(p.step(s + 1), b + r);
    if (valid) {
      copy_from_block(to, y + (ptrdiff_t)r * w.pitch, H);
    } else {
      std::fill(to, to + H, T(0));
    }
    for (int i = 0; i < p.carries && (!valid || reset || last); i++) {
      T* carry = w.carry(p, s + 1, i, b + r);
      if (!valid) std::memcpy(carry, w.carry(p, s, i, b + r), w.pitch * sizeof(T));
      if (last) copy_from_block(p.last_carry[i] + (ptrdiff_t)(b + r) * R, carry, H);
      if (reset) copy_to_block(carry, p.reset_carry[i] + (ptrdiff_t)(b + r) * R, H, w.pitch);
    }
  }
}

// The weights in the order in which they are read, and all other arrays that do not change from step to step.
template <class T>
void pack_forward(const ProgramProblem<T>& p, const ProgramWorkspace<T>& w) {
  const int H = p.hidden, R = p.row_units;
  const size_t width = (size_t)w.vectors_of(H) * kLanes<T>;
  for (int i = 0; i < w.panel_count; i++) {
    for (int g = 0; p.x && g < p.gates; g++) {
      pack_panel(w.panels[i], p.kernel + g * R, p.in_features, 1, H, R, p.gates, w.kernel + g * width * p.in_features);
    }
    for (int g = 0; g < p.recurrent_gates; g++) {
      pack_panel(w.panels[i], p.recurrent_kernel + g * H, H, 1, H, H, p.recurrent_gates, w.recurrent + g * width * H);
    }
  }
  fill_parameters(p, w);
  auto bias = [&](T* to, const T* from, int gates) {
    std::fill(to, to + (ptrdiff_t)gates * w.pitch, T(0));
    for (int g = 0; from && g < gates; g++) copy_to_block(to + g * w.pitch, from + g * R, H, w.pitch);
  };
  bias(w.bias, p.bias, p.gates);
  bias(w.recurrent_bias, p.recurrent_bias, p.recurrent_gates);
  for (int g = 0; g < p.gates && g < p.recurrent_gates; g++) {
    for (int j = g * w.pitch; j < (g + 1) * w.pitch; j++) w.sum_bias[j] = w.bias[j] + w.recurrent_bias[j];
  }
}

template <class T>
void program_forward(const ProgramProblem<T>& p, const Division& division) {
  const ProgramWorkspace<T> w(p, division, /*backward=*/false);
  const int H = p.hidden, R = p.row_units;
  // The caller packs alone, so that it need not wait for threads that start late.
  if (division.packs) pack_forward(p, w);
  if (!division.runs) return;
  division.each_part([&](int part) {
    const Range mine = split(p.batch, part, division.parts);
    Operand<T>* operands = w.operands_of(p, part);
    for (int i = 0; i < p.carries; i++) {
      for (int b = mine.begin; b < mine.end; b++) {
        const T* from = p.is_reset(p.step(0), b) ? p.reset_carry[i] : p.carry[i];
        copy_to_block(w.carry(p, 0, i, b), from + (ptrdiff_t)b * R, H, w.pitch);
      }
    }
    for (int s = 0; s < p.time; s++) {
      w.each_block(mine, w.group, [&](int begin, int rows) {
        forward_products(p, w, s, begin, rows, part);
        w.each_block({begin, begin + rows}, w.rows, [&](int b, int count) {
          forward_block(p, w, operands, s, b, count, b - begin, part);
        });
      });
    }
  });
}

}  // namespace jaxrnn::JAXRNN_ISA
