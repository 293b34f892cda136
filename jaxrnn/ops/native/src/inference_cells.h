// The cells' equations where only the outputs are needed, and no values for a backward pass.
//
// With e = exp(z) - 1, sigmoid(z) = (e + 1) / (e + 2), and tanh(z / 2) = e / (e + 2). An LSTM then needs two divisions
// instead of five, and a GRU two instead of three, because fractions are brought to one denominator. Divisions are slow.

#pragma once

#include "cells.h"

namespace jaxrnn::JAXRNN_ISA {

// A step's equations in two halves, so that a processor can overlap the second halves of several rows: each half is
// one long chain of operations that wait for each other. Here the first half is everything.
template <class CellType>
struct Inference {
  using Half = State<float>;

  static INLINE Half first(const Vector<float>* x, const Vector<float>* r, State<float> old, Vector<float> leak) {
    Vector<float> saved[CellType::kSaved + 1];
    return CellType::forward(x, r, old, leak, saved);
  }

  static INLINE State<float> second(const Half& half) { return half; }
};

// exp(z) - 1 for z within twice the limit of tanh, beyond which the functions above do not change. NaN stays NaN.
INLINE Vector<float> limited_expm1(Vector<float> z) {
  using Constants = Types<float>;
  constexpr float kLimit = 2 * Constants::kLimit;
#if defined(__AVX512F__)
  z = (Vector<float>)_mm512_min_ps(_mm512_set1_ps(kLimit), (__m512)z);
  z = (Vector<float>)_mm512_max_ps(_mm512_set1_ps(-kLimit), (__m512)z);
#elif defined(__AVX2__)
  z = (Vector<float>)_mm256_min_ps(_mm256_set1_ps(kLimit), (__m256)z);
  z = (Vector<float>)_mm256_max_ps(_mm256_set1_ps(-kLimit), (__m256)z);
#else
  z = z > kLimit ? broadcast(kLimit) : z;
  z = z < -kLimit ? broadcast(-kLimit) : z;
#endif
  // z = n ln(2) + r with an integer n and |r| <= ln(2) / 2.
  Vector<float> shifted = z * 1.4426950408889634f + Constants::kMagic;
  Vector<float> n = shifted - Constants::kMagic;
  Vector<float> r = (z - n * Constants::kLn2High) - n * Constants::kLn2Low;
  Constants::Integers bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << Constants::kMantissa) + Constants::kOne;  // 2^n: the low bits of `shifted` are n
  Vector<float> scale;
  std::memcpy(&scale, &bits, sizeof bits);
  return (r + r * r * expm1_tail(r)) * scale + (scale - 1.0f);
}

template <>
struct Inference<LSTM<float>> {
  struct Half {
    Vector<float> c, o;
  };

  static INLINE Half first(const Vector<float>* x, const Vector<float>* r, State<float> old, Vector<float>) {
    const Vector<float> i = limited_expm1(x[0] + r[0]), f = limited_expm1(x[1] + r[1]);
    const Vector<float> g = limited_expm1((x[2] + r[2]) * 2.0f), o = limited_expm1(x[3] + r[3]);
    const Vector<float> of_f = f + 2.0f, of_i_g = (i + 2.0f) * (g + 2.0f);  // at most 10^24 together
    const Vector<float> one = divide(broadcast(1.0f), of_f * of_i_g);
    return {((f + 1.0f) * of_i_g * old.c + (i + 1.0f) * g * of_f) * one, o};
  }

  static INLINE State<float> second(const Half& half) {
    const Vector<float> t = limited_expm1(half.c * 2.0f);
    return {divide((half.o + 1.0f) * t, (half.o + 2.0f) * (t + 2.0f)), half.c};
  }
};

template <>
struct Inference<GRU<float>> {
  struct Half {
    Vector<float> z, n, h;
  };

  static INLINE Half first(const Vector<float>* x, const Vector<float>* r, State<float> old, Vector<float>) {
    const Vector<float> q = limited_expm1(x[0] + r[0]), z = limited_expm1(x[1] + r[1]);
    return {z, x[2] + divide(q + 1.0f, q + 2.0f) * r[2], old.h};
  }

  // n + z (h - n) = (n + (z + 1) h) / (z + 2), where z stands for exp(z) - 1 on the right.
  static INLINE State<float> second(const Half& half) {
    const Vector<float> n = limited_expm1(half.n * 2.0f), of_n = n + 2.0f;
    return {divide(n + (half.z + 1.0f) * half.h * of_n, (half.z + 2.0f) * of_n), half.h};
  }
};

}  // namespace jaxrnn::JAXRNN_ISA
