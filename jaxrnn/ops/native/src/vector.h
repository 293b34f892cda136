// SIMD vectors of the instruction set that this file is compiled for, and the functions that the cells need.
//
// The arithmetic uses the compiler's vector extension, which works on every processor. It has no partial loads and
// stores, and no approximate reciprocal: those use intrinsics.
//
// The namespace has the name of the instruction set, because the same source is compiled once for each.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE __attribute__((always_inline)) inline

namespace jaxrnn::JAXRNN_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct Types;

template <>
struct Types<float> {
  typedef float Vector __attribute__((vector_size(kVectorBytes)));
  typedef int32_t Integers __attribute__((vector_size(kVectorBytes)));
  static constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
  static constexpr int kMantissa = 23;
  static constexpr int32_t kOne = 0x3f800000;  // the bits of 1.0
  static constexpr float kLimit = 9.1f;        // from here on, tanh rounds to 1
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
};

template <>
struct Types<double> {
  typedef double Vector __attribute__((vector_size(kVectorBytes)));
  typedef int64_t Integers __attribute__((vector_size(kVectorBytes)));
  static constexpr double kMagic = 6755399441055744.0;
  static constexpr int kMantissa = 52;
  static constexpr int64_t kOne = 0x3ff0000000000000;
  static constexpr double kLimit = 19.1;
  static constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
};

template <class T>
using Vector = typename Types<T>::Vector;

template <class T>
constexpr int kLanes = kVectorBytes / sizeof(T);

template <class T>
INLINE Vector<T> broadcast(T value) {
  return Vector<T>{} + value;
}

template <class T>
INLINE Vector<T> load(const T* from) {
  Vector<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class T>
INLINE void store(T* to, Vector<T> v) {
  std::memcpy(to, &v, sizeof v);
}

#if defined(__AVX512F__)
INLINE Vector<float> load_part(const float* from, int lanes) {
  return (Vector<float>)_mm512_maskz_loadu_ps((__mmask16)((1u << lanes) - 1), from);
}
INLINE Vector<double> load_part(const double* from, int lanes) {
  return (Vector<double>)_mm512_maskz_loadu_pd((__mmask8)((1u << lanes) - 1), from);
}
INLINE void store_part(float* to, Vector<float> v, int lanes) {
  _mm512_mask_storeu_ps(to, (__mmask16)((1u << lanes) - 1), (__m512)v);
}
INLINE void store_part(double* to, Vector<double> v, int lanes) {
  _mm512_mask_storeu_pd(to, (__mmask8)((1u << lanes) - 1), (__m512d)v);
}
#elif defined(__AVX2__)
INLINE __m256i mask_of_floats(int lanes) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE __m256i mask_of_doubles(int lanes) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(lanes), _mm256_setr_epi64x(0, 1, 2, 3));
}
INLINE Vector<float> load_part(const float* from, int lanes) {
  return (Vector<float>)_mm256_maskload_ps(from, mask_of_floats(lanes));
}
INLINE Vector<double> load_part(const double* from, int lanes) {
  return (Vector<double>)_mm256_maskload_pd(from, mask_of_doubles(lanes));
}
INLINE void store_part(float* to, Vector<float> v, int lanes) {
  _mm256_maskstore_ps(to, mask_of_floats(lanes), (__m256)v);
}
INLINE void store_part(double* to, Vector<double> v, int lanes) {
  _mm256_maskstore_pd(to, mask_of_doubles(lanes), (__m256d)v);
}
#else
template <class T>
INLINE Vector<T> load_part(const T* from, int lanes) {
  T part[kLanes<T>] = {};
  for (int i = 0; i < lanes; i++) part[i] = from[i];
  return load(part);
}
template <class T>
INLINE void store_part(T* to, Vector<T> v, int lanes) {
  for (int i = 0; i < lanes; i++) to[i] = v[i];
}
#endif

// Loads the first `lanes` numbers of a vector; the others are zero.
template <class T>
INLINE Vector<T> load(const T* from, int lanes) {
  return lanes >= kLanes<T> ? load(from) : load_part(from, lanes);
}

template <class T>
INLINE void store(T* to, Vector<T> v, int lanes) {
  if (lanes >= kLanes<T>) {
    store<T>(to, v);
  } else {
    store_part(to, v, lanes);
  }
}

INLINE Vector<double> divide(Vector<double> a, Vector<double> b) { return a / b; }

INLINE Vector<float> divide(Vector<float> a, Vector<float> b) {
#if defined(__AVX512F__)
  // Divisions are slow. One Newton step improves an estimate of 1 / b from 14 bits to 28, and what is left over of the
  // division gives the last place. b must be neither 0 nor infinite.
  Vector<float> r = (Vector<float>)_mm512_rcp14_ps((__m512)b);
  r = r * (2.0f - b * r);
  const Vector<float> quotient = a * r;
  return quotient + (a - b * quotient) * r;
#else
  return a / b;
#endif
}

// (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2.
INLINE Vector<float> expm1_tail(Vector<float> r) {
  // A minimax polynomial; the relative error of exp(r) - 1 is below 1.4e-8.
  Vector<float> q = broadcast(0.0013946444672435646f);
  q = q * r + 0.008366583663516421f;
  q = q * r + 0.04166628211846385f;
  q = q * r + 0.16666542994568653f;
  return q * r + 0.5000000061902046f;
}

INLINE Vector<double> expm1_tail(Vector<double> r) {
  // A Taylor polynomial; the first omitted term is below 1e-17.
  Vector<double> q = broadcast(1.0 / 6227020800.0);
  q = q * r + 1.0 / 479001600.0;
  q = q * r + 1.0 / 39916800.0;
  q = q * r + 1.0 / 3628800.0;
  q = q * r + 1.0 / 362880.0;
  q = q * r + 1.0 / 40320.0;
  q = q * r + 1.0 / 5040.0;
  q = q * r + 1.0 / 720.0;
  q = q * r + 1.0 / 120.0;
  q = q * r + 1.0 / 24.0;
  q = q * r + 1.0 / 6.0;
  return q * r + 0.5;
}

// tanh(x) = e / (e + 2) with e = exp(2 x) - 1, which is accurate for small x too. NaN stays NaN.
template <class T>
INLINE Vector<T> tanh_vector(Vector<T> x) {
  using Constants = Types<T>;
  x = x > Constants::kLimit ? broadcast(Constants::kLimit) : x;
  x = x < -Constants::kLimit ? broadcast(-Constants::kLimit) : x;
  Vector<T> y = x + x;
  // y = n ln(2) + r with an integer n and |r| <= ln(2) / 2.
  Vector<T> shifted = y * T(1.4426950408889634074) + Constants::kMagic;
  Vector<T> n = shifted - Constants::kMagic;
  Vector<T> r = (y - n * Constants::kLn2High) - n * Constants::kLn2Low;
  typename Constants::Integers bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << Constants::kMantissa) + Constants::kOne;  // 2^n: the low bits of `shifted` are n
  Vector<T> scale;
  std::memcpy(&scale, &bits, sizeof bits);
  Vector<T> e = (r + r * r * expm1_tail(r)) * scale + (scale - T(1));
  return divide(e, e + T(2));
}

template <class T>
INLINE Vector<T> sigmoid_vector(Vector<T> x) {
  return tanh_vector<T>(x * T(0.5)) * T(0.5) + T(0.5);
}

// exp(z) = 2^n 2^r with an integer n and |r| <= 1/2, for z that is limited to the range from -limit to limit, at most 87.
// NaN stays NaN, in r.
struct Power {
  Vector<float> of_n, r;  // 2^n and r
};

INLINE Power power(Vector<float> z, float limit) {
  using Constants = Types<float>;
#if defined(__AVX512F__)
  z = (Vector<float>)_mm512_min_ps(_mm512_set1_ps(limit), (__m512)z);
  z = (Vector<float>)_mm512_max_ps(_mm512_set1_ps(-limit), (__m512)z);
#elif defined(__AVX2__)
  z = (Vector<float>)_mm256_min_ps(_mm256_set1_ps(limit), (__m256)z);
  z = (Vector<float>)_mm256_max_ps(_mm256_set1_ps(-limit), (__m256)z);
#else
  z = z > limit ? broadcast(limit) : z;
  z = z < -limit ? broadcast(-limit) : z;
#endif
  constexpr float kLog2E = 1.4426950408889634f;
  const Vector<float> shifted = z * kLog2E + Constants::kMagic;
  Types<float>::Integers bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << Constants::kMantissa) + Constants::kOne;  // the low bits of `shifted` are n
  Vector<float> of_n;
  std::memcpy(&of_n, &bits, sizeof of_n);
  return {of_n, z * kLog2E - (shifted - Constants::kMagic)};
}

INLINE Vector<float> exp_of(Power p) {
  // A polynomial with the smallest largest error; that of 1 + r q is below 1e-7, relatively.
  Vector<float> q = broadcast(0.001326472724733567f);
  q = q * p.r + 0.00967151268817374f;
  q = q * p.r + 0.05550733743573888f;
  q = q * p.r + 0.2402224208463472f;
  q = q * p.r + 0.6931469775987172f;
  return (q * p.r + 1.0f) * p.of_n;
}

template <>
INLINE Vector<float> sigmoid_vector<float>(Vector<float> x) {
  const Vector<float> e = exp_of(power(x, 80.0f));
  return divide(e, e + 1.0f);
}

}  // namespace jaxrnn::JAXRNN_ISA
