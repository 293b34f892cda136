"""The pointwise functions of the built-in cells: everything that makes one cell differ from another."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.ops.activations import Activation, by_output
from jaxrnn.ops.step import Pointwise, recurrent_product


def simple_rnn_pointwise(activation_fn: Activation = jnp.tanh) -> Pointwise:
    """h_t = activation_fn(xw_t + rh_t), the simple recurrent network of Elman (1990).

    The same function is returned for the same activation, so that compiled programs are found again.
    """
    return _simple_rnn(activation_fn)


@functools.cache  # which would tell f() from f(tanh) and f(activation_fn=tanh)
def _simple_rnn(activation_fn: Activation) -> Pointwise:
    activation = by_output(activation_fn)

    def simple_rnn(params: None, carry: Array, xw: tuple[Array, ...], rh: tuple[Array, ...]):
        h = activation(xw[0] + rh[0])
        return h, h

    return simple_rnn


class LSTMCarry(NamedTuple):
    """What an LSTM carries: the cell state c and the hidden state h, both ``[*batch, hidden]``."""

    c: Array
    h: Array


@jax.custom_vjp
def _lstm(c: Array, xw: tuple[Array, ...], rh: tuple[Array, ...]) -> tuple[Array, Array]:
    return _lstm_forward(c, xw, rh)[0]


def _lstm_forward(c, xw, rh):
    z = [x + r for x, r in zip(xw, rh)]
    i, f, o = (jax.nn.sigmoid(z[gate]) for gate in (0, 1, 3))
    g = jnp.tanh(z[2])
    new_c = f * c + i * g
    tanh_c = jnp.tanh(new_c)
    return (new_c, o * tanh_c), (c, (i, f, g, o), tanh_c)


def _lstm_backward(saved, cotangents):
    c, (i, f, g, o), tanh_c = saved
    dc, dh = cotangents
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    dz = (dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g), dh * tanh_c * o * (1 - o))
    return dc * f, dz, dz


_lstm.defvjp(_lstm_forward, _lstm_backward)


def lstm_pointwise(params: None, carry: LSTMCarry, xw: tuple[Array, ...], rh: tuple[Array, ...]):
    """The long short-term memory with a forget gate; gates in the order i f g o.

        i, f, o = sigmoid(xw + rh)        g = tanh(xw + rh)
        c_t     = f * c_{t-1} + i * g     h_t = o * tanh(c_t)

    Sources: Hochreiter and Schmidhuber (1997), doi:10.1162/neco.1997.9.8.1735; forget gate: Gers, Schmidhuber,
    Cummins (2000), doi:10.1162/089976600300015015.
    """
    c, h = _lstm(carry.c, xw, rh)
    return LSTMCarry(c, h), h


@jax.custom_vjp
def _gru(h: Array, xw: tuple[Array, ...], rh: tuple[Array, ...]) -> Array:
    return _gru_forward(h, xw, rh)[0]


def _gru_forward(h, xw, rh):
    r, z = jax.nn.sigmoid(xw[0] + rh[0]), jax.nn.sigmoid(xw[1] + rh[1])
    n = jnp.tanh(xw[2] + r * rh[2])
    return n + z * (h - n), (h, r, z, n, rh[2])


def _gru_backward(saved, dh):
    h, r, z, n, rh_n = saved
    dn = dh * (1 - z) * (1 - n * n)
    dr, dz = dn * rh_n * r * (1 - r), dh * (h - n) * z * (1 - z)
    return dh * z, (dr, dz, dn), (dr, dz, dn * r)


_gru.defvjp(_gru_forward, _gru_backward)


def gru_pointwise(params: None, carry: Array, xw: tuple[Array, ...], rh: tuple[Array, ...]):
    """The gated recurrent unit, reset after the product, as in cuDNN, PyTorch and Keras; gates r z n.

        r, z = sigmoid(xw + rh)        n = tanh(xw_n + r * rh_n)        h_t = (1 - z) * n + z * h_{t-1}

    Source: Cho et al. (2014), arXiv:1406.1078, version 1.
    """
    h = _gru(carry, xw, rh)
    return h, h


def gru_reset_before_pointwise(params: Array, carry: Array, xw: tuple[Array, ...], rh: tuple[Array, ...]):
    """The gated recurrent unit as in the paper: the reset gate acts on h before the product.

        r, z = sigmoid(xw + rh)        n = tanh(xw_n + (r * h_{t-1}) @ params)
        h_t  = (1 - z) * n + z * h_{t-1}

    ``params`` is the candidate's recurrent kernel ``[hidden, hidden]``, or with heads
    ``[heads, hidden / heads, hidden / heads]``; ``rh`` has the gates r and z only. The
    second product must wait for the first, and its weight gradient is added up in the loop, so this variant is
    slower than the other. Source: Cho et al. (2014), arXiv:1406.1078, version 3; Keras with reset_after=False.
    """
    r, z = (jax.nn.sigmoid(x + h) for x, h in zip(xw[:2], rh))
    n = jnp.tanh(xw[2] + recurrent_product((r * carry).astype(params.dtype), params))
    h = n + z * (carry - n)
    return h, h


def leaky_pointwise(params: Array, carry: Array, xw: tuple[Array, ...], rh: tuple[Array, ...]):
    """The leaky, continuous-time cell: h_t = (1 - a) h_{t-1} + a tanh(xw + rh), with a = sigmoid(params).

    ``params`` is ``[hidden]``. Source: Jaeger, Lukosevicius, Popovici, Siewert (2007),
    doi:10.1016/j.neunet.2007.04.016.
    """
    a = jax.nn.sigmoid(params)
    h = (1 - a) * carry + a * jnp.tanh(xw[0] + rh[0])
    return h, h
