"""The pointwise function of the sLSTM: exponential gates, with a normaliser and a stabiliser in the carry."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.ops.step import Pointwise

FORGET_GATES = ("sigmoid", "exponential")


class SLSTMCarry(NamedTuple):
    """What an sLSTM carries, each part ``[*batch, hidden]``.

    Attributes:
      c: the cell state, divided by exp(m).
      n: the normaliser, divided by exp(m); 0 stands for an empty memory, then m has no meaning.
      m: the stabiliser, the logarithm of what c and n are divided by.
      h: the hidden state.

    >>> import jax.numpy as jnp
    >>> zeros = jnp.zeros((2, 4))
    >>> SLSTMCarry(c=zeros, n=zeros, m=zeros, h=zeros).n.shape
    (2, 4)
    """

    c: Array
    n: Array
    m: Array
    h: Array


def slstm_pointwise(forget_gate: str = "sigmoid") -> Pointwise:
    """The sLSTM of xLSTM (Beck et al. 2024, arXiv:2405.04517); gates in the order i f z o.

        log_f = log(sigmoid(f~)), or f~ with an exponential forget gate      where x~ = xw + rh
        m_t = max(i~, log_f + m_{t-1})
        i = exp(i~ - m_t)       f = exp(log_f + m_{t-1} - m_t)       z = tanh(z~)       o = sigmoid(o~)
        c_t = f * c_{t-1} + i * z        n_t = f * n_{t-1} + i       h_t = o * c_t / n_t

    No exponent is above 0, so nothing overflows. Where n_{t-1} is 0 the memory is empty: then m_t = i~, f = 0.

    Raises:
      ValueError: ``forget_gate`` is neither ``"sigmoid"`` nor ``"exponential"``.
    """
    if forget_gate not in FORGET_GATES:
        raise ValueError(f"unknown {forget_gate=}; available: {', '.join(FORGET_GATES)}")
    return _slstm_sigmoid if forget_gate == "sigmoid" else _slstm_exponential


def _log_sigmoid(x: Array) -> tuple[Array, Array]:
    """log(sigmoid(x)) and its derivative sigmoid(-x), from one exponential that does not overflow."""
    e = jnp.exp(-jnp.abs(x))
    return jnp.minimum(x, 0) - jnp.log1p(e), jnp.where(x < 0, 1, e) / (1 + e)


@jax.custom_vjp
def _step(c: Array, n: Array, m: Array, i: Array, log_f: Array, z: Array, o: Array) -> tuple[Array, ...]:
    return _step_forward(c, n, m, i, log_f, z, o)[0]


def _step_forward(c, n, m, i, log_f, z, o):
    kept = log_f + m
    # One of both gates is always 1, so one exponential is enough for both.
    lead = jnp.where(n == 0, jnp.inf, i - kept)
    below_one = jnp.exp(-jnp.abs(lead))
    new_m = jnp.where(lead < 0, kept, i)
    i, f = jnp.where(lead < 0, below_one, 1), jnp.where(lead < 0, 1, below_one)
    z, o = jnp.tanh(z), jax.nn.sigmoid(o)
    new_c, new_n = f * c + i * z, f * n + i
    # Both gates in one number, whose sign tells which is below 1, also where it is rounded to half precision.
    gates = jnp.where(lead < 0, -jnp.maximum(below_one, 1e-30), below_one)
    return (new_c, new_n, new_m, o * (new_c / new_n)), (c, n, gates, z, o)


def _step_backward(saved, cotangents):
    c, n, gates, z, o = saved
    dc, dn, dm, dh = cotangents
    kept_leads = gates < 0
    i, f = jnp.where(kept_leads, -gates, 1), jnp.where(kept_leads, 1, gates)
    reciprocal = 1 / (f * n + i)
    ratio = (f * c + i * z) * reciprocal
    of_ratio = dh * o
    dc = dc + of_ratio * reciprocal
    dn = dn - of_ratio * ratio * reciprocal
    # The gradients of the exponents of i and f. What m_t follows gets the rest of its gradient.
    of_i, of_f = (dc * z + dn) * i, (dc * c + dn * n) * f
    dkept = jnp.where(kept_leads, dm - of_i, of_f)
    di = jnp.where(kept_leads, of_i, dm - of_f)
    return dc * f, dn * f, dkept, di, dkept, dc * i * (1 - z * z), dh * ratio * o * (1 - o)


_step.defvjp(_step_forward, _step_backward)


@jax.custom_vjp
def _stable_log_sigmoid(x: Array) -> Array:
    return _log_sigmoid(x)[0]


_stable_log_sigmoid.defvjp(_log_sigmoid, lambda derivative, d: (d * derivative,))


def _slstm_exponential(params: None, carry: SLSTMCarry, xw: tuple[Array, ...], rh: tuple[Array, ...]):
    i, f, z, o = (x + r for x, r in zip(xw, rh))
    new = SLSTMCarry(*_step(carry.c, carry.n, carry.m, i, f, z, o))
    return new, new.h


def _slstm_sigmoid(params: None, carry: SLSTMCarry, xw: tuple[Array, ...], rh: tuple[Array, ...]):
    i, f, z, o = (x + r for x, r in zip(xw, rh))
    new = SLSTMCarry(*_step(carry.c, carry.n, carry.m, i, _stable_log_sigmoid(f), z, o))
    return new, new.h
