"""The pointwise functions of the built-in cells: everything that makes one cell differ from another."""

import functools

import jax.numpy as jnp
from jax import Array

from jaxrnn.ops.activations import Activation, by_output
from jaxrnn.ops.step import Pointwise


@functools.cache
def simple_rnn_pointwise(activation_fn: Activation = jnp.tanh) -> Pointwise:
    """h_t = activation_fn(xw_t + rh_t), the simple recurrent network of Elman (1990).

    The same function is returned for the same activation, so that compiled programs are found again.
    """
    activation = by_output(activation_fn)

    def simple_rnn(params: None, carry: Array, xw: tuple[Array, ...], rh: tuple[Array, ...]):
        h = activation(xw[0] + rh[0])
        return h, h

    return simple_rnn
