// A step of a layer for a block of rows, as inference.h describes it, for the instruction set this file is compiled
// for. A block is small enough for the cache, so the weights are read once for all its rows.

#include "inference.h"

#include <algorithm>

#include "inference_cells.h"
#include "integers.h"
#include "tile.h"
#include "workspace.h"

namespace jaxrnn::JAXRNN_ISA {
namespace {

constexpr int L = kLanes<float>;
constexpr int kFewRows = 6;  // for which int8 columns are not widened before the product
constexpr int kLine = 64 / sizeof(float);  // of the cache

int vectors_of_hidden(const Layer& l) { return (l.hidden + L - 1) / L; }

// The units of a layer in panels of at most `most` vectors each, nearly equal.
template <class Body>
INLINE void for_each_panel(const Layer& l, int most, Body&& body) {
  const int vectors = vectors_of_hidden(l), count = (vectors + most - 1) / most;
  for (int i = 0; i < count; i++) {
    const Range r = split(vectors, i, count);
    body(Panel{r.begin, r.end - r.begin});
  }
}

int most_vectors_of_panel(const Layer& l) { return std::max(1, kMostVectors / gates_of(l.cell)); }

size_t packed_size(const Layer& l, int depth) {
  const size_t columns = (size_t)vectors_of_hidden(l) * L * gates_of(l.cell);
  return l.quantized ? columns * padded(depth) : columns * depth * sizeof(float);
}

// The int8 columns of a panel as tile_of_integers reads them: [pair][gate][vector][lane][2], with zeros as padding.
void pack_integers(const Layer& l, const Panel& panel, const int8_t* weights, int depth, int8_t* packed) {
  const int gates = gates_of(l.cell), H = l.hidden;
  int8_t* to = packed + (ptrdiff_t)panel.first * L * padded(depth) * gates;
  const int first = panel.first * L, width = panel.vectors * L, present = std::min(width, H - first);
  for (int k = 0; k < depth; k += 2) {
    for (int g = 0; g < gates; g++, to += 2 * width) {
      const int8_t* even = weights + ((ptrdiff_t)k * gates + g) * H + first;
      const int8_t* odd = even + (ptrdiff_t)gates * H;
      if (k + 1 < depth) {
        for (int i = 0; i < present; i++) to[2 * i] = even[i], to[2 * i + 1] = odd[i];
      } else {
        for (int i = 0; i < present; i++) to[2 * i] = even[i], to[2 * i + 1] = 0;
      }
      std::fill(to + 2 * present, to + 2 * width, 0);
    }
  }
}

void pack(const Layer& l, const void* weights, int depth, void* packed) {
  const int gates = gates_of(l.cell);
  for_each_panel(l, most_vectors_of_panel(l), [&](const Panel& panel) {
    if (l.quantized) return pack_integers(l, panel, (const int8_t*)weights, depth, (int8_t*)packed);
    pack_panel(panel, (const float*)weights, depth, gates, l.hidden, l.hidden, gates, (float*)packed);
  });
}

int rows_of_block(const Layer& l) {
  // A multiple of the rows of all tiles, whose hidden states take about half of a cache of 32 KiB.
  return std::clamp(16384 / (int)sizeof(float) / l.hidden, 12, kMostRows) / 12 * 12;
}

// Where one row's step reads and writes.
struct RowOfStep {
  const float* old_h;
  float *c, *new_h, *y;
  bool valid;
};

// The arrays of one call: the hidden states before and after a step, and what the integer products need.
struct Arrays {
  float* h[2];
  int16_t *integers_x, *integers_h;
  float *scale_x, *scale_h;
  Shorts* columns;  // of a panel, as int16
  RowOfStep* rows;
  size_t size;

  Arrays(const Layer& l, void* memory) : size(0) {
    const int most = rows_of_block(l);
    auto take = [&](auto*& pointer, size_t count) {
      pointer = (__typeof__(pointer + 0))((char*)memory + size);
      size += (count * sizeof(*pointer) + 63) / 64 * 64;
    };
    for (float*& part : h) take(part, (size_t)most * l.hidden);
    take(integers_x, l.quantized ? most * padded(l.in_features) : 0);
    take(integers_h, l.quantized ? most * padded(l.hidden) : 0);
    take(scale_x, most);
    take(scale_h, most);
    const int deepest = std::max(padded(l.in_features), padded(l.hidden)) / 2;
    take(columns, l.quantized && kWidenedRows[1] ? deepest * kMostVectors : 0);
    take(rows, most);
  }
};

size_t scratch_size(const Layer& l) { return Arrays(l, nullptr).size; }

// The products of some rows and a panel, [row][gate][vector][lane]. `x` is null if `h` is the sum of both.
struct Products {
  const float *x, *h;
  const float *scale_x, *scale_h;  // of each row, if the products are sums of integers
};

// The end of a step for all rows of a block and a panel: applies the cell's equations and stores the results.
template <class CellType, int kVectors, bool kQuantized>
INLINE void finish(const Layer& l, const Panel& panel, const Products& products, const RowOfStep* rows, int count) {
  constexpr int kGates = CellType::kGates, kTogether = 4;
  using Equations = Inference<CellType>;
  typename Equations::Half halves[kTogether][kVectors];
  const int H = l.hidden, first = panel.first * L;
  auto some = [&](int begin, int end, auto lanes_of) __attribute__((always_inline)) {
    for (int m = begin; m < end; m++) {
      const RowOfStep& row = rows[m];
#pragma GCC unroll 4
      for (int u = 0; u < kVectors; u++) {
        const int unit = first + u * L, lanes = lanes_of(unit);
        if (CellType::kHasC) __builtin_prefetch(row.c + unit + kLine);  // for the next panel: rows lie far apart
        if (row.y) __builtin_prefetch(row.y + unit + kLine, /*write=*/1);
        const State<float> old{load(row.old_h + unit, lanes),
                               CellType::kHasC ? load(row.c + unit, lanes) : Vector<float>{}};
        Vector<float> xs[kGates], rs[kGates];
#pragma GCC unroll 4
        for (int g = 0; g < kGates; g++) {
          const int column = g * H + unit, at = ((m * kGates + g) * kVectors + u) * L;
          xs[g] = products.x ? load(products.x + at) : Vector<float>{};
          rs[g] = load(products.h + at);
          if constexpr (kQuantized) {
            xs[g] *= products.scale_x[m] * load(l.kernel_scale + column, lanes);
            rs[g] *= products.scale_h[m] * load(l.recurrent_scale + column, lanes);
          }
          if (l.bias) xs[g] += load(l.bias + column, lanes);
          if (l.recurrent_bias) rs[g] += load(l.recurrent_bias + column, lanes);
        }
        const Vector<float> leak = CellType::kHasLeak ? load(l.leak + unit, lanes) : Vector<float>{};
        halves[m - begin][u] = Equations::first(xs, rs, old, leak);
      }
    }
    for (int m = begin; m < end; m++) {
      const RowOfStep& row = rows[m];
#pragma GCC unroll 4
      for (int u = 0; u < kVectors; u++) {
        const int unit = first + u * L, lanes = lanes_of(unit);
        State<float> state = Equations::second(halves[m - begin][u]);
        if (row.valid && CellType::kHasC) store(row.c + unit, state.c, lanes);
        if (row.y) store(row.y + unit, row.valid ? state.h : Vector<float>{}, lanes);
        store(row.new_h + unit, row.valid ? state.h : load(row.old_h + unit, lanes), lanes);
      }
    }
  };
  auto all = [&](auto lanes_of) __attribute__((always_inline)) {
    for (int m = 0; m < count; m += kTogether) some(m, std::min(m + kTogether, count), lanes_of);
  };
  if (first + kVectors * L <= H) {
    all([](int) { return L; });
  } else {
    all([H](int unit) { return H - unit; });
  }
}

// Rows in a tile of integers of N vectors: the accumulators, a broadcast for each row, a column and a product must fit
// into the registers.
constexpr int kRowsOfIntegers[2][5] = {{0, 6, 4, 3, 2}, {0, 12, 9, 7, 5}};  // of 16 and of 32 registers

template <int N>
constexpr int kIntegerRows = kRowsOfIntegers[kVectorBytes == 64][N];

template <int N, int M = kIntegerRows<N>>
INLINE void integers(int rows, const int16_t* a, ptrdiff_t row, const int8_t* b, int depth, float* out) {
  if constexpr (M == 1) {
    tile_of_integers<1, N, 2>(a, row, b, padded(depth) / 2, out);
  } else {
    if (rows == M) return tile_of_integers<M, N, 1>(a, row, b, padded(depth) / 2, out);
    integers<N, M - 1>(rows, a, row, b, depth, out);
  }
}

template <int N, int M = kWidenedRows[N]>
INLINE void shorts(int rows, const int16_t* a, ptrdiff_t row, const Shorts* b, int depth, float* out) {
  if constexpr (M > 0) {
    if (rows == M) return tile_of_shorts<M, N>(a, row, b, padded(depth) / 2, out);
    shorts<N, M - 1>(rows, a, row, b, depth, out);
  }
}

// The products of all rows of a block and a panel of columns. With many rows the columns are widened once for all.
template <int N>
INLINE void products_of_integers(int rows, const int16_t* a, ptrdiff_t row, const int8_t* b, int depth, Shorts* columns,
                                 float* out) {
  constexpr int M = kIntegerRows<N>, kWidened = kWidenedRows[N];
  if (kWidened && rows > kFewRows) {
    const int count = padded(depth) / 2 * N;
    for (int i = 0; i < count; i++) columns[i] = widen(b + i * (kVectorBytes / 2));
    for (int m = 0; m < rows; m += kWidened) {
      shorts<N>(std::min(kWidened, rows - m), a + m * row, row, columns, depth, out + m * N * L);
    }
    return;
  }
  for (int m = 0; m < rows; m += M) integers<N>(std::min(M, rows - m), a + m * row, row, b, depth, out + m * N * L);
}

// One panel of units at one step, for all rows of a block.
template <class CellType, int kVectors>
void step_panel_in_float(const Layer& l, const Panel& panel, const float* x, ptrdiff_t x_row, const float* h,
                         const RowOfStep* of_rows, int rows) {
  constexpr int N = CellType::kGates * kVectors;
  const int H = l.hidden, in = l.in_features;
  const ptrdiff_t first = (ptrdiff_t)panel.first * L * CellType::kGates;
  const float* kernel = (const float*)l.packed_kernel + first * in;
  const float* recurrent = (const float*)l.packed_recurrent + first * H;
  alignas(64) float of_x[CellType::kApart ? kMostRows * N * L : 1], of_h[kMostRows * N * L];
  const Segment<float> segments[2] = {{x, x_row, kernel, in}, {h, H, recurrent, H}};
  const int sets = sets_of(rows);
  if (CellType::kApart) product<float, N>(sets, segments, 1, rows, of_x);
  product<float, N>(sets, segments + CellType::kApart, CellType::kApart ? 1 : 2, rows, of_h);
  finish<CellType, kVectors, false>(l, panel, {CellType::kApart ? of_x : nullptr, of_h, nullptr, nullptr}, of_rows, rows);
}

template <class CellType, int kVectors>
void step_panel_in_integers(const Layer& l, const Panel& panel, const Arrays& arrays, const RowOfStep* of_rows,
                            int rows) {
  constexpr int N = CellType::kGates * kVectors;
  const ptrdiff_t first = (ptrdiff_t)panel.first * L * CellType::kGates;
  const int depth_x = padded(l.in_features), depth_h = padded(l.hidden);
  const int8_t* kernel = (const int8_t*)l.packed_kernel + first * depth_x;
  const int8_t* recurrent = (const int8_t*)l.packed_recurrent + first * depth_h;
  alignas(64) float of_x[kMostRows * N * L], of_h[kMostRows * N * L];
  products_of_integers<N>(rows, arrays.integers_x, depth_x, kernel, depth_x, arrays.columns, of_x);
  products_of_integers<N>(rows, arrays.integers_h, depth_h, recurrent, depth_h, arrays.columns, of_h);
  finish<CellType, kVectors, true>(l, panel, {of_x, of_h, arrays.scale_x, arrays.scale_h}, of_rows, rows);
}

template <class CellType>
void run_cell(const Layer& l, const Sequences& q, int begin, int end, void* scratch) {
  constexpr int kMost = kMostVectors / CellType::kGates;
  const Arrays arrays(l, scratch);
  const int H = l.hidden, in = l.in_features, rows = end - begin;
  auto state_row = [&](int i) { return (ptrdiff_t)(q.index ? q.index[begin + i] : begin + i) * H; };
  for (int i = 0; i < rows; i++) std::copy_n(q.h + state_row(i), H, arrays.h[0] + (ptrdiff_t)i * H);
  for (int s = 0; s < q.time; s++) {
    const int t = q.reverse ? q.time - 1 - s : s;
    float* h = arrays.h[s & 1];
    float* next = arrays.h[(s + 1) & 1];
    const bool last = s + 1 == q.time;
    const float* x = q.x + q.row(t, begin) * in;
    const ptrdiff_t x_row = (ptrdiff_t)(q.batch_major ? q.time : 1) * in;
    for (int i = 0; i < rows; i++) {
      if (q.resets && q.resets[(ptrdiff_t)t * q.batch + begin + i]) {
        std::copy_n(q.reset_h + (ptrdiff_t)(begin + i) * H, H, h + (ptrdiff_t)i * H);
        if (CellType::kHasC) std::copy_n(q.reset_c + (ptrdiff_t)(begin + i) * H, H, q.c + state_row(i));
      }
      if (l.quantized) {
        int16_t* to_x = arrays.integers_x + (ptrdiff_t)i * padded(in);
        int16_t* to_h = arrays.integers_h + (ptrdiff_t)i * padded(H);
        arrays.scale_x[i] = round_row(x + i * x_row, in, largest_activation(in), to_x);
        arrays.scale_h[i] = round_row(h + (ptrdiff_t)i * H, H, largest_activation(H), to_h);
      }
    }
    for (int i = 0; i < rows; i++) {
      RowOfStep& row = arrays.rows[i];
      row.old_h = h + (ptrdiff_t)i * H;
      row.new_h = last ? q.h + state_row(i) : next + (ptrdiff_t)i * H;
      row.c = CellType::kHasC ? q.c + state_row(i) : nullptr;
      row.y = q.y ? q.y + q.row(t, begin + i) * H : nullptr;
      row.valid = !q.valid || q.valid[(ptrdiff_t)t * q.batch + begin + i];
    }
    for_each_panel(l, kMost, [&](const Panel& panel) {
      with_vectors<kMost>(panel.vectors, [&]<int kVectors>() {
        if (l.quantized) {
          step_panel_in_integers<CellType, kVectors>(l, panel, arrays, arrays.rows, rows);
        } else {
          step_panel_in_float<CellType, kVectors>(l, panel, x, x_row, h, arrays.rows, rows);
        }
      });
    });
  }
}

void run(const Layer& l, const Sequences& q, int begin, int end, void* scratch) {
  switch (l.cell) {
    case Cell::kTanh: return run_cell<Simple<float, Cell::kTanh>>(l, q, begin, end, scratch);
    case Cell::kRelu: return run_cell<Simple<float, Cell::kRelu>>(l, q, begin, end, scratch);
    case Cell::kSigmoid: return run_cell<Simple<float, Cell::kSigmoid>>(l, q, begin, end, scratch);
    case Cell::kLSTM: return run_cell<LSTM<float>>(l, q, begin, end, scratch);
    case Cell::kGRU: return run_cell<GRU<float>>(l, q, begin, end, scratch);
    case Cell::kLeaky: return run_cell<Leaky<float>>(l, q, begin, end, scratch);
    case Cell::kGRUBefore: return;
  }
}

}  // namespace

extern const LayerKernels layer_kernels{packed_size, pack, rows_of_block, scratch_size, run};

}  // namespace jaxrnn::JAXRNN_ISA
