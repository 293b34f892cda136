"""Zoneout: a Python loop with the same masks computes the same, while training and afterwards."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.export import to_onnx

X: Any = np.random.RandomState(0).randn(2, 7, 3).astype(np.float32)


def layers(rates: Any = (0.5, 0.25), **options: Any) -> jaxrnn.LSTM:
    return jaxrnn.LSTM(3, 8, zoneout=rates, return_carry=True, rngs=nnx.Rngs(0), **options)


def loop(layer: jaxrnn.LSTM, keep_c: Any, keep_h: Any) -> Any:
    """``keep [time, batch, hidden]``: the share of a part that stays as it was."""
    cell: Any = layer.cells[0]
    carry = cell.initialize_carry(X[:, 0].shape)
    outputs = []
    for t in range(X.shape[1]):
        new, _ = cell(carry, X[:, t])
        c = keep_c[t] * carry.c + (1 - keep_c[t]) * new.c
        h = keep_h[t] * carry.h + (1 - keep_h[t]) * new.h
        carry = jaxrnn.LSTMCarry(c, h)
        outputs.append(h)
    return carry, jnp.stack(outputs, axis=1)


def assert_same(found: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


@pytest.mark.parametrize("options", [{}, {"remat_every": 3}, {"num_heads": 2}], ids=str)
def test_in_training_some_units_keep_their_value(options):
    layer = layers(**options)
    again = nnx.clone(layer)
    assert again.zoneout is not None
    masks = again.zoneout.masks((0.5, 0.25), (7, 2, 8), jnp.float32)
    carry, outputs = layer(X)
    assert_same((carry[0], outputs), loop(layer, masks[..., :8], masks[..., 8:]))
    assert 0.3 < masks[..., :8].mean() < 0.7 and 0.1 < masks[..., 8:].mean() < 0.4
    assert not np.array_equal(layer(X)[1], outputs)  # drawn anew at every call


def test_afterwards_the_state_is_the_mean_of_both_values():
    layer = layers()
    layer.eval()
    carry, outputs = layer(X)
    assert_same((carry[0], outputs), loop(layer, np.full(7, 0.5), np.full(7, 0.25)))
    assert_same(layer(X), (carry, outputs))


@pytest.mark.parametrize("implementation", [None, "scan"])
def test_gradients_of_training_equal_those_of_the_loop(implementation):
    layer = layers(implementation=implementation)
    masks = nnx.clone(layer).zoneout.masks((0.5, 0.25), (7, 2, 8), jnp.float32)  # pyright: ignore
    found = nnx.jit(nnx.grad(lambda layer: (layer(X)[1] ** 2).sum()))(layer)
    of_loop = nnx.grad(lambda layer: (loop(layer, masks[..., :8], masks[..., 8:])[1] ** 2).sum())
    expected = nnx.jit(of_loop)(layer)
    found, expected = (nnx.to_pure_dict(gradients)["cells"][0] for gradients in (found, expected))
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, atol=1e-5, err_msg=name)


class OwnLSTM(jaxrnn.RecurrentCell):
    """The LSTM, as a user would write it. What ``factor`` multiplies is not the hidden state."""

    num_gates = 4
    factor: Any = None

    def carry_like(self, h):
        return jaxrnn.LSTMCarry(h, h)

    def pointwise(self, carry, xw, rh):
        i, f, g, o = (x + r for x, r in zip(xw, rh))
        c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return jaxrnn.LSTMCarry(c, h), h if self.factor is None else self.factor * h


class Doubled(OwnLSTM):
    factor = 2


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("implementation", [None, "scan"])
def test_the_output_of_an_own_cell_has_zoneout_where_it_is_the_hidden_state(training, implementation):
    def run(kind):
        options: Any = dict(zoneout=(0.5, 0.9), return_carry=True, implementation=implementation)
        stack = jaxrnn.StackedRNN([kind(3, 8, use_bias=False, rngs=nnx.Rngs(0))], **options, rngs=nnx.Rngs(1))
        stack.train() if training else stack.eval()
        return stack(X)

    expected = run(jaxrnn.LSTMCell)
    assert_same(run(OwnLSTM), expected)
    (carry,), outputs = run(Doubled)
    assert_same(carry, expected[0][0])
    assert not np.allclose(outputs, 2 * expected[1])  # the equations say what it is, from the new c


class Wide(jaxrnn.RecurrentCell):
    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        batch = input_shape[:-1]
        return jnp.zeros((*batch, 2)), jnp.zeros((*batch, self.hidden_features))

    def pointwise(self, carry, xw, rh):
        h = jnp.tanh(xw[0] + rh[0])
        return (carry[0] + h[..., :2], h), h


def test_what_cannot_have_zoneout_says_so():
    wide = Wide(3, 8, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"part 0 of the carry of a Wide has 2 units, and not 8"):
        jaxrnn.StackedRNN([wide], zoneout=0.5, rngs=nnx.Rngs(0))
    jaxrnn.StackedRNN([wide], zoneout=(0, 0.5), rngs=nnx.Rngs(0))(X)
    with pytest.raises(ValueError, match=r"zoneout must be a number of at least 0 and below 1, not 1\.5"):
        layers(1.5)
    with pytest.raises(ValueError, match=r"has 3 rates, but the carry of a LSTMCell has 2 parts"):
        layers(np.array([0.1, 0.1, 0.1]))
    with pytest.raises(ValueError, match="only have a meaning together"):
        jaxrnn.SLSTM(3, 8, zoneout=0.1, rngs=nnx.Rngs(0))
    assert jaxrnn.LSTM(3, 8, zoneout=(0, 0), rngs=nnx.Rngs(0)).zoneout is None
    jaxrnn.SLSTM(3, 8, zoneout=(0, 0, 0, 0.1), rngs=nnx.Rngs(0))(X)
    with pytest.raises(ValueError, match=r"zoneout needs a jaxrnn\.RecurrentCell, not a GRUCell"):
        jaxrnn.StackedRNN([nnx.GRUCell(3, 8, rngs=nnx.Rngs(0))], zoneout=0.1, rngs=nnx.Rngs(0))
    layer = layers()
    layer.eval()
    for call in (lambda: jaxrnn.streaming_step(layer, X[:, 0]), lambda: to_onnx(layer)):
        with pytest.raises(ValueError, match="zoneout cannot be"):
            call()
