"""Many streams: each steps as if it were alone, whichever take part in a step."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.ops.native.library import why_not_loaded

needs_library = pytest.mark.skipif(why_not_loaded() is not None, reason=str(why_not_loaded()))

COUNT, BIAS = 70, nnx.initializers.normal()

LAYERS = {
    "SimpleRNN, tanh": lambda: jaxrnn.SimpleRNN(3, (33, 5), bias_init=BIAS, rngs=nnx.Rngs(0)),
    "SimpleRNN, relu": lambda: jaxrnn.SimpleRNNCell(3, 8, activation_fn=jax.nn.relu, rngs=nnx.Rngs(0)),
    "SimpleRNN, sigmoid": lambda: jaxrnn.SimpleRNNCell(3, 65, activation_fn=jax.nn.sigmoid, rngs=nnx.Rngs(0)),
    "LSTM": lambda: jaxrnn.LSTM(3, 20, num_layers=3, skip_connections=True, bias_init=BIAS, rngs=nnx.Rngs(0)),
    "GRU": lambda: jaxrnn.RNN(jaxrnn.GRUCell(3, 17, bias_init=BIAS, rngs=nnx.Rngs(0))),
    "GRU without biases": lambda: jaxrnn.GRUCell(3, 128, use_bias=False, rngs=nnx.Rngs(0)),
    "LeakyCell": lambda: jaxrnn.LeakyCell(3, 9, rngs=nnx.Rngs(0)),
}


def turns() -> list[tuple[np.ndarray | None, np.ndarray]]:
    """Which streams take part in each step (all, some, one), and the inputs of all."""
    random = np.random.default_rng(0)
    parts = [None, random.permutation(COUNT)[:40], [COUNT - 1], None, [3, 0, 69, 13, 7]]
    return [(part, random.normal(size=(COUNT, 3)).astype(np.float32)) for part in parts]


def each_alone(cell_or_layer, batch: int):
    """A plain step of the layer, by Flax's rules: the oracle."""
    layer = cell_or_layer
    if isinstance(layer, jaxrnn.StackedRNN):
        one_step = jax.jit(lambda carry, x: layer(x[:, None], initial_carry=carry, return_carry=True))
        return layer.initialize_carry((batch, 3)), lambda carry, x: _last(one_step(carry, x))
    cell = layer.cell if isinstance(layer, jaxrnn.RNN) else layer
    return cell.initialize_carry((batch, 3), nnx.Rngs(0)), jax.jit(cell)


def _last(result):
    carry, outputs = result
    return carry, outputs[:, -1]


@needs_library
@pytest.mark.parametrize("name", LAYERS)
def test_every_stream_steps_as_if_it_were_alone(name):
    layer = LAYERS[name]()
    streams = jaxrnn.Streams(layer, COUNT, implementation="native")
    carry, step = each_alone(layer, COUNT)
    for part, inputs in turns():
        rows = np.arange(COUNT) if part is None else np.asarray(part)
        outputs = streams.step(inputs[rows], part)
        new, expected = step(carry, inputs)
        taking = np.isin(np.arange(COUNT), rows)[:, None]
        carry = jax.tree.map(lambda a, b, taking=taking: np.where(taking, a, b), new, carry)
        np.testing.assert_allclose(outputs, np.asarray(expected)[rows], rtol=0, atol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-6), streams.carry, carry)


@needs_library
def test_threads_do_not_change_a_bit():
    layer = jaxrnn.LSTMCell(3, 128, bias_init=BIAS, rngs=nnx.Rngs(0))
    inputs = np.random.default_rng(0).normal(size=(2, 300, 3)).astype(np.float32)
    carries = []
    for threads in (1, 3):
        streams = jaxrnn.Streams(layer, 300, threads=threads)
        for x in inputs:
            streams.step(x)
        carries.append(streams.carry)
    jax.tree.map(np.testing.assert_array_equal, *carries)


@pytest.mark.parametrize("implementation", [pytest.param("native", marks=needs_library), "jax"])
def test_reset_returns_to_the_first_carry_of_the_cell(implementation):
    class Begins(jaxrnn.SimpleRNNCell):
        def initialize_carry(self, input_shape, rngs=None, carry_init=None):
            return jnp.full((*input_shape[:-1], self.hidden_features), 0.5)

    streams = jaxrnn.Streams(Begins(3, 4, rngs=nnx.Rngs(0)), 5, implementation=implementation)
    np.testing.assert_array_equal(streams.carry, 0.5)
    streams.step(np.ones((5, 3), np.float32))
    later = streams.carry
    streams.reset([1, 4])
    np.testing.assert_array_equal(streams.carry[[1, 4]], 0.5)
    np.testing.assert_array_equal(streams.carry[[0, 2, 3]], later[[0, 2, 3]])
    streams.reset()
    np.testing.assert_array_equal(streams.carry, 0.5)


def test_any_cell_streams_as_a_compiled_program():
    layer = jaxrnn.RNN(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0)))
    streams = jaxrnn.Streams(layer, COUNT)
    carry, step = each_alone(layer, COUNT)
    for part, inputs in turns():
        rows = np.arange(COUNT) if part is None else np.asarray(part)
        outputs = streams.step(inputs[rows], part)
        new, expected = step(carry, inputs)
        carry = np.where(np.isin(np.arange(COUNT), rows)[:, None], new, carry)
        np.testing.assert_allclose(outputs, np.asarray(expected)[rows], rtol=0, atol=1e-6)
    np.testing.assert_allclose(streams.carry, carry, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(count=0), "count must be a positive integer, not 0"),
        (dict(threads=0), "threads must be a positive integer, not 0"),
        (dict(in_features=5), "in_features=5 does not fit the first cell, which reads 3 features"),
        (dict(in_features=2), "in_features=2 does not fit the first cell, which reads 3 features"),
        (dict(implementation="scan"), "unknown implementation='scan'; available: native, jax"),
        (dict(make=lambda: jaxrnn.GRU(3, 4, bidirectional=True, rngs=nnx.Rngs(0))), "cannot be streamed"),
        (
            dict(make=lambda: jaxrnn.GRUCell(3, 4, reset_after=False, rngs=nnx.Rngs(0)), implementation="native"),
            "the GRU with reset_after",
        ),
        (
            dict(make=lambda: jaxrnn.GRUCell(3, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)), implementation="native"),
            "it computes in float32, and there is bfloat16",
        ),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"make": lambda: jaxrnn.GRUCell(3, 4, rngs=nnx.Rngs(0)), "count": 5, **change}
    layer = arguments.pop("make")()
    with pytest.raises(ValueError, match=re.escape(message)):
        jaxrnn.Streams(layer, **arguments)


@pytest.mark.parametrize("implementation", ["native", "jax"])
def test_a_step_without_streams_changes_nothing(implementation):
    streams = jaxrnn.Streams(jaxrnn.GRUCell(3, 4, rngs=nnx.Rngs(0)), 5, implementation=implementation)
    streams.step(np.ones((5, 3), np.float32))
    before = streams.carry
    for nothing in ([], np.zeros((0, 3))):
        assert streams.step(nothing, []).shape == (0, 4)
    streams.reset([])
    np.testing.assert_array_equal(streams.carry, before)


@pytest.mark.parametrize(
    ("inputs", "which", "message"),
    [
        (np.ones((4, 3)), None, "inputs must have the shape (5, 3), [streams, in_features], not (4, 3)"),
        (np.ones((2, 3)), [0], "inputs must have the shape (1, 3)"),
        (np.ones((1, 3)), [5], "streams must lie in 0..4, but reach from 5 to 5"),
        (np.ones((1, 3)), [-1], "streams must lie in 0..4, but reach from -1 to -1"),
        (np.ones((3, 3)), [1, 4, 1], "stream 1 is named more than once"),
        (np.ones((1, 3)), [], "inputs must have the shape (0, 3)"),
        (np.ones((1, 3)), [[1]], "streams must be a list of integers"),
        (np.ones((1, 3)), [1.0], "streams must be a list of integers"),
    ],
)
def test_a_step_that_does_not_fit_changes_nothing(inputs, which, message):
    streams = jaxrnn.Streams(jaxrnn.GRUCell(3, 4, rngs=nnx.Rngs(0)), 5)
    with pytest.raises(ValueError, match=re.escape(message)):
        streams.step(inputs, which)
    np.testing.assert_array_equal(streams.carry, 0)
