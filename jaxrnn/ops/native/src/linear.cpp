// The loops of a linear recurrence, compiled once for every instruction set.

#include "linear.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "vector.h"

namespace jaxrnn::JAXRNN_ISA {
namespace {

// Neighbours exchanged: (re, im) becomes (im, re).
template <class T, size_t... kLane>
INLINE Vector<T> exchanged(Vector<T> v, std::index_sequence<kLane...>) {
  return Vector<T>{v[kLane ^ 1]...};
}

INLINE Vector<float> exchanged(Vector<float> v) {
#if defined(__AVX512F__)
  return (Vector<float>)_mm512_permute_ps((__m512)v, 0xb1);
#elif defined(__AVX2__)
  return (Vector<float>)_mm256_permute_ps((__m256)v, 0xb1);
#else
  return exchanged<float>(v, std::make_index_sequence<kLanes<float>>{});
#endif
}

INLINE Vector<double> exchanged(Vector<double> v) {
#if defined(__AVX512F__)
  return (Vector<double>)_mm512_permute_pd((__m512d)v, 0x55);
#elif defined(__AVX2__)
  return (Vector<double>)_mm256_permute_pd((__m256d)v, 0x5);
#else
  return exchanged<double>(v, std::make_index_sequence<kLanes<double>>{});
#endif
}

// -1, 1, -1, 1, ...
template <class T>
INLINE Vector<T> alternating_signs() {
  Vector<T> signs = broadcast(T(1));
  for (int i = 0; i < kLanes<T>; i += 2) signs[i] = T(-1);
  return signs;
}

// x * y + z, of numbers or of pairs (re, im).
template <class T, bool kComplex>
INLINE Vector<T> multiply_add(Vector<T> x, Vector<T> y, Vector<T> z) {
  if constexpr (!kComplex) {
    return x * y + z;
  } else {
    const Vector<T> swapped = exchanged(x);
    const typename Types<T>::Integers is_real = (alternating_signs<T>() < T(0));
    const Vector<T> real = is_real ? x : swapped, imaginary = is_real ? swapped : x;  // (re, re), (im, im)
    return real * y + (imaginary * alternating_signs<T>() * exchanged(y) + z);
  }
}

template <class T>
INLINE void copy(T* to, const T* from, int64_t n) {
  std::memcpy(to, from, n * sizeof(T));
}

template <class T>
INLINE void add(T* to, const T* from, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

// Numbers in one line of the cache.
template <class T>
constexpr int64_t kLine = 64 / sizeof(T);

// The scratch memory of a tile, which begins at a line.
template <class T>
struct Buffer {
  explicit Buffer(int64_t n) : lines((n + kLine<T> - 1) / kLine<T>) {}
  struct alignas(64) Line {
    T numbers[kLine<T>];
  };
  T* data() { return reinterpret_cast<T*>(lines.data()); }
  std::vector<Line> lines;
};

// Stores a whole vector past the caches, so that the line it belongs to is not read before.
template <class T>
INLINE void stream(T* to, Vector<T> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) _mm512_stream_ps(to, (__m512)v);
  if constexpr (sizeof(T) == 8) _mm512_stream_pd(to, (__m512d)v);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) _mm256_stream_ps(to, (__m256)v);
  if constexpr (sizeof(T) == 8) _mm256_stream_pd(to, (__m256d)v);
#else
  store<T>(to, v);
#endif
}

// Makes what was streamed visible to other threads.
INLINE void end_of_streams() {
#if defined(__AVX512F__) || defined(__AVX2__)
  _mm_sfence();
#endif
}

// One line of results. All its parts are streamed together: memory takes a whole line at once.
template <class T, bool kStream>
INLINE void store_line(T* to, const Vector<T> (&values)[kLine<T> / kLanes<T>]) {
  for (int64_t k = 0; k < kLine<T> / kLanes<T>; k++) {
    if constexpr (kStream) {
      stream<T>(to + k * kLanes<T>, values[k]);
    } else {
      store<T>(to + k * kLanes<T>, values[k]);
    }
  }
}

// Calls line(i) for every whole line of a span, and part(i, lanes) for the vectors of the rest. A pass that runs
// backward in memory does so within a step, too: the processor recognises one long run and reads ahead of it.
template <class T, class LineBody, class PartBody>
INLINE void each_line(int64_t n, bool down, LineBody&& line, PartBody&& part) {
  const int64_t whole = n / kLine<T> * kLine<T>;
  const auto rest = [&] {
    for (int64_t i = whole; i < n; i += kLanes<T>) part(i, (int)std::min<int64_t>(kLanes<T>, n - i));
  };
  if (down) {
    rest();
    for (int64_t i = whole - kLine<T>; i >= 0; i -= kLine<T>) line(i);
  } else {
    for (int64_t i = 0; i < whole; i += kLine<T>) line(i);
    rest();
  }
}

// With kStream, the results are also written to `state`, from which the next step reads them.
template <class T, bool kComplex, bool kStream>
void forward_step(const T* __restrict a, const T* __restrict b, const T* previous, T* state, T* __restrict h,
                  int64_t n, bool down) {
  const auto one = [&](int64_t i, int lanes) {
    return multiply_add<T, kComplex>(load<T>(a + i, lanes), load<T>(previous + i, lanes), load<T>(b + i, lanes));
  };
  const auto line = [&](int64_t i) {
    Vector<T> found[kLine<T> / kLanes<T>];
    for (int64_t k = 0; k < kLine<T> / kLanes<T>; k++) found[k] = one(i + k * kLanes<T>, kLanes<T>);
    if constexpr (kStream) store_line<T, false>(state + i, found);
    store_line<T, kStream>(h + i, found);
  };
  each_line<T>(n, down, line, [&](int64_t i, int lanes) {
    const Vector<T> found = one(i, lanes);
    if constexpr (kStream) store<T>(state + i, found, lanes);
    store<T>(h + i, found, lanes);
  });
}

enum class Decay { kNone, kEachStep, kSum };  // whether a needs a gradient, and one for every step or their sum

// `pending` is the gradient of h_t that comes from later steps, and becomes that of h_{t-1}.
template <class T, bool kComplex, bool kStream, Decay kDecay>
void backward_step(const T* __restrict a, const T* __restrict previous, const T* __restrict dh, T* __restrict pending,
                   T* __restrict da, T* __restrict db, int64_t n, bool down) {
  const auto of_b = [&](int64_t i, int lanes) { return load<T>(dh + i, lanes) + load<T>(pending + i, lanes); };
  const auto of_a = [&](int64_t i, int lanes, Vector<T> g) {
    const Vector<T> before = kDecay == Decay::kSum ? load<T>(da + i, lanes) : broadcast(T(0));
    return multiply_add<T, kComplex>(load<T>(previous + i, lanes), g, before);
  };
  const auto of_previous = [&](int64_t i, int lanes, Vector<T> g) {
    return multiply_add<T, kComplex>(load<T>(a + i, lanes), g, broadcast(T(0)));
  };
  const auto line = [&](int64_t i) {
    constexpr int64_t kVectors = kLine<T> / kLanes<T>;
    Vector<T> g[kVectors], before[kVectors], d[kVectors];
    for (int64_t k = 0; k < kVectors; k++) {
      const int64_t at = i + k * kLanes<T>;
      g[k] = of_b(at, kLanes<T>);
      if constexpr (kDecay != Decay::kNone) d[k] = of_a(at, kLanes<T>, g[k]);
      before[k] = of_previous(at, kLanes<T>, g[k]);
    }
    store_line<T, false>(pending + i, before);
    store_line<T, kStream>(db + i, g);
    if constexpr (kDecay != Decay::kNone) store_line<T, kStream && kDecay == Decay::kEachStep>(da + i, d);
  };
  each_line<T>(n, down, line, [&](int64_t i, int lanes) {
    const Vector<T> g = of_b(i, lanes);
    store<T>(db + i, g, lanes);
    if constexpr (kDecay != Decay::kNone) store<T>(da + i, of_a(i, lanes, g), lanes);
    store<T>(pending + i, of_previous(i, lanes, g), lanes);
  });
}

// Calls body(row) for the rows of a tile, in the order of the pass in memory.
template <class Body>
INLINE void each_row(const LinearTile& tile, bool down, Body&& body) {
  for (int64_t k = 0; k < tile.end_row - tile.first_row; k++) body(down ? tile.end_row - 1 - k : tile.first_row + k);
}

// The state after the step before the i-th one.
template <class T>
INLINE const T* last_state(const LinearProblem<T>& p, int64_t i, int64_t r) {
  return i == 0 ? p.initial + r * p.width : p.h + p.step_of(i - 1) * p.step + r * p.row;
}

template <class T, bool kComplex, bool kStream>
void forward_tile(const LinearProblem<T>& p, const LinearTile& tile) {
  const int64_t c = tile.first, n = tile.end - tile.first;
  Buffer<T> states(kStream ? (tile.end_row - tile.first_row) * n : 0);
  for (int64_t i = 0; i < p.time; i++) {
    const int64_t t = p.step_of(i);
    each_row(tile, p.reverse, [&](int64_t r) {
      T* h = p.h + t * p.step + r * p.row + c;
      T* state = kStream ? states.data() + (r - tile.first_row) * n : nullptr;
      const T* last = kStream && i > 0 ? state : last_state(p, i, r) + c;
      if (p.lengths && t >= p.lengths[r]) {
        copy(h, last, n);
        if (kStream && i == 0) copy(state, last, n);
        return;
      }
      const T* a = p.a + t * p.a_step + r * p.a_row + c;
      const T* previous = p.is_reset(t, r) ? p.reset + r * p.width + c : last;
      forward_step<T, kComplex, kStream>(a, p.b + t * p.step + r * p.row + c, previous, state, h, n, p.reverse);
    });
  }
  if (kStream) end_of_streams();
}

// A long sum in single precision loses digits, so it is made of sums over this many steps.
constexpr int64_t kSumOver = 128;

template <class T, bool kComplex, bool kStream, Decay kDecay>
void backward_tile(const LinearProblem<T>& p, const LinearTile& tile) {
  constexpr bool kAdds = kDecay == Decay::kSum;
  const int64_t c = tile.first, n = tile.end - tile.first, rows = tile.end_row - tile.first_row;
  Buffer<T> sums(kAdds ? rows * n : 0);
  for (int64_t r = tile.first_row; r < tile.end_row; r++) {
    std::fill_n(p.dinitial + r * p.width + c, n, T(0));
    if (p.dreset) std::fill_n(p.dreset + r * p.width + c, n, T(0));
    if (kAdds) std::fill_n(p.da + r * p.width + c, n, T(0));
  }
  const auto add_sums = [&] {
    for (int64_t r = 0; r < rows; r++) add(p.da + (tile.first_row + r) * p.width + c, sums.data() + r * n, n);
    std::fill_n(sums.data(), rows * n, T(0));
  };
  for (int64_t i = p.time - 1; i >= 0; i--) {
    const int64_t t = p.step_of(i);
    each_row(tile, !p.reverse, [&](int64_t r) {
      const int64_t at = t * p.step + r * p.row + c;
      T* pending = p.dinitial + r * p.width + c;
      if (p.lengths && t >= p.lengths[r]) {
        add(pending, p.dh + at, n);
        std::fill_n(p.db + at, n, T(0));
        if (kDecay == Decay::kEachStep) std::fill_n(p.da + at, n, T(0));
        return;
      }
      const bool is_reset = p.is_reset(t, r);
      const T* a = p.a + t * p.a_step + r * p.a_row + c;
      const T* previous = (is_reset ? p.reset + r * p.width : last_state(p, i, r)) + c;
      T* da = kAdds ? sums.data() + (r - tile.first_row) * n : kDecay == Decay::kEachStep ? p.da + at : nullptr;
      backward_step<T, kComplex, kStream, kDecay>(a, previous, p.dh + at, pending, da, p.db + at, n, !p.reverse);
      if (is_reset) {
        add(p.dreset + r * p.width + c, pending, n);
        std::fill_n(pending, n, T(0));
      }
    });
    if (kAdds && (p.time - i) % kSumOver == 0) add_sums();
  }
  if (kAdds) add_sums();
  if (kStream) end_of_streams();
}

template <class T, bool kComplex, bool kStream>
void backward_of(const LinearProblem<T>& p, const LinearTile& tile) {
  if (!p.da) return backward_tile<T, kComplex, kStream, Decay::kNone>(p, tile);
  if (p.a_step == 0) return backward_tile<T, kComplex, kStream, Decay::kSum>(p, tile);
  backward_tile<T, kComplex, kStream, Decay::kEachStep>(p, tile);
}

template <class T>
void forward(const LinearProblem<T>& p, const LinearTile& tile) {
  if (p.is_complex) return p.streams ? forward_tile<T, true, true>(p, tile) : forward_tile<T, true, false>(p, tile);
  p.streams ? forward_tile<T, false, true>(p, tile) : forward_tile<T, false, false>(p, tile);
}

template <class T>
void backward(const LinearProblem<T>& p, const LinearTile& tile) {
  if (p.is_complex) return p.streams ? backward_of<T, true, true>(p, tile) : backward_of<T, true, false>(p, tile);
  p.streams ? backward_of<T, false, true>(p, tile) : backward_of<T, false, false>(p, tile);
}

}  // namespace

const LinearKernels<float> linear_f32 = {forward<float>, backward<float>};
#if !defined(JAXRNN_FLOAT32_ONLY)  // for the sanitizers, under which every function takes long to compile
const LinearKernels<double> linear_f64 = {forward<double>, backward<double>};
#endif

}  // namespace jaxrnn::JAXRNN_ISA
