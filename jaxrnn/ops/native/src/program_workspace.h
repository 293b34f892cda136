// The scratch arrays of a call whose cell is a program, and where the operands of the program are in them.

#pragma once

#include <algorithm>

#include "program.h"
#include "workspace.h"

namespace jaxrnn::JAXRNN_ISA {

// Vectors in a panel of one gate. Tiles of two vectors have the most rows, and so read the weights least often.
constexpr int kProgramVectors = 2;

static_assert(kMostGates <= kMostSegments, "a product has a segment for every gate");

// The scratch arrays. All parts share them, except `products`, `blocks` and `operands`, of which each part has its own.
// They have rows of `pitch` numbers, the units first; what follows them is not used, but may be read. The products of a
// group of rows are computed together, so that the weights are read once for all; the program then takes blocks of them.
template <class T>
struct ProgramWorkspace {
  static constexpr int L = kLanes<T>;
  int pitch, rows, group;  // the most rows of a block, and of a group
  int sets;           // of accumulators, see tile.h
  T *recurrent, *kernel;  // packed, by gate; backward: transposed
  T *bias, *recurrent_bias, *sum_bias;  // forward, [gates, pitch]; zero where there is none
  T *derived, *constants, *zero;        // [derived, pitch]; a whole vector of each constant; one of zeros
  T* carries;                           // of two steps in turn; backward: the gradients; [2, carries, batch, pitch]
  T* ring;            // see workspace.h; of every row: dxw, those drh that differ from dxw, sums; [blocks, pitch]
  Sides<T> sides;
  int ring_row, chunk, ring_blocks;
  Panel *panels, *wide_panels, *input_panels;
  int panel_count, wide_panel_count, input_panel_count;
  int parts;

  ProgramWorkspace(const ProgramProblem<T>& p, const Division& division, bool backward) : parts(division.parts) {
    lay_out(p, backward, parts, (char*)division.workspace);
    panel_count = make_panels(vectors_of(p.hidden), kProgramVectors, panels);
    if (backward) {
      wide_panel_count = make_panels(vectors_of(p.hidden), 4, wide_panels);
      input_panel_count = p.dx ? make_panels(vectors_of(p.in_features), 4, input_panels) : 0;
    }
  }

  static size_t bytes(const ProgramProblem<T>& p, bool backward, int parts) {
    ProgramWorkspace w;
    return w.lay_out(p, backward, parts, nullptr);
  }

  static int vectors_of(int units) { return (units + L - 1) / L; }

  // Calls body(first row, rows) for as few blocks of at most `most` of these rows as possible, with nearly equal numbers.
  template <class Body>
  static void each_block(Range of, int most, Body&& body) {
    const int count = of.end - of.begin, blocks = (count + most - 1) / most;
    for (int i = 0; i < blocks; i++) {
      const Range r = split(count, i, blocks);
      body(of.begin + r.begin, r.end - r.begin);
    }
  }

  T* carry(const ProgramProblem<T>& p, int step, int part_of_carry, int b) const {
    return carries + ((ptrdiff_t)((step & 1) * p.carries + part_of_carry) * p.batch + b) * pitch;
  }

  T* ring_at(int s, int b, int batch) const { return ring + ((ptrdiff_t)(s % (2 * chunk)) * batch + b) * ring_row; }

  // The block of the ring that holds drh of a gate.
  int drh_block(const ProgramProblem<T>& p, int gate) const {
    if (p.shared[gate]) return gate;
    int block = p.gates;
    for (int g = 0; g < gate; g++) block += !p.shared[g];
    return block;
  }
  int sums_block(const ProgramProblem<T>& p, int i) const { return ring_blocks - p.sum_count + i; }

  // The blocks of a part, [rows, pitch] each.
  T* block_of(int part, int index) const { return blocks + part * blocks_size + (ptrdiff_t)index * rows * pitch; }
  // Forward: x and r of every gate, and h * scale, of a group.
  T* product_of(int part, int index) const {
    return products + (ptrdiff_t)(part * product_count + index) * group * pitch;
  }
  T* xw_of(int part, int gate) const { return product_of(part, gate); }
  T* rh_of(const ProgramProblem<T>& p, int part, int gate) const { return product_of(part, p.gates + gate); }
  T* scaled_of(int part) const { return product_of(part, product_count - 1); }

  T* y_block(int part) const { return block_of(part, first_block); }
  T* dy_block(int part) const { return block_of(part, first_block + 1); }
  T* carry_block(int part, int index) const { return block_of(part, index); }  // backward

  // The operands of a part, with the places of those that are the same at every step.
  Operand<T>* operands_of(const ProgramProblem<T>& p, int part) const {
    Operand<T>* o = operands + (ptrdiff_t)part * p.code.operand_count;
    for (int i = 0; i < p.code.operand_count; i++) {
      const auto [place, index] = p.code.operands[i];
      switch (place) {
        case Place::kConstant: o[i] = {constants + index * L, 0, 0}; break;
        case Place::kDerived: o[i] = {derived + index * pitch, 0, L}; break;
        case Place::kRegister: o[i] = {block_of(part, first_block + 2 + index), pitch, L}; break;
        case Place::kRow: o[i] = {row_registers + ((ptrdiff_t)part * p.row_registers + index) * rows * L, L, 0}; break;
        default: break;
      }
    }
    return o;
  }

 private:
  ProgramWorkspace() = default;

  T *products, *blocks, *row_registers;
  int product_count;
  Operand<T>* operands;
  size_t blocks_size;
  int first_block;

  static int make_panels(int vectors, int most, Panel* to) {
    const int count = (vectors + most - 1) / most;
    for (int i = 0; i < count; i++) {
      const Range r = split(vectors, i, count);
      to[i] = {r.begin, r.end - r.begin};
    }
    return count;
  }

  size_t lay_out(const ProgramProblem<T>& p, bool backward, int count, char* memory) {
    size_t used = 0;
    auto take = [&](auto*& pointer, size_t count) {
      pointer = (__typeof__(pointer + 0))(memory + used);
      used += (count * sizeof(*pointer) + 63) / 64 * 64;
    };
    pitch = p.pitch(), sets = sets_of(p.batch);
    // Some 3 KiB: larger blocks do not stay in the cache of level 1, for smaller ones interpreting costs more.
    const int tile_rows = kRows[kProgramVectors], wanted = 3072 / (int)(pitch * sizeof(T)) / tile_rows * tile_rows;
    rows = std::min({std::max(wanted, tile_rows), kMostRows, p.batch});
    product_count = backward ? 0 : p.gates + p.recurrent_gates + (p.scale ? 1 : 0);
    // Some 128 KiB, which stay in the cache of level 2.
    const int kept = 131072 / (int)((p.gates + p.recurrent_gates) * pitch * sizeof(T)) / tile_rows * tile_rows;
    group = std::min(std::clamp(kept, rows, kMostRows), p.batch);
    const size_t width = (size_t)vectors_of(p.hidden) * L;
    take(recurrent, width * p.hidden * p.recurrent_gates);
    take(derived, (size_t)p.derived_count * pitch);
    take(constants, (size_t)p.code.constant_count * L);
    take(zero, L);
    take(carries, (size_t)2 * p.carries * p.batch * pitch);
    take(panels, vectors_of(p.hidden));
    if (backward) {
      sides.lay_out(p.hidden, p.x ? p.in_features : 0, p.gates, count, take);
      chunk = std::min((sides.rows + p.batch - 1) / p.batch, p.time);
      ring_blocks = p.gates + p.sum_count;
      for (int g = 0; g < p.recurrent_gates; g++) ring_blocks += !p.shared[g];
      ring_row = odd_lines<T>(ring_blocks * pitch);
      take(kernel, p.dx ? (size_t)vectors_of(p.in_features) * L * p.gates * p.hidden : 0);
      take(ring, (size_t)p.batch * 2 * chunk * ring_row);
      take(wide_panels, vectors_of(p.hidden));
      take(input_panels, vectors_of(p.in_features));
      first_block = p.carries;
    } else {
      take(kernel, p.x ? width * p.in_features * p.gates : 0);
      take(bias, (size_t)p.gates * pitch);
      take(recurrent_bias, (size_t)p.recurrent_gates * pitch);
      take(sum_bias, (size_t)p.gates * pitch);
      first_block = 0;
    }
    take(products, (size_t)product_count * group * pitch * count);
    blocks_size = (size_t)(first_block + 2 + p.registers) * rows * pitch;
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
