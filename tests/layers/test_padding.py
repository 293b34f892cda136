"""Padding reaches no gradient, whatever it holds, also of equations without a derivative at zero."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.ops import IMPLEMENTATIONS, recurrence
from jaxrnn.ops.native.library import why_not_loaded

LENGTHS: Any = np.array([6, 2, 0])
X: Any = np.random.RandomState(0).randn(3, 6, 3).astype(np.float32)


def unit(z: Any) -> Any:
    return z / jnp.linalg.norm(z, axis=-1, keepdims=True)


class OfLengthOne(jaxrnn.RecurrentCell):
    """Its gates are vectors of length 1, which zero has no derivative of."""

    def pointwise(self, carry, xw, rh):
        h = jnp.tanh(unit(xw[0]) + unit(xw[0] + rh[0]) + jnp.sqrt(jnp.abs(xw[0])))
        return h, h


class LinearOfLengthOne(jaxrnn.LinearRecurrentCell):
    def coefficients(self, xw, inputs):
        return jax.nn.sigmoid(xw[0]), unit(xw[1])

    def outputs(self, states, inputs):
        return states + unit(inputs).sum(-1, keepdims=True)


class AnyOfLengthOne(nnx.Module):
    num_feature_axes = 1

    def __init__(self, in_features: int, hidden_features: int, *, use_bias: bool, rngs: nnx.Rngs):
        self.of_input = nnx.Linear(in_features, hidden_features, use_bias=use_bias, rngs=rngs)
        self.hidden_features = hidden_features

    def initialize_carry(self, input_shape, rngs=None):
        return jnp.zeros((*input_shape[:-1], self.hidden_features))

    def __call__(self, carry, inputs):
        h = jnp.tanh(unit(self.of_input(inputs)) + carry)
        return h, h


def implementations() -> list[str]:
    return [name for name in IMPLEMENTATIONS if name != "pallas" and not (name == "native" and why_not_loaded())]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((OfLengthOne, {"implementation": name}) for name in implementations()),
        (OfLengthOne, {"implementation": "scan", "remat_every": 2}),
        (OfLengthOne, {"implementation": "scan", "reverse": True, "keep_order": True}),
        (LinearOfLengthOne, {}),
        (LinearOfLengthOne, {"reverse": True, "keep_order": True}),
        (AnyOfLengthOne, {}),
    ],
    ids=str,
)
def test_gradients_are_those_of_the_rows_cut_to_their_lengths(kind, options):
    graphdef, params = nnx.split(kind(3, 4, use_bias=False, rngs=nnx.Rngs(0)))

    @jax.jit
    @jax.grad
    def padded(params, x):
        return (jaxrnn.RNN(nnx.merge(graphdef, params), **options)(x, seq_lengths=LENGTHS) ** 2).sum()

    @jax.jit
    @jax.grad
    def cut(params):
        layer = jaxrnn.RNN(nnx.merge(graphdef, params), **options)
        rows = zip(X, LENGTHS)
        return jnp.stack([(layer(x[None, :n]) ** 2).sum() for x, n in rows if n > 0]).sum()

    expected = jax.tree.leaves(cut(params))
    for number in (0.0, np.nan):
        x = np.where(np.arange(6)[None, :, None] < LENGTHS[:, None, None], X, np.float32(number))
        for a, b in zip(jax.tree.leaves(padded(params, x)), expected, strict=True):
            assert jnp.abs(b).max() > 0
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("implementation", implementations())
def test_the_engine_alone_fills_the_padding_too(implementation):
    def root(params, carry, xw, rh):
        h = jnp.tanh(jnp.sqrt(jnp.abs(xw[0] * params)) + rh[0])
        return h, h

    def total(arrays):
        kernel, xw, params = arrays
        options: Any = dict(seq_lengths=jnp.array([3, 1, 0]), implementation=implementation)
        return recurrence(root, kernel, xw, jnp.zeros((3, 2)), params=params, **options)[1].sum()

    xw = jnp.ones((3, 3, 2)).at[1:, 1].set(0).at[:, 2].set(np.nan)
    dkernel, dxw, dparams = jax.grad(total)((jnp.eye(2), xw, jnp.ones(2)))
    assert all(jnp.isfinite(gradient).all() for gradient in (dkernel, dxw, dparams))
    assert dkernel.any() and dparams.any() and not dxw[1:, 1].any() and not dxw[:, 2].any()
