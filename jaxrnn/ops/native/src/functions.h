// Functions of vectors that programs have besides those of the built-in cells: see vector.h.
//
// They follow NumPy at infinities and NaN, also where a result is too large or too small for a normal number. exp, log,
// log1p, expm1 and the sigmoid are within 2 units in the last place; what has no vector form calls the C library.

#pragma once

#include <cmath>
#include <limits>

#include "vector.h"

namespace jaxrnn::JAXRNN_ISA {

template <class T>
using Integers = typename Types<T>::Integers;

template <class T>
INLINE Integers<T> bits_of(Vector<T> v) {
  Integers<T> bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}

template <class T>
INLINE Vector<T> of_bits(Integers<T> bits) {
  Vector<T> v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

template <class T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();

// f of every lane.
template <class T, class F>
INLINE Vector<T> by_lane(Vector<T> v, F f) {
  for (int i = 0; i < kLanes<T>; i++) v[i] = f(v[i]);
  return v;
}

// Truth as a number: 1 or 0.
template <class T>
INLINE Vector<T> truth(Integers<T> mask) {
  return mask ? broadcast<T>(1) : Vector<T>{};
}

// NaN if one of both is, as in NumPy.
template <class T>
INLINE Vector<T> max_vector(Vector<T> a, Vector<T> b) {
  return (a > b) | (a != a) ? a : b;
}

template <class T>
INLINE Vector<T> min_vector(Vector<T> a, Vector<T> b) {
  return (a < b) | (a != a) ? a : b;
}

template <class T>
INLINE Vector<T> sign_vector(Vector<T> a) {
  return a > T(0) ? broadcast<T>(1) : a < T(0) ? broadcast<T>(-1) : a;  // zero and NaN stay
}

INLINE Vector<float> sqrt_vector(Vector<float> a) {
#if defined(__AVX512F__)
  return (Vector<float>)_mm512_sqrt_ps((__m512)a);
#elif defined(__AVX2__)
  return (Vector<float>)_mm256_sqrt_ps((__m256)a);
#else
  return by_lane<float>(a, [](float x) { return std::sqrt(x); });
#endif
}

INLINE Vector<double> sqrt_vector(Vector<double> a) {
#if defined(__AVX512F__)
  return (Vector<double>)_mm512_sqrt_pd((__m512d)a);
#elif defined(__AVX2__)
  return (Vector<double>)_mm256_sqrt_pd((__m256d)a);
#else
  return by_lane<double>(a, [](double x) { return std::sqrt(x); });
#endif
}

// exp(x) = 2^n exp(r) with an integer n and |r| <= ln(2) / 2. 2^n is multiplied in two factors, because it may be no
// normal number where the result is one, or the result is none.
template <class T>
INLINE Vector<T> exp_vector(Vector<T> x) {
  using Constants = Types<T>;
  constexpr T kHighest = sizeof(T) == 4 ? 89 : 710, kLowest = sizeof(T) == 4 ? -104.5 : -746;
  x = x > kHighest ? broadcast(kHighest) : x;
  x = x < kLowest ? broadcast(kLowest) : x;
  const Vector<T> shifted = x * T(1.4426950408889634074) + Constants::kMagic, n = shifted - Constants::kMagic;
  const Vector<T> r = (x - n * Constants::kLn2High) - n * Constants::kLn2Low;
  const Integers<T> whole = bits_of<T>(shifted) - bits_of<T>(broadcast<T>(Constants::kMagic)), half = whole >> 1;
  const Vector<T> first = of_bits<T>((half << Constants::kMantissa) + Constants::kOne);
  const Vector<T> second = of_bits<T>(((whole - half) << Constants::kMantissa) + Constants::kOne);
  return (r + r * r * expm1_tail(r) + T(1)) * first * second;
}

template <class T>
INLINE Vector<T> logistic_vector(Vector<T> x) {
  return T(1) / (T(1) + exp_vector<T>(-x));
}

// exp(x) - 1 without the loss of digits of small x.
template <class T>
INLINE Vector<T> expm1_vector(Vector<T> x) {
  using Constants = Types<T>;
  constexpr T kFar = sizeof(T) == 4 ? 18 : 38;  // from here on, exp(x) - 1 is rounded to exp(x), or to -1
  const Vector<T> near = x > kFar ? broadcast(kFar) : x < -kFar ? broadcast(-kFar) : x;
  const Vector<T> shifted = near * T(1.4426950408889634074) + Constants::kMagic, n = shifted - Constants::kMagic;
  const Vector<T> r = (near - n * Constants::kLn2High) - n * Constants::kLn2Low;
  const Integers<T> whole = bits_of<T>(shifted) - bits_of<T>(broadcast<T>(Constants::kMagic));
  const Vector<T> scale = of_bits<T>((whole << Constants::kMantissa) + Constants::kOne);
  const Vector<T> small = (r + r * r * expm1_tail(r)) * scale + (scale - T(1));
  return x > kFar ? exp_vector<T>(x) : small;
}

// The polynomials of log: (log(1 + f) - 2 s) / s as a function of z = s^2, with s = f / (2 + f). From FreeBSD's
// e_log.c and e_logf.c (Sun Microsystems 1993).
INLINE Vector<float> log_tail(Vector<float> z) {
  Vector<float> q = broadcast(0.24279078841f);
  q = q * z + 0.28498786688f;
  q = q * z + 0.40000972152f;
  return (q * z + 0.66666662693f) * z;
}

INLINE Vector<double> log_tail(Vector<double> z) {
  Vector<double> q = broadcast(1.479819860511658591e-01);
  q = q * z + 1.531383769920937332e-01;
  q = q * z + 1.818357216161805012e-01;
  q = q * z + 2.222219843214978396e-01;
  q = q * z + 2.857142874366239149e-01;
  q = q * z + 3.999999999940941908e-01;
  return (q * z + 6.666666666666735130e-01) * z;
}

// log(x) = k ln(2) + log(1 + f), with 1 + f between sqrt(1/2) and sqrt(2).
template <class T>
INLINE Vector<T> log_vector(Vector<T> x) {
  using Constants = Types<T>;
  using Word = std::remove_cvref_t<decltype(bits_of<T>(x)[0])>;
  constexpr T kSmallest = std::numeric_limits<T>::min(), kLarger = sizeof(T) == 4 ? 8388608.0 : 4503599627370496.0;
  constexpr Word kRootOfHalf = sizeof(T) == 4 ? Word(0x3f3504f3) : Word(0x3fe6a09e667f3bcd);
  const Integers<T> subnormal = x < kSmallest;
  Integers<T> bits = bits_of<T>(subnormal ? x * kLarger : x);
  const Integers<T> k = (bits - kRootOfHalf) >> Constants::kMantissa;
  const Vector<T> f = of_bits<T>(bits - (k << Constants::kMantissa)) - T(1);
  Vector<T> n = __builtin_convertvector(k, Vector<T>);
  n = subnormal ? n - T(Constants::kMantissa) : n;
  const Vector<T> s = f / (f + T(2)), half = T(0.5) * f * f, tail = log_tail(s * s);
  const Vector<T> found = n * Constants::kLn2High - ((half - (s * (half + tail) + n * Constants::kLn2Low)) - f);
  const Vector<T> outside = x == T(0) ? broadcast(-kInfinity<T>) : x < T(0) ? broadcast(T(NAN)) : x;
  return (x > T(0)) & (x < kInfinity<T>) ? found : outside;
}

// log(1 + x): what is lost in rounding u = 1 + x is added to log(u).
template <class T>
INLINE Vector<T> log1p_vector(Vector<T> x) {
  const Vector<T> u = x + T(1), lost = (x - (u - T(1))) / u;
  const Vector<T> log = log_vector<T>(u);
  return (u > T(0)) & (u < kInfinity<T>) ? log + lost : log;
}

}  // namespace jaxrnn::JAXRNN_ISA
