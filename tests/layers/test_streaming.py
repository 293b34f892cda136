"""One step at a time: the same as the whole sequence, for everything that can be streamed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.layers.streaming import streaming_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

X = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)

LAYERS = {
    "SimpleRNN": lambda: jaxrnn.SimpleRNN(3, 4, rngs=nnx.Rngs(0)),
    "LSTM": lambda: jaxrnn.LSTM(3, (5, 4), rngs=nnx.Rngs(0)),
    "GRU": lambda: jaxrnn.GRU(3, 4, num_layers=2, rngs=nnx.Rngs(0)),
    "GRU, reset before": lambda: jaxrnn.GRU(3, 4, reset_after=False, rngs=nnx.Rngs(0)),
    "skip connections": lambda: jaxrnn.LSTM(3, 4, num_layers=3, skip_connections=True, rngs=nnx.Rngs(0)),
    "one step returned": lambda: jaxrnn.GRU(3, 4, return_sequences=False, rngs=nnx.Rngs(0)),
    "RNN": lambda: jaxrnn.RNN(jaxrnn.LSTMCell(3, 4, rngs=nnx.Rngs(0))),
    "RNN of a Flax cell": lambda: jaxrnn.RNN(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0))),
    "LeakyCell": lambda: jaxrnn.RNN(jaxrnn.LeakyCell(3, 4, rngs=nnx.Rngs(0))),
}


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


@pytest.mark.parametrize("name", LAYERS)
def test_steps_make_a_sequence(name):
    layer = LAYERS[name]()
    expected_carry, expected = layer(jnp.asarray(X), return_carry=True)
    step, carry = streaming_step(layer, X[:, 0])
    outputs = []
    for t in range(X.shape[1]):
        carry, y = step(carry, X[:, t] if t % 2 else jnp.asarray(X[:, t]))  # NumPy's arrays and JAX's
        outputs.append(y)
    assert_close(carry, expected_carry)
    assert_close(outputs[-1] if expected.ndim == 2 else jnp.stack(outputs, 1), expected)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_any_number_of_batch_axes(batch):
    cell = jaxrnn.LSTMCell(3, 4, rngs=nnx.Rngs(0))
    x = jnp.ones((*batch, 3))
    step, carry = streaming_step(cell, jax.ShapeDtypeStruct(x.shape, x.dtype))
    expected = cell(cell.initialize_carry(x.shape), x)
    assert_close(step(carry, x), expected)


def test_bfloat16_keeps_its_dtypes():
    cell = jaxrnn.GRUCell(3, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    step, carry = streaming_step(cell, X[:, 0])
    carry, y = step(carry, X[:, 0])
    assert carry.dtype == y.dtype == jnp.bfloat16


def test_the_carry_is_donated_and_a_copy_can_be_returned_to():
    step, carry = streaming_step(jaxrnn.LSTMCell(3, 4, rngs=nnx.Rngs(0)), X[:, 0])
    first = jax.tree.map(jnp.copy, carry)
    _, y = step(carry, X[:, 0])
    assert carry.h.is_deleted()
    step(first, X[:, 0])
    assert not y.is_deleted()  # outputs are the caller's own


def test_weights_are_those_of_the_moment():
    cell = jaxrnn.SimpleRNNCell(3, 4, rngs=nnx.Rngs(0))
    step, carry = streaming_step(cell, X[:, 0])
    before = cell(cell.initialize_carry((2, 3)), jnp.asarray(X[:, 0]))[1]
    cell.kernel[...] = cell.kernel[...] * 0
    assert_close(step(carry, X[:, 0])[1], before)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: jaxrnn.GRU(3, 4, bidirectional=True, rngs=nnx.Rngs(0)), "cannot be streamed"),
        (lambda: jaxrnn.RNN(jaxrnn.GRUCell(3, 4, rngs=nnx.Rngs(0)), reverse=True), "cannot be streamed"),
        (lambda: jaxrnn.GRU(3, 4, num_layers=2, dropout=0.5, rngs=nnx.Rngs(0)), "eval"),
        (lambda: jaxrnn.GRU(3, 4, recurrent_dropout=0.5, rngs=nnx.Rngs(0)), "eval"),
        (lambda: nnx.Linear(3, 4, rngs=nnx.Rngs(0)), "not a Linear"),
    ],
)
def test_what_cannot_be_streamed_is_said(layer, message):
    with pytest.raises(ValueError, match=message):
        streaming_step(layer(), X[:, 0])


def test_dropout_that_is_off_does_not_matter():
    layer = jaxrnn.GRU(3, 4, num_layers=2, dropout=0.5, recurrent_dropout=0.5, rngs=nnx.Rngs(0))
    layer.eval()
    step, carry = streaming_step(layer, X[:, 0])
    assert_close(step(carry, X[:, 0])[1], layer(jnp.asarray(X[:, :1]))[:, 0])
