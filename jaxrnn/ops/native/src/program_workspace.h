// The scratch arrays of a call whose cell is a program, and where the operands of the program are in them.

#pragma once

#include <algorithm>

#include "amx.h"
#include "program.h"
#include "workspace.h"

namespace jaxrnn::JAXRNN_ISA {

// The most vectors in a panel of one gate. Tiles of two vectors have the most rows, and so read the weights least often.
// With one row, tiles of four vectors have enough sums side by side that none waits for another.
constexpr int kProgramVectors = 4;
constexpr int program_vectors(int batch) { return batch == 1 ? 4 : 2; }

static_assert(kMostGates <= kMostSegments, "a product has a segment for every gate");

// Consecutive panels, and the units in them.
struct Section {
  Range panels;
  int unit, vectors;  // the first unit
  int column = 0;     // where its products begin in their rows
};

// The scratch arrays. All parts share them, except `products`, `scaled`, `blocks` and `operands`, of which each part has
// its own. They have rows of `pitch` numbers, the units first; what follows them is not used, but may be read. Products
// and blocks have the units of one section, in rows of `width` numbers.
//
// The products of a section are computed for a group of rows, so that the weights are read once for all of them; the
// program then takes blocks of those rows. A section has as many units as leave the products of many rows in the cache of
// level 2. A program with a sum over units needs all of them, in one section. If parts that are units run such a program,
// a step has two stages for every group of rows: every part computes the products of its units, and then the equations of
// some of the rows.
template <class T>
struct ProgramWorkspace {
  static constexpr int L = kLanes<T>;
  int pitch, width, rows, group;  // rows: the most of a block; group: the most of a group
  int scaled_row, inputs_row;
  int sets;           // of accumulators, see tile.h
  int ahead;          // how many steps' x are computed at once, a power of 2, or 0
  Side<T> *recurrent, *kernel;  // packed, by gate; backward: transposed
  T *bias, *recurrent_bias, *sum_bias;  // forward, [gates, pitch]; zero where there is none
  T *derived, *constants, *zero;        // [derived, pitch]; a whole vector of each constant; one of zeros
  T* of_ahead;                          // [ahead, batch, gates, pitch]
  T* carries;                           // of two steps in turn; backward: the gradients; [2, carries, batch, pitch]
  T* ring;            // see workspace.h; of every row: dxw, those drh that differ from dxw, sums; [blocks, pitch]
  // What products read of the ring, if that is not in float32: of every row, dxw and those drh; [blocks, factor_pitch].
  Side<T>* factors;
  Sides<Side<T>> sides;
  int ring_row, factor_row, factor_pitch, chunk, ring_blocks;
  Panel *panels, *wide_panels, *input_panels;
  int panel_count, wide_panel_count, input_panel_count;
  int section_panels;  // the most panels of a section
  Division division;
  bool in_stages;

  ProgramWorkspace(const ProgramProblem<T>& p, const Division& division, bool backward)
      : division(division), in_stages(!division.by_rows && p.needs_all_units()) {
    lay_out(p, backward, division.parts, (char*)division.workspace);
    make_panels(vectors_of(p.hidden), program_vectors(p.batch), panels);
    if (backward) {
      wide_panel_count = make_panels(vectors_of(p.hidden), kTiles ? 2 : 4, wide_panels);
      input_panel_count = p.dx ? make_panels(vectors_of(p.in_features), 4, input_panels) : 0;
    }
  }

  static size_t bytes(const ProgramProblem<T>& p, bool backward, int parts) {
    ProgramWorkspace w;
    return w.lay_out(p, backward, parts, nullptr);
  }

  static int vectors_of(int units) { return (units + L - 1) / L; }

  // What a part computes at every step: some rows of all panels, or some panels of all rows.
  Range rows_of(int part, int batch) const { return division.rows_of(part, batch); }
  Range panels_of(int part) const {
    return division.by_rows ? Range{0, panel_count} : split(panel_count, part, division.parts);
  }

  // Runs body(part) for every part. After it the thread's tile registers are free for others.
  template <class Body>
  void each_part(Body&& body) const {
    division.each_part([&](int part) {
      body(part);
      release_tiles();
    });
  }

  // Calls body(section) for these panels.
  template <class Body>
  void each_section(Range of, Body&& body) const {
    each_block(of, section_panels, [&](int first, int count) {
      const Panel &begin = panels[first], &end = panels[first + count - 1];
      body(Section{{first, first + count}, begin.first * L, end.first + end.vectors - begin.first});
    });
  }

  // All panels, for a program that needs them.
  Section whole() const { return {{0, panel_count}, 0, panels[panel_count - 1].first + panels[panel_count - 1].vectors}; }

  // Calls body(first row, rows) for as few blocks of at most `most` of these rows as possible, with nearly equal numbers.
  template <class Body>
  static void each_block(Range of, int most, Body&& body) {
    const int count = of.end - of.begin;
    if (count == 0) return;
    if (count <= most) return body(of.begin, count);  // often, and divisions take longer than some steps
    const int blocks = (count + most - 1) / most;
    for (int i = 0; i < blocks; i++) {
      const Range r = split(count, i, blocks);
      body(of.begin + r.begin, r.end - r.begin);
    }
  }

  T* carry(const ProgramProblem<T>& p, int step, int part_of_carry, int b) const {
    return carries + ((ptrdiff_t)((step & 1) * p.carries + part_of_carry) * p.batch + b) * pitch;
  }

  T* ahead_at(const ProgramProblem<T>& p, int s, int b, int gate) const {
    return of_ahead + (((ptrdiff_t)(s & (ahead - 1)) * p.batch + b) * p.gates + gate) * pitch;
  }

  T* ring_at(int s, int b, int batch) const { return ring + ((ptrdiff_t)(s % (2 * chunk)) * batch + b) * ring_row; }

  // A block of the ring's row, as products read it, and how far it is to the next row.
  Side<T>* factors_at(int s, int b, int batch, int block) const {
    if constexpr (kTiles) {
      return factors + ((ptrdiff_t)(s % (2 * chunk)) * batch + b) * factor_row + (ptrdiff_t)block * factor_pitch;
    } else {
      return ring_at(s, b, batch) + (ptrdiff_t)block * pitch;
    }
  }
  int next_factors() const { return kTiles ? factor_row : ring_row; }

  // The block of the ring that holds drh of a gate.
  int drh_block(const ProgramProblem<T>& p, int gate) const {
    if (p.shared[gate]) return gate;
    int block = p.gates;
    for (int g = 0; g < gate; g++) block += !p.shared[g];
    return block;
  }
  int sums_block(const ProgramProblem<T>& p, int i) const { return ring_blocks - p.sum_count + i; }

  // The blocks of a part, [rows, width] each.
  T* block_of(int part, int index) const { return blocks + part * blocks_size + (ptrdiff_t)index * rows * width; }
  // Forward: x and r of every gate, of a group and a section, [group, width]. In stages, those of all parts.
  T* product_of(int part, int index) const {
    if (in_stages) part = 0;
    return products + (ptrdiff_t)(part * product_count + index) * group * width;
  }
  T* xw_of(int part, int gate) const { return product_of(part, gate); }
  T* rh_of(const ProgramProblem<T>& p, int part, int gate) const { return product_of(part, p.gates + gate); }
  // The left sides of a group's products, if they are not what is stored: h * scale, or with tiles also x and h.
  Side<T>* scaled_of(int part) const { return scaled + (ptrdiff_t)part * group * scaled_row; }
  Side<T>* inputs_of(int part) const { return inputs + (ptrdiff_t)part * group * inputs_row; }

  T* y_block(int part) const { return block_of(part, first_block); }
  T* dy_block(int part) const { return block_of(part, first_block + 1); }
  T* carry_block(int part, int index) const { return block_of(part, index); }  // backward

  Operand<T>* operands_of(const ProgramProblem<T>& p, int part) const {
    return operands + (ptrdiff_t)part * p.code.operand_count;
  }

  // Sets the places of those operands that are the same for every block.
  void set_operands(const ProgramProblem<T>& p, int part) const {
    Operand<T>* o = operands_of(p, part);
    for (int i = 0; i < p.code.operand_count; i++) {
      const auto [place, index] = p.code.operands[i];
      switch (place) {
        case Place::kConstant: o[i] = {constants + index * L, 0, 0}; break;
        case Place::kRegister: o[i] = {block_of(part, first_block + 2 + index), width, L}; break;
        case Place::kRow: o[i] = {row_registers + ((ptrdiff_t)part * p.row_registers + index) * rows * L, L, 0}; break;
        default: break;
      }
    }
  }

 private:
  ProgramWorkspace() = default;

  T *products, *blocks, *row_registers;
  Side<T> *scaled, *inputs;
  int product_count;
  Operand<T>* operands;
  size_t blocks_size;
  int first_block;

  static int panels_in(int vectors, int most) { return (vectors + most - 1) / most; }

  static int make_panels(int vectors, int most, Panel* to) {
    const int count = panels_in(vectors, most);
    for (int i = 0; i < count; i++) {
      const Range r = split(vectors, i, count);
      to[i] = {r.begin, r.end - r.begin};
    }
    return count;
  }

  // Larger blocks do not stay in the cache of level 1, for smaller ones interpreting costs more. The products of a group
  // stay in the cache of level 2, or in that of level 1 if the weights pass through that of level 2 at every step.
  static constexpr int kBlockBytes = 3072, kGroupBytes = 131072, kBesideWeights = 24576, kAheadBytes = 65536,
                       kAheadOfRows = 524288, kLargeKernel = 1 << 20, kFewRows = 8;

  size_t lay_out(const ProgramProblem<T>& p, bool backward, int count, char* memory) {
    size_t used = 0;
    auto take = [&](auto*& pointer, size_t count) {
      pointer = (__typeof__(pointer + 0))(memory + used);
      used += (count * sizeof(*pointer) + 63) / 64 * 64;
    };
    const int panel = program_vectors(p.batch);
    pitch = p.pitch(), sets = p.batch <= 3 ? 2 : 1;
    panel_count = section_panels = panels_in(vectors_of(p.hidden), panel);
    int gates = p.gates;
    for (int g = 0; g < p.recurrent_gates; g++) gates += g >= p.gates || !p.summed[g];
    const int64_t weights = (int64_t)(p.hidden + (p.x ? p.in_features : 0)) * p.hidden * gates * sizeof(Side<T>);
    const bool beside_weights = !backward && exceeds_cache(weights);  // the backward pass has no products
    if (!p.needs_all_units()) {
      const int of_panel = gates * std::min(p.batch, kGroupRows) * panel * kVectorBytes;
      const int sections = panels_in(panel_count, std::max((beside_weights ? kBesideWeights : kGroupBytes) / of_panel, 1));
      section_panels = panels_in(panel_count, sections);
    }
    width = std::min(pitch, section_panels * panel * L);
    const int tile_rows = kTiles ? kRowsAtOnce / 2 : kRows[panel];
    const int wanted = kBlockBytes / (int)(width * sizeof(T)) / tile_rows * tile_rows;
    rows = std::min({std::max(wanted, tile_rows), kGroupRows, p.batch});
    product_count = backward ? 0 : p.gates + p.recurrent_gates;
    // Weights that fit no cache are read for as many rows as possible.
    const bool for_most_rows = beside_weights && p.needs_all_units();
    const int kept = for_most_rows ? kGroupRows : kGroupBytes / (int)(gates * width * sizeof(T)) / tile_rows * tile_rows;
    group = std::min(std::clamp(kept, rows, kGroupRows), p.batch);
    // A single row would read the kernel at every step for one product, and so would a few rows a large one. Some steps
    // together read it once. This changes bits, so it does not depend on the processor's cache.
    const int64_t of_kernel = (int64_t)p.in_features * p.hidden * p.gates * sizeof(T);
    const bool few = p.batch == 1 || (of_kernel > kLargeKernel && p.batch <= kFewRows);
    const int64_t of_step = (int64_t)p.batch * p.gates * pitch * sizeof(T);
    const int64_t most_ahead = std::min<int64_t>(kMostRows, (p.batch == 1 ? kAheadBytes : kAheadOfRows) / of_step);
    ahead = p.x && !kTiles && !backward && few && (p.batch == 1 || most_ahead > 1);
    while (ahead && 2 * ahead <= std::min<int64_t>(p.time, most_ahead)) ahead *= 2;
    const size_t units = (size_t)vectors_of(p.hidden) * L;
    take(recurrent, units * padded(p.hidden) * p.recurrent_gates);
    take(derived, (size_t)p.derived_count * pitch);
    take(constants, (size_t)p.code.constant_count * L);
    take(zero, L);
    take(of_ahead, (size_t)ahead * p.batch * p.gates * pitch);
    take(carries, (size_t)2 * p.carries * p.batch * pitch);
    take(panels, vectors_of(p.hidden));
    if (backward) {
      sides.lay_out(p.hidden, p.x ? p.in_features : 0, p.gates, count, take);
      chunk = std::min((sides.rows + p.batch - 1) / p.batch, p.time);
      ring_blocks = p.gates + p.sum_count;
      for (int g = 0; g < p.recurrent_gates; g++) ring_blocks += !p.shared[g];
      ring_row = odd_lines<T>(ring_blocks * pitch);
      take(kernel, p.dx ? (size_t)vectors_of(p.in_features) * L * p.gates * padded(p.hidden) : 0);
      take(ring, (size_t)p.batch * 2 * chunk * ring_row);
      factor_pitch = padded(p.hidden);
      factor_row = odd_lines<Side<T>>((ring_blocks - p.sum_count) * factor_pitch);
      take(factors, kTiles ? (size_t)p.batch * 2 * chunk * factor_row : 0);
      take(wide_panels, vectors_of(p.hidden));
      take(input_panels, vectors_of(p.in_features));
      first_block = p.carries;
    } else {
      take(kernel, p.x ? units * padded(p.in_features) * p.gates : 0);
      take(bias, (size_t)p.gates * pitch);
      take(recurrent_bias, (size_t)p.recurrent_gates * pitch);
      take(sum_bias, (size_t)p.gates * pitch);
      first_block = 0;
    }
    take(products, (size_t)product_count * group * width * count);
    scaled_row = kTiles ? padded(p.hidden) : pitch, inputs_row = padded(p.in_features);
    take(scaled, (kTiles || p.scale) && !backward ? (size_t)group * scaled_row * count : 0);
    take(inputs, kTiles && p.x && !backward ? (size_t)group * inputs_row * count : 0);
    blocks_size = (size_t)(first_block + 2 + p.registers) * rows * width;
    take(blocks, blocks_size * count);
    take(row_registers, (size_t)count * p.row_registers * rows * L);
    take(operands, (size_t)count * p.code.operand_count);
    return used;
  }
};

// Copies units and fills the rest of the row with zeros.
template <class T>
INLINE void copy_to_block(T* to, const T* from, int hidden, int pitch) {
  constexpr int L = kLanes<T>;
  for (int j = 0; j < pitch; j += L) store<T>(to + j, j < hidden ? load(from + j, hidden - j) : Vector<T>{});
}

template <class T>
INLINE void copy_from_block(T* to, const T* from, int hidden) {
  constexpr int L = kLanes<T>;
  for (int j = 0; j < hidden; j += L) store(to + j, load(from + j), hidden - j);
}

// The constants and derived parameters of a call.
template <class T>
void fill_parameters(const ProgramProblem<T>& p, const ProgramWorkspace<T>& w) {
  constexpr int L = kLanes<T>;
  store<T>(w.zero, Vector<T>{});
  for (int i = 0; i < p.code.constant_count; i++) store<T>(w.constants + i * L, broadcast((T)p.code.constants[i]));
  for (int i = 0; i < p.derived_count; i++) {
    copy_to_block(w.derived + (ptrdiff_t)i * w.pitch, p.derived + (ptrdiff_t)i * p.row_units, p.hidden, w.pitch);
  }
}

}  // namespace jaxrnn::JAXRNN_ISA
