// The equations of the cells and their derivatives, for one vector of units of one row.
//
// x[g] and r[g] are the contributions of the input and of the recurrent product to gate g. `saved` holds the values
// that the backward pass needs besides the outputs. `backward` gets the complete gradients of the new carry in `d`,
// and replaces them by those of the old carry, without the part that passes through the recurrent product. `more` is
// one more gradient per step, which is stored beside dx: dr of the last gate for cells with kApart, and the gradient
// of the leak for cells with kHasLeak.
//
// kSaved: values in `saved`. kApart: x and r of the last gate are not just added, so dr differs from dx there.
// kHasC: the carry is that of an LSTM. kHasLeak: the cell has a leak for each unit.

#pragma once

#include "recurrence.h"
#include "vector.h"

namespace jaxrnn::JAXRNN_ISA {


// The layout of a step's values: gate g of xw, dx and dxw is block kFirst + g of kBlocks, `more` is block kMore, and
// the saved values begin at block kFirstSaved.
template <int kGateCount>
struct Layout {
  static constexpr int kGates = kGateCount, kBlocks = kGateCount, kFirst = 0, kMore = kGateCount, kFirstSaved = 0;
  static constexpr bool kTwoStages = false;
};

template <class T>
struct State {
  Vector<T> h, c;
};

// h = f(x + r); the derivative of f is computed from h.
template <class T, Cell kind>
struct Simple : Layout<1> {
  static constexpr int kSaved = 0;
  static constexpr bool kApart = false, kHasC = false, kHasLeak = false;

  static INLINE State<T> forward(const Vector<T>* x, const Vector<T>* r, State<T>, Vector<T>, Vector<T>*) {
    Vector<T> z = x[0] + r[0];
    if constexpr (kind == Cell::kTanh) return {tanh_vector<T>(z), z};
    if constexpr (kind == Cell::kSigmoid) return {sigmoid_vector<T>(z), z};
    return {z < T(0) ? Vector<T>{} : z, z};
  }

  static INLINE void backward(Vector<T> y, State<T>, Vector<T>, const Vector<T>*, State<T>& d, Vector<T>* dx,
                              Vector<T>&) {
    if constexpr (kind == Cell::kTanh) dx[0] = d.h * (T(1) - y * y);
    if constexpr (kind == Cell::kSigmoid) dx[0] = d.h * y * (T(1) - y);
    if constexpr (kind == Cell::kRelu) dx[0] = y > T(0) ? d.h : Vector<T>{};
    d.h = Vector<T>{};
  }
};

// i, f, o = sigmoid(x + r), g = tanh(x + r), c = f c + i g, h = o tanh(c). Saved: i f g o c.
template <class T>
struct LSTM : Layout<4> {
  static constexpr int kSaved = 5;
  static constexpr bool kApart = false, kHasC = true, kHasLeak = false;

  static INLINE State<T> forward(const Vector<T>* x, const Vector<T>* r, State<T> old, Vector<T>, Vector<T>* saved) {
    Vector<T> i = sigmoid_vector<T>(x[0] + r[0]), f = sigmoid_vector<T>(x[1] + r[1]);
    Vector<T> g = tanh_vector<T>(x[2] + r[2]), o = sigmoid_vector<T>(x[3] + r[3]);
    Vector<T> c = f * old.c + i * g;
    saved[0] = i, saved[1] = f, saved[2] = g, saved[3] = o, saved[4] = c;
    return {o * tanh_vector<T>(c), c};
  }

  static INLINE void backward(Vector<T>, State<T> old, Vector<T>, const Vector<T>* s, State<T>& d, Vector<T>* dx,
                              Vector<T>&) {
    Vector<T> i = s[0], f = s[1], g = s[2], o = s[3], t = tanh_vector<T>(s[4]);
    Vector<T> dc = d.c + d.h * o * (T(1) - t * t);
    dx[0] = dc * g * i * (T(1) - i);
    dx[1] = dc * old.c * f * (T(1) - f);
    dx[2] = dc * i * (T(1) - g * g);
    dx[3] = d.h * t * o * (T(1) - o);
    d = State<T>{Vector<T>{}, dc * f};
  }
};

// q, z = sigmoid(x + r), n = tanh(x_n + q r_n), h = n + z (h - n). Saved: q z n r_n.
template <class T>
struct GRU : Layout<3> {
  static constexpr int kSaved = 4;
  static constexpr bool kApart = true, kHasC = false, kHasLeak = false;

  static INLINE State<T> forward(const Vector<T>* x, const Vector<T>* r, State<T> old, Vector<T>, Vector<T>* saved) {
    Vector<T> q = sigmoid_vector<T>(x[0] + r[0]), z = sigmoid_vector<T>(x[1] + r[1]);
    Vector<T> n = tanh_vector<T>(x[2] + q * r[2]);
    saved[0] = q, saved[1] = z, saved[2] = n, saved[3] = r[2];
    return {n + z * (old.h - n), n};
  }

  static INLINE void backward(Vector<T>, State<T> old, Vector<T>, const Vector<T>* s, State<T>& d, Vector<T>* dx,
                              Vector<T>& more) {
    Vector<T> q = s[0], z = s[1], n = s[2];
    Vector<T> dn = d.h * (T(1) - z) * (T(1) - n * n);
    dx[0] = dn * s[3] * q * (T(1) - q);
    dx[1] = d.h * (old.h - n) * z * (T(1) - z);
    dx[2] = dn;
    more = dn * q;
    d.h = d.h * z;
  }
};

// n = tanh(x + r), h = h + a (n - h), with a leak a for each unit. Saved: n.
template <class T>
struct Leaky : Layout<1> {
  static constexpr int kSaved = 1;
  static constexpr bool kApart = false, kHasC = false, kHasLeak = true;

  static INLINE State<T> forward(const Vector<T>* x, const Vector<T>* r, State<T> old, Vector<T> a, Vector<T>* saved) {
    Vector<T> n = tanh_vector<T>(x[0] + r[0]);
    saved[0] = n;
    return {(T(1) - a) * old.h + a * n, n};  // in this form an infinite state stays infinite, and is not NaN
  }

  static INLINE void backward(Vector<T>, State<T> old, Vector<T> a, const Vector<T>* s, State<T>& d, Vector<T>* dx,
                              Vector<T>& more) {
    Vector<T> n = s[0];
    dx[0] = d.h * a * (T(1) - n * n);
    more = d.h * (n - old.h);
    d.h = d.h * (T(1) - a);
  }
};

// The GRU whose reset gate acts before the product, in two stages. The first computes q, z = sigmoid(x + r). The
// second computes the candidate n and the new state as a leaky cell with the leak 1 - z, whose recurrent product is
// (q h) @ kernel. Saved: q z n.
template <class T>
struct GRUBefore : Layout<3> {
  static constexpr int kSaved = 3;
  static constexpr bool kTwoStages = true, kApart = false, kHasC = false, kHasLeak = false;
};

template <class T>
struct Candidate {
  static constexpr int kGates = 1, kBlocks = 3, kFirst = 2, kMore = 1, kSaved = 3, kFirstSaved = 2;
  static constexpr bool kTwoStages = false, kApart = false, kHasC = false, kHasLeak = true;

  static INLINE State<T> forward(const Vector<T>* x, const Vector<T>* r, State<T> old, Vector<T> a, Vector<T>* saved) {
    return Leaky<T>::forward(x, r, old, a, saved + 2);
  }

  // `more` is the gradient of the pre-activation of z.
  static INLINE void backward(Vector<T> y, State<T> old, Vector<T> a, const Vector<T>* s, State<T>& d, Vector<T>* dx,
                              Vector<T>& more) {
    Leaky<T>::backward(y, old, a, s + 2, d, dx, more);
    more = -more * a * (T(1) - a);
  }
};

}  // namespace jaxrnn::JAXRNN_ISA
