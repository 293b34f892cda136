"""What vmap makes of a call of the C++ library: one call, in which every run has the bits of a call of its own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.ops import LSTMCarry, Projection, linear_recurrence, lstm_pointwise, recurrence
from jaxrnn.ops.native import call, library
from tests.ops.programs import primitives

pytestmark = pytest.mark.skipif(library.why_not_loaded() is not None, reason=str(library.why_not_loaded()))

OUTER, INNER, TIME, ROWS, FEATURES, HIDDEN = 2, 3, 9, 4, 5, 24
LENGTHS: Any = np.array([9, 4, 0, 7])


def of_own(params, h, xw, rh):
    h = h + jnp.tanh(xw[0] * params + rh[0])
    return h, h


def lstm(kernel: Any, x: Any) -> Any:
    zeros = jnp.zeros((ROWS, HIDDEN), x.dtype)
    projection = Projection(x, kernel[:FEATURES], kernel[FEATURES])
    return recurrence(
        lstm_pointwise,
        kernel[FEATURES + 1 :],
        projection,
        LSTMCarry(zeros, zeros),
        seq_lengths=LENGTHS,
        implementation="native",
    )


def heads(kernel: Any, x: Any) -> Any:
    blocks = kernel[FEATURES + 1 :].reshape(3, HIDDEN // 3, -1)[..., : 4 * HIDDEN // 3]
    zeros = jnp.zeros((ROWS, HIDDEN), x.dtype)
    xw = x @ kernel[:FEATURES]
    return recurrence(lstm_pointwise, blocks, xw, LSTMCarry(zeros, zeros), implementation="native")


def program(kernel: Any, x: Any) -> Any:
    xw, h = x @ kernel[:FEATURES, :HIDDEN], jnp.ones((ROWS, HIDDEN), x.dtype)
    own = kernel[FEATURES, :HIDDEN]
    recurrent = kernel[FEATURES + 1 :, :HIDDEN]
    return recurrence(of_own, recurrent, xw, h, params=own, reverse=True, implementation="native")


def linear(kernel: Any, x: Any) -> Any:
    b = x @ kernel[:FEATURES]
    decay = jax.nn.sigmoid(kernel[FEATURES]) + 0 * b
    return linear_recurrence(decay, b, seq_lengths=LENGTHS, implementation="native")


def fixed_decay(kernel: Any, x: Any) -> Any:
    return linear_recurrence(jax.nn.sigmoid(kernel[FEATURES]), x @ kernel[:FEATURES], implementation="native")


RECURRENCES: dict[str, Callable[[Any, Any], Any]] = {
    one.__name__: one for one in (lstm, heads, program, linear, fixed_decay)
}


def both(run: Callable[[Any, Any], Any], kernel: Any, x: Any) -> Any:
    """Results, and the gradients of both arguments."""

    def loss(kernel, x):
        results = run(kernel, x)
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(results)), results

    (_, results), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(kernel, x)
    return results, gradients


@pytest.mark.parametrize("threads", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RECURRENCES)
def test_runs_of_one_call_have_the_bits_of_calls_of_their_own(name, dtype, threads, monkeypatch):
    monkeypatch.setattr(call, "MOST_THREADS", threads)
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        kernels = jnp.asarray(random.normal(size=(OUTER, FEATURES + 1 + HIDDEN, 4 * HIDDEN)) / 5, dtype)
        inputs = jnp.asarray(random.normal(size=(INNER, TIME, ROWS, FEATURES)), dtype)

        def one(kernel, x):
            return both(RECURRENCES[name], kernel, x)

        # Every inner run shares the kernel, and every outer one the inputs.
        mapped = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
        found = jax.jit(mapped)(kernels, inputs)
        alone = jax.jit(one)
        for i, kernel in enumerate(kernels):
            for j, x in enumerate(inputs):
                # XLA may add up the products around the recurrence in another order.
                tolerance = 1e-5 if dtype == "float32" else 1e-13
                for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(alone(kernel, x)), strict=True):
                    np.testing.assert_allclose(a[i, j], b, tolerance, tolerance)
        names = primitives(mapped, kernels, inputs)
    assert names.count("ffi_call") == 2
    assert not {"scan", "while"} & set(names)


def test_a_call_has_the_bits_of_every_run():
    """Without products around the recurrence, equal bits, with a number of runs that two threads do not divide."""
    random = np.random.default_rng(0)
    kernels, xws = (jnp.asarray(random.normal(size=(5, *s)), jnp.float32) for s in ((40, 160), (64, 8, 160)))
    zeros = jnp.zeros((8, 40))

    def one(kernel, xw):
        return both(lambda kernel, xw: recurrence(lstm_pointwise, kernel, xw, LSTMCarry(zeros, zeros)), kernel, xw)

    found, alone = jax.jit(jax.vmap(one))(kernels, xws), jax.jit(one)
    for run in range(5):
        expected = alone(kernels[run], xws[run])
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a[run], b)


def test_no_runs_at_all_and_none_of_a_single_one():
    zeros, kernel = jnp.zeros((0, 3, 2, 4)), jnp.eye(4)

    def run(xw):
        return recurrence(of_own, kernel, xw, jnp.ones((2, 4)), params=jnp.ones(4), implementation="native")[1]

    assert jax.vmap(run)(zeros).shape == (0, 3, 2, 4)
    one = jnp.ones((1, 3, 2, 4))
    np.testing.assert_array_equal(jax.vmap(run)(one)[0], run(one[0]))
