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

// Calls body(place, lanes) for every vector of a span.
template <class T, class Body>
INLINE void each_vector(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) body(i, kLanes<T>);
  if (i < n) body(i, (int)(n - i));
}

template <class T, bool kComplex>
void forward_step(const T* __restrict a, const T* __restrict b, const T* previous, T* __restrict h, int64_t n) {
  each_vector<T>(n, [&](int64_t i, int lanes) {
    store<T>(h + i,
             multiply_add<T, kComplex>(load<T>(a + i, lanes), load<T>(previous + i, lanes), load<T>(b + i, lanes)),
             lanes);
  });
}

// `pending` is the gradient of h_t that comes from later steps, and becomes that of h_{t-1}. `da` is written, or the
// gradient is added to it.
template <class T, bool kComplex, bool kDa, bool kAdd>
void backward_step(const T* __restrict a, const T* __restrict previous, const T* __restrict dh,
                   T* __restrict pending, T* __restrict da, T* __restrict db, int64_t n) {
  each_vector<T>(n, [&](int64_t i, int lanes) {
    const Vector<T> zero = broadcast(T(0));
    const Vector<T> g = load<T>(dh + i, lanes) + load<T>(pending + i, lanes);
    store<T>(db + i, g, lanes);
    if constexpr (kDa) {
      const Vector<T> before = kAdd ? load<T>(da + i, lanes) : zero;
      store<T>(da + i, multiply_add<T, kComplex>(load<T>(previous + i, lanes), g, before), lanes);
    }
    store<T>(pending + i, multiply_add<T, kComplex>(load<T>(a + i, lanes), g, zero), lanes);
  });
}

// The state before the i-th step of a row.
template <class T>
INLINE const T* state_before(const LinearProblem<T>& p, int64_t i, int64_t r) {
  if (p.is_reset(p.step_of(i), r)) return p.reset + r * p.width;
  if (i == 0) return p.initial + r * p.width;
  return p.h + p.step_of(i - 1) * p.step + r * p.row;
}

template <class T, bool kComplex>
void forward_tile(const LinearProblem<T>& p, const LinearTile& tile) {
  const int64_t c = tile.first, n = tile.end - tile.first;
  for (int64_t i = 0; i < p.time; i++) {
    const int64_t t = p.step_of(i);
    for (int64_t r = tile.first_row; r < tile.end_row; r++) {
      T* h = p.h + t * p.step + r * p.row + c;
      if (p.lengths && t >= p.lengths[r]) {
        copy(h, (i == 0 ? p.initial + r * p.width : p.h + p.step_of(i - 1) * p.step + r * p.row) + c, n);
        continue;
      }
      const T* a = p.a + t * p.a_step + r * p.a_row + c;
      forward_step<T, kComplex>(a, p.b + t * p.step + r * p.row + c, state_before(p, i, r) + c, h, n);
    }
  }
}

// A long sum in single precision loses digits, so it is made of sums over this many steps.
constexpr int64_t kSumOver = 128;

template <class T, bool kComplex>
void backward_tile(const LinearProblem<T>& p, const LinearTile& tile) {
  const int64_t c = tile.first, n = tile.end - tile.first, rows = tile.end_row - tile.first_row;
  const bool adds = p.da && p.a_step == 0;
  std::vector<T> sums(adds ? rows * n : 0);
  for (int64_t r = tile.first_row; r < tile.end_row; r++) {
    std::fill_n(p.dinitial + r * p.width + c, n, T(0));
    if (p.dreset) std::fill_n(p.dreset + r * p.width + c, n, T(0));
    if (adds) std::fill_n(p.da + r * p.width + c, n, T(0));
  }
  const auto add_sums = [&] {
    for (int64_t r = 0; r < rows; r++) add(p.da + (tile.first_row + r) * p.width + c, sums.data() + r * n, n);
    std::fill(sums.begin(), sums.end(), T(0));
  };
  for (int64_t i = p.time - 1; i >= 0; i--) {
    const int64_t t = p.step_of(i);
    for (int64_t r = tile.first_row; r < tile.end_row; r++) {
      const int64_t at = t * p.step + r * p.row + c;
      T* pending = p.dinitial + r * p.width + c;
      if (p.lengths && t >= p.lengths[r]) {
        add(pending, p.dh + at, n);
        std::fill_n(p.db + at, n, T(0));
        if (p.da && !adds) std::fill_n(p.da + at, n, T(0));
        continue;
      }
      const T* a = p.a + t * p.a_step + r * p.a_row + c;
      const T* previous = state_before(p, i, r) + c;
      if (adds) {
        T* da = sums.data() + (r - tile.first_row) * n;
        backward_step<T, kComplex, true, true>(a, previous, p.dh + at, pending, da, p.db + at, n);
      } else if (p.da) {
        backward_step<T, kComplex, true, false>(a, previous, p.dh + at, pending, p.da + at, p.db + at, n);
      } else {
        backward_step<T, kComplex, false, false>(a, previous, p.dh + at, pending, nullptr, p.db + at, n);
      }
      if (p.is_reset(t, r)) {
        add(p.dreset + r * p.width + c, pending, n);
        std::fill_n(pending, n, T(0));
      }
    }
    if (adds && (p.time - i) % kSumOver == 0) add_sums();
  }
  if (adds) add_sums();
}

template <class T>
void forward(const LinearProblem<T>& p, const LinearTile& tile) {
  p.is_complex ? forward_tile<T, true>(p, tile) : forward_tile<T, false>(p, tile);
}

template <class T>
void backward(const LinearProblem<T>& p, const LinearTile& tile) {
  p.is_complex ? backward_tile<T, true>(p, tile) : backward_tile<T, false>(p, tile);
}

}  // namespace

const LinearKernels<float> linear_f32 = {forward<float>, backward<float>};
const LinearKernels<double> linear_f64 = {forward<double>, backward<double>};

}  // namespace jaxrnn::JAXRNN_ISA
