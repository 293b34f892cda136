"""A cell that the engine does not know, such as a plain module of the user's own, is scanned as Flax scans it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 3)), jnp.float32)


class PlainCell(nnx.Module):
    """Not an ``nnx.RNNCellBase``: only what ``flax.nnx.RNN`` calls."""

    num_feature_axes = 1

    def __init__(self, in_features: int, hidden_features: int, rngs: nnx.Rngs):
        self.hidden_features = hidden_features
        self.rngs = rngs
        self.dense = nnx.Linear(in_features + hidden_features, hidden_features, rngs=rngs)

    def __call__(self, carry, inputs):
        h = jnp.tanh(self.dense(jnp.concatenate([inputs, carry], axis=-1)))
        return h, h

    def initialize_carry(self, input_shape, rngs):
        return jnp.zeros((*input_shape[:-1], self.hidden_features))


def plain(in_features: int = 3, seed: int = 0) -> Any:
    return PlainCell(in_features, 4, nnx.Rngs(seed))


@pytest.mark.parametrize("initial_carry", [None, jnp.ones((2, 4))], ids=["zeros", "given"])
def test_a_plain_module_is_a_cell_with_the_numbers_and_gradients_of_nnx_rnn(initial_carry):
    def results(library: Any) -> Any:
        def loss(layer, x):
            carry, outputs = layer(x, initial_carry=initial_carry, return_carry=True)
            return (outputs**2).sum() + carry.sum(), (carry, outputs)

        return nnx.to_pure_dict(nnx.grad(loss, has_aux=True)(library.RNN(plain()), X)[0]), library.RNN(plain())(X)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), results(jaxrnn), results(nnx)
    )


def test_plain_modules_run_both_ways_and_in_stacks():
    below, above, backward = plain(), plain(4, seed=1), plain(seed=2)
    first: Any = nnx.RNN(below)(X)
    back: Any = nnx.RNN(backward, reverse=True, keep_order=True)(X)
    stack = jaxrnn.StackedRNN([below, above], return_carry=True)
    carry, outputs = stack(X)
    np.testing.assert_allclose(outputs, nnx.RNN(above)(first), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(carry[0], first[:, -1], rtol=1e-5, atol=1e-6)
    assert [part.shape for part in stack.initialize_carry((2, 3))] == [(2, 4), (2, 4)]
    pair = jaxrnn.Bidirectional(jaxrnn.RNN(below), jaxrnn.RNN(backward))
    np.testing.assert_allclose(pair(X), jnp.concatenate([first, back], -1), rtol=1e-5, atol=1e-6)
    both = jaxrnn.StackedRNN([below], backward_cells=[backward])
    np.testing.assert_allclose(both(X), pair(X), rtol=1e-5, atol=1e-6)


def test_a_plain_module_streams():
    layer: Any = jaxrnn.RNN(plain())
    step, carry = jaxrnn.streaming_step(layer, X[:, 0])
    for t in range(X.shape[1]):
        carry, y = step(carry, X[:, t])
        np.testing.assert_allclose(y, layer(X)[:, t], rtol=1e-5, atol=1e-6)
    alone, _ = jaxrnn.streaming_step(plain(), X[:, 0])
    np.testing.assert_allclose(alone(jnp.zeros((2, 4)), X[:, 0])[1], layer(X)[:, 0], rtol=1e-5, atol=1e-6)


def test_what_only_the_engine_offers_is_refused():
    with pytest.raises(ValueError, match="This PlainCell runs in a plain scan"):
        jaxrnn.RNN(plain(), implementation="scan")(X)


def test_a_module_that_lacks_something_is_refused_and_the_error_names_it():
    class NoAxes(nnx.Module):
        def __call__(self, carry, inputs): ...

        def initialize_carry(self, input_shape, rngs): ...

    rnn: Any = jaxrnn.RNN
    for make in (rnn, lambda cell: jaxrnn.StackedRNN([cell]), lambda cell: jaxrnn.streaming_step(cell, X)):
        with pytest.raises(ValueError, match="not a NoAxes, which has no num_feature_axes"):
            make(NoAxes())
    with pytest.raises(ValueError, match="is the class PlainCell: make one"):
        rnn(PlainCell)
