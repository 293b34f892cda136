"""What nobody thought of: unusual dtypes of lengths and carries, cells with more than parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.layers.streaming import streaming_step

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 10, 4)), jnp.float32)
LENGTHS = np.array([3, 0, 10])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "uint32"])
@pytest.mark.parametrize("options", [{"remat_every": 4}, {"return_sequences": False}, {"bidirectional": True}])
def test_lengths_of_any_integer_type(dtype, options):
    layer = jaxrnn.GRU(4, 5, **options, rngs=nnx.Rngs(0))
    expected = layer(X, seq_lengths=jnp.asarray(LENGTHS, jnp.int32))
    np.testing.assert_array_equal(layer(X, seq_lengths=jnp.asarray(LENGTHS, dtype)), expected)


def test_short_lengths_of_a_sequence_longer_than_their_type_counts():
    layer = jaxrnn.SimpleRNN(1, 2, remat_every=130, rngs=nnx.Rngs(0))
    x, lengths = jnp.ones((2, 300, 1)), jnp.array([100, 127])
    np.testing.assert_array_equal(layer(x, seq_lengths=lengths.astype(jnp.int8)), layer(x, seq_lengths=lengths))


@pytest.mark.parametrize("options", [{}, {"return_sequences": False}, {"reverse": True}])
def test_lengths_out_of_range_that_are_known_too_late_are_clipped(options):
    layer = jaxrnn.SimpleRNN(4, 5, **options, rngs=nnx.Rngs(0))
    found = jax.jit(lambda lengths: layer(X, seq_lengths=lengths))(jnp.array([30, -2, 4]))
    np.testing.assert_allclose(found, layer(X, seq_lengths=jnp.array([10, 0, 4])), rtol=1e-6)


class Unknown(nnx.SimpleCell):
    """Scanned as it is, since it could do anything."""


class Doubling(jaxrnn.GRUCell):
    def __call__(self, carry, inputs):
        carry, y = super().__call__(carry, inputs)
        return carry, 2 * y


def test_a_call_of_its_own_is_what_a_cell_does():
    cell = Doubling(4, 5, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(jaxrnn.RNN(cell)(X), nnx.RNN(cell)(X), atol=1e-6)
    step, carry = streaming_step(cell, X[:, 0])
    expected: Any = nnx.RNN(cell)(X)
    np.testing.assert_allclose(step(carry, X[:, 0])[1], expected[:, 0], atol=1e-6)
    with pytest.raises(ValueError, match="that does not override __call__"):
        jaxrnn.RNN(cell, remat_every=5)(X)


class WithMore(jaxrnn.RecurrentCell):
    """Dropout with its random stream, and a whole number, beside the parameters."""

    def __init__(self, in_features, hidden_features, *, rngs):
        super().__init__(in_features, hidden_features, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.times = nnx.Variable(jnp.full((), 2, jnp.int32))

    def pointwise(self, carry, xw, rh):
        h = jnp.tanh(self.times[...] * xw[0] + self.dropout(rh[0]))
        return h, h


@pytest.mark.parametrize("implementation", [None, "scan", "reference"])
def test_gradients_of_a_cell_with_more_than_parameters(implementation):
    cell = WithMore(4, 5, rngs=nnx.Rngs(0))
    cell.eval()

    def gradients(layer: Any) -> Any:
        return nnx.to_pure_dict(nnx.jit(nnx.grad(lambda layer: (layer(X) ** 2).sum()))(layer))

    expected = gradients(nnx.RNN(cell))
    found = gradients(jaxrnn.RNN(cell, implementation=implementation))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


class ResetTwice(jaxrnn.GRUCell):
    def pointwise(self, carry, xw, rh):
        return super().pointwise(carry, xw, rh)


class Output(jaxrnn.RecurrentCell):
    """Its output is what ``make`` makes of h."""

    def __init__(self, make):
        super().__init__(4, 5, rngs=nnx.Rngs(0))
        self.make = make

    def pointwise(self, carry, xw, rh):
        h = jnp.tanh(xw[0] + rh[0])
        return h, self.make(h)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            lambda: jaxrnn.RNN(Unknown(4, 5, rngs=nnx.Rngs(0)))(X, initial_carry=jnp.ones((3, 5), jnp.int32)),
            "returns a carry of float32, but initial_carry is int32",
        ),
        (
            lambda: jaxrnn.RNN(Output(lambda h: h.sum(-1)))(X),
            r"of shape \(3, 'features'\), not an array of shape \(3,\)",
        ),
        (lambda: jaxrnn.RNN(Output(lambda h: h[..., None]))(X), r"not an array of shape \(3, 5, 1\)"),
        (lambda: jaxrnn.RNN(Output(lambda h: None))(X), "not a NoneType"),
        (
            lambda: jaxrnn.RNN(ResetTwice(4, 5, reset_after=False, rngs=nnx.Rngs(0)))(X),
            "projections, which have already been applied",
        ),
        (
            lambda: jaxrnn.Bidirectional(*(jaxrnn.RNN(jaxrnn.GRUCell(4, 5, rngs=nnx.Rngs(0))) for _ in "fb"))(
                X, initial_carry=jaxrnn.LSTMCarry(jnp.ones((3, 5)), jnp.ones((3, 5)))
            ),
            "initial_carry must be a pair",
        ),
    ],
)
def test_what_would_give_wrong_numbers_is_refused(run, message):
    with pytest.raises(ValueError, match=message):
        run()


def test_a_remat_of_no_rows():
    assert jaxrnn.LSTM(4, 5, remat_every=3, rngs=nnx.Rngs(0))(X[:0]).shape == (0, 10, 5)


def test_where_numpy_may_not_add_axes():
    layer = jaxrnn.GRU(4, 5, implementation="scan", rngs=nnx.Rngs(0))
    with jax.numpy_rank_promotion("raise"):
        assert layer(X, seq_lengths=jnp.asarray(LENGTHS)).shape == (3, 10, 5)


def test_a_stream_begins_as_the_layer_does():
    layer = jaxrnn.GRU(4, 5, num_layers=2, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    step, carry = streaming_step(layer, X[:, 0])
    outputs = []
    for t in range(X.shape[1]):
        carry, y = step(carry, X[:, t])
        outputs.append(y)
    np.testing.assert_allclose(jnp.stack(outputs, 1), layer(X), atol=1e-6)
