"""Products of bfloat16 in the tile registers of a processor (AMX), against the same products in float64.

States and gradients are rounded to bfloat16 where they enter a product. The oracle takes them from the library's
own results: every step is compared by itself, and a number that rounds the other way changes nothing else.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.ops import Projection, simple_rnn_pointwise
from jaxrnn.ops.native import library
from jaxrnn.ops.native.program import ProgramCall
from jaxrnn.ops.step import Recurrence
from tests.ops.test_native import needs_library

TANH = simple_rnn_pointwise(jnp.tanh)
NEAR: Any = {"rtol": 2e-5, "atol": 2e-5}

# time, batch, in_features, hidden: fewer rows than a tile has, and more than two tiles; sizes that fill no tile
SHAPES = [(3, 2, 1, 5), (9, 7, 40, 100), (4, 33, 3, 16), (21, 50, 65, 72), (2, 130, 5, 300)]


@pytest.fixture(autouse=True)
def _needs_tiles():
    if not library.has_tiles():
        pytest.skip("this processor has no tile registers")


def rounded(array) -> np.ndarray:
    return np.asarray(jnp.asarray(array, jnp.bfloat16), np.float64)


def problem(shape, *, inputs: bool) -> Recurrence:
    time, batch, in_features, hidden = shape
    random = np.random.default_rng(sum(shape))

    def numbers(*sizes: int):
        return jnp.asarray(rounded(random.normal(size=sizes) / 2), jnp.float32)

    xw = numbers(time, batch, hidden)
    if inputs:
        xw = Projection(numbers(time, batch, in_features), numbers(in_features, hidden), numbers(hidden), False)
    return Recurrence(
        recurrent_kernel=jnp.asarray(rounded(numbers(hidden, hidden) / hidden**0.5), jnp.float32),
        xw=xw,
        initial_carry=numbers(batch, hidden),
        params=(),
        recurrent_bias=numbers(hidden),
    )


def run(arrays: Recurrence, doutputs):
    """Outputs and gradients, in the library's float32."""

    @jax.jit
    def both(arrays, doutputs):
        call = ProgramCall(TANH, False, arrays, bfloat16=True)
        carry, outputs, saved = call.forward(save=True)
        return outputs, call.backward(True, outputs, saved, jnp.zeros_like(carry), doutputs)

    return jax.tree.map(lambda a: np.asarray(a, np.float64), both(arrays, doutputs))


def cotangents(arrays: Recurrence):
    shape = (*arrays.xw.shape[:-1], arrays.recurrent_kernel.shape[0])
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


@needs_library
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_step_is_that_of_rounded_states_and_gradients(shape):
    arrays = problem(shape, inputs=False)
    doutputs = cotangents(arrays)
    outputs, found = run(arrays, doutputs)
    xw, kernel, bias, first = (
        np.asarray(a, np.float64)
        for a in (arrays.xw, arrays.recurrent_kernel, arrays.recurrent_bias, arrays.initial_carry)
    )
    before = np.concatenate([first[None], outputs[:-1]])
    np.testing.assert_allclose(outputs, np.tanh(xw + rounded(before) @ kernel + bias), **NEAR)
    dxw, past = found.xw, np.concatenate([found.xw[1:], np.zeros_like(found.xw[:1])])
    of_state = np.asarray(doutputs, np.float64) + rounded(past) @ kernel.T
    np.testing.assert_allclose(dxw, of_state * (1 - outputs**2), **NEAR)
    np.testing.assert_allclose(found.initial_carry, rounded(dxw[0]) @ kernel.T, **NEAR)
    of_kernel = np.einsum("tbi,tbj->ij", rounded(before), rounded(dxw))
    np.testing.assert_allclose(found.recurrent_kernel, of_kernel, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.recurrent_bias, dxw.sum((0, 1)), rtol=1e-4, atol=1e-4)


@needs_library
@pytest.mark.parametrize("shape", [(1, *shape[1:]) for shape in SHAPES], ids=str)
def test_inputs_and_their_kernel(shape):
    arrays = problem(shape, inputs=True)
    doutputs = cotangents(arrays)
    outputs, found = run(arrays, doutputs)
    assert isinstance(arrays.xw, Projection) and arrays.xw.bias is not None
    x, kernel, bias = (np.asarray(a, np.float64) for a in (arrays.xw.inputs, arrays.xw.kernel, arrays.xw.bias))
    state = rounded(arrays.initial_carry) @ np.asarray(arrays.recurrent_kernel, np.float64)
    expected = np.tanh(x @ kernel + bias + state + np.asarray(arrays.recurrent_bias, np.float64))
    np.testing.assert_allclose(outputs, expected, **NEAR)
    dxw = rounded(np.asarray(doutputs) * np.float32(1 - outputs**2))
    # Where the factor is on the border between two numbers of bfloat16, it may be the other one.
    for of_library, exact in (
        (found.xw.inputs, dxw @ kernel.T),
        (found.xw.kernel, np.einsum("tbi,tbj->ij", x, dxw)),
    ):
        assert np.linalg.norm(of_library - exact) < 2e-4 * np.linalg.norm(exact)


@needs_library
def test_only_products_of_bfloat16_are_rounded(monkeypatch):
    """In float32 and float16 nothing is, nor where the inputs are float32."""
    seen = []
    init = ProgramCall.__init__

    def spy(self, *arguments, bfloat16=False):
        seen.append(bfloat16)
        init(self, *arguments, bfloat16=bfloat16)

    monkeypatch.setattr(ProgramCall, "__init__", spy)
    kernel, h = jnp.zeros((80, 80)), jnp.zeros((9, 80))
    cases = [(jnp.bfloat16,) * 2, (jnp.float32,) * 2, (jnp.float16,) * 2, (jnp.bfloat16, jnp.float32)]
    for of_kernel, of_inputs in cases:
        x, weights = jnp.zeros((3, 9, 4), of_inputs), jnp.zeros((4, 80), of_kernel)
        jaxrnn.ops.recurrence(
            TANH, kernel.astype(of_kernel), Projection(x, weights, None, False), h.astype(of_kernel)
        )
    assert seen == [True, False, False, False]
