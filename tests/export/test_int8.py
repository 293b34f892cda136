"""Int8 weights: the library computes what their integers say, and the errors are named."""

import os
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.export import load_safetensors, quantize, save_safetensors
from jaxrnn.ops.native.library import instruction_set, instruction_sets, why_not_loaded

needs_library = pytest.mark.skipif(why_not_loaded() is not None, reason=str(why_not_loaded()))

BIAS = nnx.initializers.normal()
CELLS = {
    "tanh": lambda *sizes: jaxrnn.SimpleRNNCell(*sizes, bias_init=BIAS, rngs=nnx.Rngs(0)),
    "relu": lambda *sizes: jaxrnn.SimpleRNNCell(*sizes, activation_fn=jax.nn.relu, rngs=nnx.Rngs(0)),
    "lstm": lambda *sizes: jaxrnn.LSTMCell(*sizes, bias_init=BIAS, rngs=nnx.Rngs(0)),
    "gru": lambda *sizes: jaxrnn.GRUCell(*sizes, bias_init=BIAS, rngs=nnx.Rngs(0)),
    "leaky": lambda *sizes: jaxrnn.LeakyCell(*sizes, rngs=nnx.Rngs(0)),
}


def product(rows: np.ndarray, kernel) -> np.ndarray:
    """Rows rounded to integers, times the kernel's integers, in exact arithmetic: the oracle."""
    depth = rows.shape[1]
    largest = min(2**15 - 1, (2**31 - 1) // (127 * depth))
    top = np.abs(rows).max(axis=1, keepdims=True).astype(np.float32)
    integers = np.rint(rows * np.where(top > 0, np.float32(largest) / np.where(top > 0, top, 1), 0)).astype(
        np.int64
    )
    sums = integers @ np.asarray(kernel.values[...], np.int64)
    assert np.abs(sums).max() < 2**31
    return sums * (top / largest) * np.asarray(kernel.scale[...])


def stepped(cell, carry, inputs: np.ndarray):
    """One step by the cell's own equations on the oracle's products."""
    pointwise, params = cell.pure_pointwise()
    xw = product(inputs, cell.kernel) + (0 if cell.bias is None else np.asarray(cell.bias[...]))
    rh = product(np.asarray(jax.tree.leaves(carry)[-1]), cell.recurrent_kernel)
    rh = rh + (0 if cell.recurrent_bias is None else np.asarray(cell.recurrent_bias[...]))
    gates = [jnp.split(jnp.asarray(a, jnp.float32), cell.num_gates, axis=-1) for a in (xw, rh)]
    return pointwise(params, carry, *map(tuple, gates))


@needs_library
@pytest.mark.parametrize("name", CELLS)
def test_streams_compute_what_the_integers_say_and_the_others_are_like_streams(name):
    cell = quantize(CELLS[name](3, 21))
    inputs: Any = np.random.default_rng(0).normal(size=(30, 4, 3)).astype(np.float32)
    inputs[2] = 0
    streams = jaxrnn.Streams(cell, len(inputs), implementation="native")
    step, carry = jaxrnn.streaming_step(cell, inputs[:1, 0], implementation="native")
    outputs = []
    for t in range(inputs.shape[1]):
        expected = stepped(cell, streams.carry, inputs[:, t])[1]
        outputs.append(streams.step(inputs[:, t]))
        # A value halfway between two integers may be rounded either way.
        differences = np.abs(outputs[-1] - np.asarray(expected))
        assert differences.max() < 3e-5 and (differences < 2e-6).mean() > 0.95
        carry, y = step(carry, inputs[:1, t])
        np.testing.assert_allclose(y, outputs[-1][:1], rtol=0, atol=3e-5)
    np.testing.assert_allclose(jaxrnn.RNN(cell)(inputs), np.stack(outputs, 1), rtol=0, atol=3e-5)


@needs_library
@pytest.mark.parametrize("name", ["tanh", "lstm", "gru"])
def test_lengths_resets_and_direction_are_those_of_the_scan(name):
    random = np.random.default_rng(0)
    cell = quantize(CELLS[name](2, 9))
    x, lengths = jnp.asarray(random.normal(size=(5, 7, 2)), jnp.float32), jnp.array([7, 0, 3, 6, 1])
    carry = jax.tree.map(lambda a: random.normal(size=a.shape).astype(a.dtype), cell.initialize_carry((5, 2)))
    options: dict[str, Any] = dict(
        seq_lengths=lengths, resets=jnp.asarray(random.random((5, 7)) < 0.3), initial_carry=carry
    )
    for reverse, time_major in ((False, True), (True, False)):
        one, other = (
            jaxrnn.RNN(cell, return_carry=True, reverse=reverse, time_major=time_major, implementation=which)
            for which in (None, "scan")
        )
        turned = {**options, "resets": options["resets"].T} if time_major else options
        inputs = jnp.swapaxes(x, 0, 1) if time_major else x
        found, expected = one(inputs, **turned), other(inputs, **turned)
        # The scan has no rounding of the activations.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-4), found, expected)


@needs_library
def test_older_instruction_sets_compute_the_same():
    """A difference in the last place may round an activation to the next integer, 2^-16 away."""
    program = (
        "import sys, numpy as np, jaxrnn; from flax import nnx; from jaxrnn.export import quantize\n"
        "cell = quantize(jaxrnn.LSTMCell(5, 37, rngs=nnx.Rngs(0)))\n"
        "x = np.random.default_rng(0).normal(size=(13, 5)).astype(np.float32)\n"
        "streams = jaxrnn.Streams(cell, 13)\n"
        "found = np.stack([streams.step(x) for _ in range(5)])\n"
    )
    here: dict = {}
    exec(program, here)
    for limit in {"avx2", "base"} & set(instruction_sets()) - {instruction_set()}:
        environment = {**os.environ, "JAXRNN_INSTRUCTION_SET": limit}
        whole = [sys.executable, "-c", program + "sys.stdout.buffer.write(found.tobytes())"]
        done = subprocess.run(whole, env=environment, capture_output=True, check=True)
        there = np.frombuffer(done.stdout, np.float32).reshape(here["found"].shape)
        np.testing.assert_allclose(there[0], here["found"][0], rtol=0, atol=5e-7)
        np.testing.assert_allclose(there, here["found"], rtol=0, atol=5e-5)


@needs_library
@needs_library
@pytest.mark.parametrize("name", ["tanh", "lstm", "gru"])
def test_many_rows_have_the_bits_of_each_alone(name):
    """They have their products in other tiles; one, two, three and four vectors to a panel."""
    for hidden in (5, 13, 40):
        cell = quantize(CELLS[name](3, hidden))
        for rows in (7, 12, 19, 61):
            inputs = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)
            together = jaxrnn.Streams(cell, rows, implementation="native").step(inputs)
            alone = [jaxrnn.Streams(cell, 1, implementation="native").step(row[None])[0] for row in inputs]
            assert together.tobytes() == np.stack(alone).tobytes(), (hidden, rows)


def test_a_state_that_is_not_finite_stays_visible():
    cell = quantize(jaxrnn.LSTMCell(3, 8, rngs=nnx.Rngs(0)))
    streams = jaxrnn.Streams(cell, 3)
    outputs = streams.step(np.array([[0, 0, 1], [0, np.nan, 1], [np.inf, 0, 1]], np.float32))
    assert np.isfinite(outputs[0]).all() and np.isnan(outputs[1:]).all()


def test_a_model_keeps_its_forecasts_and_a_quarter_of_its_size(tmp_path):
    pytest.importorskip("safetensors")
    model = jaxrnn.RNNForecaster(2, (128, 128), cell="lstm", out_features=3, rngs=nnx.Rngs(0))
    small = quantize(model)
    x: Any = np.random.default_rng(0).normal(size=(4, 20, 2)).astype(np.float32)
    expected = np.asarray(model(x))
    assert np.abs(np.asarray(small(x)) - expected).max() < 0.03 * np.abs(expected).max()
    paths = [tmp_path / "whole", tmp_path / "small"]
    for which, path in zip((model, small), paths, strict=True):
        save_safetensors(which, path)
    whole, less = (path.stat().st_size for path in paths)
    assert less < 0.3 * whole
    other = quantize(jaxrnn.RNNForecaster(2, (128, 128), cell="lstm", out_features=3, rngs=nnx.Rngs(1)))
    load_safetensors(other, paths[1])
    np.testing.assert_array_equal(other(x), small(x))


def test_other_cells_and_places_run_on_floating_numbers():
    """The GRU with reset_after=False, bfloat16, and a scan that is named."""
    x: Any = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    several: Any = (dict(reset_after=False), dict(dtype=jnp.bfloat16), dict(implementation="scan"))
    for options in several:
        layer = jaxrnn.GRU(3, 8, rngs=nnx.Rngs(0), **options)
        expected = np.asarray(layer(x), np.float32)
        np.testing.assert_allclose(np.asarray(quantize(layer)(x), np.float32), expected, rtol=0, atol=0.03)


def test_an_embedding_and_a_wide_head_are_int8_too():
    class Words(nnx.Module):
        def __init__(self):
            self.embedding = nnx.Embed(11, 6, rngs=nnx.Rngs(0))
            self.layers = jaxrnn.GRU(6, 8, rngs=nnx.Rngs(0))
            self.head = nnx.Linear(8, 11, rngs=nnx.Rngs(1))

        def __call__(self, words):
            return self.head(self.layers(self.embedding(words)))

    model, words = Words(), jnp.arange(10).reshape(2, 5)
    small, part = quantize(model), quantize(model, heads=False)
    assert {str(a.dtype) for a in jax.tree.leaves(nnx.state(small.head))} == {"int8", "float32"}
    assert isinstance(part.head.kernel, nnx.Param) and isinstance(model.head.kernel, nnx.Param)
    np.testing.assert_allclose(small(words), model(words), rtol=0, atol=0.05)


class Other(jaxrnn.SimpleRNNCell):
    pass


def infinite():
    cell = jaxrnn.GRUCell(3, 4, rngs=nnx.Rngs(0))
    cell.kernel[...] = cell.kernel[...].at[0, 0].set(jnp.inf)
    return jaxrnn.RNN(cell)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: 3, "model must be a Flax module, not 3"),
        (lambda: nnx.Linear(3, 4, rngs=nnx.Rngs(0)), "the Linear has no recurrent cell to quantise"),
        (
            lambda: jaxrnn.RNN(Other(3, 4, rngs=nnx.Rngs(0))),
            "cell is a Other; those that can be quantised: Simple",
        ),
        (lambda: jaxrnn.RNN(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0))), "cell is a GRUCell; those that can"),
        (lambda: quantize(jaxrnn.GRU(3, 4, rngs=nnx.Rngs(0))), "cells.0.kernel is int8 already"),
        (infinite, "cell.kernel has weights that are infinite or NaN"),
    ],
)
def test_what_cannot_be_quantised_is_named(model, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        quantize(model())
