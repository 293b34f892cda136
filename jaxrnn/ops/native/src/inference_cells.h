// The cells' equations where only the outputs are needed, and no values for a backward pass.
//
// With e = exp(z), sigmoid(z) = e / (e + 1), and with e = exp(z) - 1, which is accurate near 0, tanh(z / 2) = e / (e + 2).
// An LSTM then needs two divisions instead of five, and a GRU two instead of three, because fractions are brought to one
// denominator. Divisions are slow.

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

// exp(z) and exp(z) - 1 for z within twice the limit of tanh: beyond it the functions above do not change.
INLINE Vector<float> limited_exp(Vector<float> z) { return exp_of(power(z, 2 * Types<float>::kLimit)); }

INLINE Vector<float> limited_expm1(Vector<float> z) {
  const Power p = power(z, 2 * Types<float>::kLimit);
  // A polynomial with the smallest largest error; that of r q is below 2e-8, relatively.
  Vector<float> q = broadcast(0.00015403512618661003f);
  q = q * p.r + 0.0013390735475399872f;
  q = q * p.r + 0.009618237494183314f;
  q = q * p.r + 0.05550357433648187f;
  q = q * p.r + 0.2402264979496441f;
  q = q * p.r + 0.6931471879266856f;
  return (p.r * q) * p.of_n + (p.of_n - 1.0f);
}

template <>
struct Inference<LSTM<float>> {
  struct Half {
    Vector<float> c, o;
  };

  static INLINE Half first(const Vector<float>* x, const Vector<float>* r, State<float> old, Vector<float>) {
    const Vector<float> i = limited_exp(x[0] + r[0]), f = limited_exp(x[1] + r[1]);
    const Vector<float> g = limited_expm1((x[2] + r[2]) * 2.0f), o = limited_exp(x[3] + r[3]);
    const Vector<float> of_f = f + 1.0f, of_i_g = (i + 1.0f) * (g + 2.0f);  // at most 10^24 together
    const Vector<float> one = divide(broadcast(1.0f), of_f * of_i_g);
    return {(f * of_i_g * old.c + i * g * of_f) * one, o};
  }

  static INLINE State<float> second(const Half& half) {
    const Vector<float> t = limited_expm1(half.c * 2.0f);
    return {divide(half.o * t, (half.o + 1.0f) * (t + 2.0f)), half.c};
  }
};

template <>
struct Inference<GRU<float>> {
  struct Half {
    Vector<float> z, n, h;
  };

  static INLINE Half first(const Vector<float>* x, const Vector<float>* r, State<float> old, Vector<float>) {
    const Vector<float> q = limited_exp(x[0] + r[0]), z = limited_exp(x[1] + r[1]);
    return {z, x[2] + divide(q, q + 1.0f) * r[2], old.h};
  }

  // n + z (h - n) = (n + e h) / (e + 1) with e = exp of the gate z, which is all that `half` keeps of it.
  static INLINE State<float> second(const Half& half) {
    const Vector<float> n = limited_expm1(half.n * 2.0f), of_n = n + 2.0f;
    return {divide(n + half.z * half.h * of_n, (half.z + 1.0f) * of_n), half.h};
  }
};

}  // namespace jaxrnn::JAXRNN_ISA
