"""Every implementation of a linear recurrence equals a NumPy loop in float64, and so do its gradients."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.ops import LINEAR_IMPLEMENTATIONS, linear_recurrence
from jaxrnn.ops.linear import run_linear_recurrence
from jaxrnn.ops.linear.arrays import LinearArrays
from jaxrnn.ops.native import call as native_call
from jaxrnn.ops.native.library import why_not_loaded
from tests.ops.linear_oracle import Problem, assert_close, loop, problem

NATIVE = why_not_loaded() is None
IMPLEMENTATIONS = [name for name in LINEAR_IMPLEMENTATIONS if NATIVE or name != "native"]
needs_library = pytest.mark.skipif(not NATIVE, reason="the C++ library was not built")
each = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


@pytest.fixture(scope="module", autouse=True)
def float64(quick_compilation):
    with jax.enable_x64(True):
        yield


@functools.cache
def compiled(implementation: str, reverse: bool):
    """Results and gradients, of arrays with masks or without."""

    @jax.jit
    def run(p: Problem):
        def states(*arrays):
            a, b, initial_state, reset_state = arrays
            options: Any = {"seq_lengths": p.lengths, "resets": p.resets, "reset_state": reset_state}
            return linear_recurrence(
                a, b, initial_state, reverse=reverse, implementation=implementation, **options
            )

        found, pullback = jax.vjp(states, *p[:4])
        return found, pullback(p.dstates)

    return run


def test_the_gradients_of_the_oracle_are_those_of_autodiff():
    p = problem(4, (), 3, "complex128", masks=False)

    def by_hand(a, b, h):
        states = []
        for t in range(4):
            h = a[t] * h + b[t]
            states.append(h)
        return jnp.stack(states)

    states, pullback = jax.vjp(by_hand, *p[:3])
    assert_close((states, pullback(p.dstates)), (loop(p, False)[0], loop(p, False)[1][:3]))


@each
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_states_and_gradients_equal_a_numpy_loop(implementation, dtype, reverse):
    p = problem(7, (4,), 3, dtype)
    assert_close(compiled(implementation, reverse)(p), loop(p, reverse))


@each
@pytest.mark.parametrize("time", [0, 1])
def test_no_steps_and_one_step(implementation, time):
    p = problem(time, (2,), 3, "float64", masks=False)
    found, (da, db, dinitial, _) = compiled(implementation, False)(p)
    want, wanted = loop(p, False)
    assert_close((found, (da, db, dinitial)), (want, wanted[:3]))


@each
def test_every_way_of_broadcasting_a_decay(implementation):
    for a_shape in ((5,), (1, 2, 1, 5), (4, 1, 1, 5), (4, 1, 3, 1)):
        p = problem(4, (2, 3), 5, "float64", a_shape=a_shape, masks=False)._replace(reset_state=None)
        found, gradients = compiled(implementation, True)(p)
        want, wanted = loop(p, True)
        assert_close((found, gradients[:3]), (want, wanted[:3]))


def natively(batch_major: bool, x: LinearArrays, dstates: Any):
    """States and gradients, backward in time."""

    def states(x):
        return run_linear_recurrence(x, reverse=True, implementation="native", batch_major=batch_major)

    found, pullback = jax.vjp(states, x)
    return found, pullback(dstates)[0]


@needs_library
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("batch_major", [False, True], ids=["time_major", "batch_major"])
def test_native_at_sizes_that_fill_vectors_tiles_and_threads_in_part(dtype, batch_major, monkeypatch):
    for (time, rows, channels), a_shape, masks in [
        ((9, 3, 21), None, True),
        ((9, 3, 21), (1, 1, 21), True),  # the sum over time
        ((300, 1, 130), None, False),  # two threads divide the channels
        ((300, 1, 130), (1, 1, 130), False),
        ((40, 17, 64), (40, 1, 64), True),
        ((5, 3, 4111), (1, 3, 4111), False),  # wider than a tile
    ]:
        p = problem(time, (rows,), channels, dtype, a_shape=a_shape, masks=masks)
        p = p._replace(a=p.a / (1 + np.abs(p.a)))  # less than one, so that nothing grows
        arrays = LinearArrays(*map(jnp.asarray, p[:3]))
        if masks:
            valid = np.arange(time)[:, None] < p.lengths
            masked = (p.reset_state, p.lengths.astype("int32"), p.resets & valid)
            arrays = LinearArrays(*arrays[:3], *map(jnp.asarray, masked))

        bits = []
        for threads in (0, 1):
            monkeypatch.setattr(native_call, "MOST_THREADS", threads)
            run = jax.jit(functools.partial(natively, batch_major))
            bits.append(jax.tree.map(np.asarray, run(arrays, p.dstates)))
        found, gradients = bits[0]
        jax.tree.map(np.testing.assert_array_equal, *bits)
        wide = Problem(*(None if x is None else x if x.dtype.kind in "ib" else x.astype("complex128") for x in p))
        states, wanted = loop(wide, True)
        tolerance = 2e-6 if dtype in ("float32", "complex64") else 1e-12
        assert_close((found, gradients[: 4 if masks else 3]), (states, wanted[: 4 if masks else 3]), tolerance)
