// The forward pass of a program: at every step, for a group of rows, the products, and then the program for blocks of them.

#pragma once

#include "program_workspace.h"

namespace jaxrnn::JAXRNN_ISA {

// out = the products of the segments + bias + rows, for one gate and section. The bias is the same for all rows if
// `bias_row` is 0. Rows, which may be null, have only the units of the caller. The segments have the weights of all
// sections.
template <class T>
void gate_product(const ProgramWorkspace<T>& w, const Section& section, Segment<Side<T>>* segments, int count, int rows,
                  int hidden, T* out, const T* bias, ptrdiff_t bias_row, const T* added, ptrdiff_t added_row) {
  constexpr int L = kLanes<T>;
  for (int s = 0; s < count; s++) segments[s].b += (ptrdiff_t)section.unit * segments[s].depth;
  for (int i = section.panels.begin; i < section.panels.end; i++) {
    const Panel& panel = w.panels[i];
    const int first = panel.first * L, column = first - section.unit + section.column;
    with_vectors<kProgramVectors>(panel.vectors, [&]<int N>() {
      product<T, N>(w.sets, segments, count, rows, out + column, w.width, bias + first, bias_row);
      for (int s = 0; s < count; s++) segments[s].b += (ptrdiff_t)N * L * segments[s].depth;
      for (int r = 0; r < rows && added; r++) {
        for (int unit = first; unit < first + N * L; unit += L) {
          T* to = out + (ptrdiff_t)r * w.width + column + unit - first;
          store<T>(to, load(to) + load(added + r * added_row + unit, hidden - unit));
        }
      }
    });
  }
}

// One side of the products of a group of rows: the first row, and how far it is to the next one.
template <class T>
struct Left {
  const Side<T>* first;
  ptrdiff_t row;
};

// What the recurrent product takes of the group of rows from b on: h, or h * scale.
template <class T>
Left<T> hidden_of_group(const ProgramProblem<T>& p, const ProgramWorkspace<T>& w, int s, int b, int rows, int part) {
  const T* h = w.carry(p, s, p.carries - 1, b);
  if constexpr (!kTiles) {
    if (!p.scale) return {h, w.pitch};
  }
  Side<T>* to = w.scaled_of(part);
  for (int r = 0; r < rows; r++, h += w.pitch) {
    const T* scale = p.scale ? p.scale + (ptrdiff_t)(b + r) * p.row_units : nullptr;
    copy_side(to + (ptrdiff_t)r * w.scaled_row, h, scale, p.hidden);
  }
  return {to, w.scaled_row};
}

// What the product of the inputs takes of these rows.
template <class T>
Left<T> inputs_of_group(const ProgramProblem<T>& p, const ProgramWorkspace<T>& w, int s, int b, int rows, int part) {
  if (!p.x) return {};
  const T* x = p.x + p.row(p.step(s), b) * p.in_features;
  const ptrdiff_t next = p.next_row() * p.in_features;
  if constexpr (kTiles) {
    Side<T>* to = w.inputs_of(part);
    for (int r = 0; r < rows; r++) copy_side<T>(to + (ptrdiff_t)r * w.inputs_row, x + r * next, nullptr, p.in_features);
    return {to, w.inputs_row};
  } else {
    return {x, next};
  }
}

// x of every gate for some rows, of w.ahead steps from s on; with the bias of r where the program takes x + r.
template <class T>
void products_ahead(const ProgramProblem<T>& p, const ProgramWorkspace<T>& w, Range panels, int s, int b, int rows) {
  constexpr int L = kLanes<T>;
  const int inputs = p.in_features, steps = std::min(w.ahead, p.time - s);
  const bool single = p.batch == 1;  // then the steps are the rows of one product
  const ptrdiff_t row = single ? (p.reverse ? -inputs : inputs) : p.next_row() * inputs;
  const ptrdiff_t units = (ptrdiff_t)w.vectors_of(p.hidden) * L;
  for (int g = 0; g < p.gates; g++) {
    const T* bias = (p.summed[g] ? w.sum_bias : w.bias) + g * w.pitch;
    for (int i = panels.begin; i < panels.end; i++) {
      const int first = w.panels[i].first * L;
      const T* packed = w.kernel + (g * units + first) * inputs;
      with_vectors<kProgramVectors>(w.panels[i].vectors, [&]<int N>() {
        for (int at = s; at < (single ? s + 1 : s + steps); at++) {
          const Segment<T> segment{p.x + p.row(p.step(at), b) * inputs, row, packed, inputs};
          product<T, N>(/*sets=*/1, &segment, 1, single ? steps : rows, w.ahead_at(p, at, b, g) + first,
                        p.gates * w.pitch, bias + first);
        }
      });
    }
  }
}

// x and r of every gate for rows b to b + rows, or their sum where the program takes that. x and h are of these rows.
template <class T>
void forward_products(const ProgramProblem<T>& p, const ProgramWorkspace<T>& w, const Section& section, const Left<T>& x,
                      const Left<T>& h, int s, int b, int rows, int part) {
  const int H = p.hidden, R = p.row_units, t = p.step(s);
  const size_t units = (size_t)w.vectors_of(H) * kLanes<T>;
  const ptrdiff_t row = p.row(t, b), next = p.next_row();
  for (int g = 0; g < p.gates || g < p.recurrent_gates; g++) {
    Segment<Side<T>> segments[2];
    int count = 0;
    if (p.x && g < p.gates && !w.ahead) {
      const int depth = padded(p.in_features);
      segments[count++] = {x.first, x.row, w.kernel + g * units * depth, depth};
    }
    Segment<Side<T>> recurrent{h.first, h.row, w.recurrent + g * units * padded(H), padded(H)};
    const T* xw = p.xw && g < p.gates ? p.xw + (row * p.gates + g) * R : nullptr;
    const ptrdiff_t xw_row = next * p.gates * R;
    if (g < p.gates && p.summed[g]) {
      segments[count++] = recurrent;
      const T* bias = w.ahead ? w.ahead_at(p, s, b, g) : w.sum_bias + g * w.pitch;
      const ptrdiff_t bias_row = w.ahead ? p.gates * w.pitch : 0;
      gate_product(w, section, segments, count, rows, H, w.xw_of(part, g), bias, bias_row, xw, xw_row);
      continue;
    }
    if (g < p.gates && !w.ahead) {
      const T* bias = w.bias + g * w.pitch;
      gate_product(w, section, segments, count, rows, H, w.xw_of(part, g), bias, 0, xw, xw_row);
    }
    if (g < p.recurrent_gates) {
      const T* bias = w.recurrent_bias + g * w.pitch;
      gate_product<T>(w, section, &recurrent, 1, rows, H, w.rh_of(p, part, g), bias, 0, nullptr, 0);
    }
  }
}

// One step of rows b to b + rows, which are in a group from its row `in_group` on.
template <class T>
void forward_block(const ProgramProblem<T>& p, const ProgramWorkspace<T>& w, const Section& section, Operand<T>* operands,
                   int s, int b, int rows, int in_group, int part) {
  constexpr int L = kLanes<T>;
  const int unit = section.unit, size = std::min(section.vectors * L, p.hidden - unit), R = p.row_units;
  const int t = p.step(s), h = p.carries - 1;
  const ptrdiff_t first = (ptrdiff_t)in_group * w.width;
  Operand<T> y{w.carry(p, s + 1, h, b) + unit, w.pitch, L};
  for (int i = 0; i < p.code.operand_count; i++) {
    const auto [place, index] = p.code.operands[i];
    Operand<T>& o = operands[i];
    switch (place) {
      case Place::kDerived: o = {w.derived + index * w.pitch + unit, 0, L}; break;
      case Place::kXw:
        if (w.ahead) {
          o = {w.ahead_at(p, s, b, index) + unit, p.gates * w.pitch, L};
          break;
        }
        [[fallthrough]];
      case Place::kSum: o = {w.xw_of(part, index) + first, w.width, L}; break;
      case Place::kRh: o = {w.rh_of(p, part, index) + first, w.width, L}; break;
      case Place::kCarry: o = {w.carry(p, s, index, b) + unit, w.pitch, L}; break;
      case Place::kCarryOut: o = {w.carry(p, s + 1, index, b) + unit, w.pitch, L}; break;
      case Place::kSaved: o = {p.saved_at(t, index, b) + unit, w.pitch, L}; break;
      case Place::kY: o = y = {w.y_block(part), w.width, L}; break;
      default: break;
    }
  }
  run_program(p.code, operands, rows, section.vectors, p.hidden);
  const bool last = s + 1 == p.time;
  for (int r = 0; r < rows; r++) {
    T* to = p.y + p.row(t, b + r) * R + unit;
    const bool valid = p.is_valid(t, b + r), reset = !last && p.is_reset(p.step(s + 1), b + r);
    if (valid) {
      copy_from_block(to, y.base + r * y.row, size);
    } else {
      std::fill(to, to + size, T(0));
    }
    for (int i = 0; i < p.carries && (!valid || reset || last); i++) {
      T* carry = w.carry(p, s + 1, i, b + r) + unit;
      const ptrdiff_t of_caller = (ptrdiff_t)(b + r) * R + unit;
      if (!valid) std::memcpy(carry, w.carry(p, s, i, b + r) + unit, section.vectors * sizeof(Vector<T>));
      if (last) copy_from_block(p.last_carry[i] + of_caller, carry, size);
      if (reset) copy_to_block(carry, p.reset_carry[i] + of_caller, size, section.vectors * L);
    }
  }
}

// The weights of these panels, in the order in which they are read.
template <class T>
void pack_weights(const ProgramProblem<T>& p, const ProgramWorkspace<T>& w, Range panels) {
  const int H = p.hidden, R = p.row_units;
  const size_t units = (size_t)w.vectors_of(H) * kLanes<T>;
  for (int i = panels.begin; i < panels.end; i++) {
    for (int g = 0; p.x && g < p.gates; g++) {
      Side<T>* packed = w.kernel + g * units * padded(p.in_features);
      pack_panel(w.panels[i], p.kernel + g * R, p.in_features, 1, H, R, p.gates, packed);
    }
    for (int g = 0; g < p.recurrent_gates; g++) {
      Side<T>* packed = w.recurrent + g * units * padded(H);
      pack_panel(w.panels[i], p.recurrent_kernel + g * H, H, 1, H, H, p.recurrent_gates, packed);
    }
  }
}

// All other arrays that do not change from step to step.
template <class T>
void pack_vectors(const ProgramProblem<T>& p, const ProgramWorkspace<T>& w) {
  const int H = p.hidden, R = p.row_units;
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
  const int H = p.hidden, R = p.row_units, parts = division.parts;
  auto begin = [&](Range rows) {
    for (int i = 0; i < p.carries; i++) {
      for (int b = rows.begin; b < rows.end; b++) {
        const T* from = p.is_reset(p.step(0), b) ? p.reset_carry[i] : p.carry[i];
        copy_to_block(w.carry(p, 0, i, b), from + (ptrdiff_t)b * R, H, w.pitch);
      }
    }
  };
  auto equations = [&](const Section& section, int s, Range rows, int first_of_group, int part) {
    w.each_block(rows, w.rows, [&](int b, int count) {
      forward_block(p, w, section, w.operands_of(p, part), s, b, count, b - first_of_group, part);
    });
  };
  // Calls after(section) when its products are computed.
  auto products = [&](int s, int first, int rows, int part, auto&& after) {
    if constexpr (!kTiles) {
      if (w.ahead && (s & (w.ahead - 1)) == 0) products_ahead(p, w, w.panels_of(part), s, first, rows);
    }
    const Left<T> x = inputs_of_group(p, w, s, first, rows, part), h = hidden_of_group(p, w, s, first, rows, part);
    prepare_tiles(rows);
    w.each_section(w.panels_of(part), [&](Section section) {
      if (w.in_stages) section.column = section.unit;
      forward_products(p, w, section, x, h, s, first, rows, part);
      after(section);
    });
  };
  auto step = [&](int s, int part) {
    w.each_block(w.rows_of(part, p.batch), w.group, [&](int first, int rows) {
      products(s, first, rows, part, [&](const Section& section) {
        equations(section, s, {first, first + rows}, first, part);
      });
    });
  };
  auto step_in_stages = [&](int s) {
    w.each_block({0, p.batch}, w.group, [&](int first, int rows) {
      w.each_part([&](int part) { products(s, first, rows, part, [](const Section&) {}); });
      w.each_part([&](int part) {
        const Range mine = split(rows, part, parts);
        equations(w.whole(), s, {first + mine.begin, first + mine.end}, first, part);
      });
    });
  };
  if (!division.by_rows) {
    pack_vectors(p, w);
    w.each_part([&](int part) {
      pack_weights(p, w, w.panels_of(part));
      begin(split(p.batch, part, parts));
      w.set_operands(p, part);
    });
    for (int s = 0; s < p.time; s++) {
      if (w.in_stages) {
        step_in_stages(s);
      } else {
        w.each_part([&](int part) { step(s, part); });
      }
    }
    return;
  }
  // The caller packs alone, so that it need not wait for threads that start late.
  if (division.packs) pack_weights(p, w, {0, w.panel_count}), pack_vectors(p, w);
  if (!division.runs) return;
  w.each_part([&](int part) {
    w.set_operands(p, part);
    begin(w.rows_of(part, p.batch));
    for (int s = 0; s < p.time; s++) step(s, part);
  });
}

}  // namespace jaxrnn::JAXRNN_ISA
