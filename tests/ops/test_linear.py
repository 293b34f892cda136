"""Every implementation of a linear recurrence equals a NumPy loop in float64, and so do its gradients."""

import functools
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.ops import LINEAR_IMPLEMENTATIONS, explain_linear_recurrence, linear_recurrence
from jaxrnn.ops.linear import run_linear_recurrence
from jaxrnn.ops.linear.arrays import LinearArrays
from jaxrnn.ops.native import call as native_call
from jaxrnn.ops.native.library import instruction_set, instruction_sets, why_not_loaded
from tests.ops.linear_oracle import Problem, assert_close, loop, problem

NATIVE = why_not_loaded() is None
ABSENT = {"pallas"} if NATIVE else {"pallas", "native"}
IMPLEMENTATIONS = [name for name in LINEAR_IMPLEMENTATIONS if name not in ABSENT]
needs_library = pytest.mark.skipif(not NATIVE, reason="the C++ library was not built")
OLDER = [name for name in ("avx2", "base") if NATIVE and name in instruction_sets() and name != instruction_set()]
each = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


@pytest.fixture(scope="module", autouse=True)
def float64():
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
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_a_reset_stops_infinite_and_undefined_numbers(implementation, reverse):
    """In the states of later steps, and in the gradients of those before."""
    p = problem(7, (4,), 3, "float64")
    resets = np.zeros((7, 4), bool)
    resets[3] = True
    p = p._replace(lengths=np.full(4, 7), resets=resets)
    before, later = (slice(4, 7), slice(0, 4)) if reverse else (slice(0, 3), slice(3, 7))
    run = compiled(implementation, reverse)
    states, (da, db, dinitial, _) = run(p)
    for poison in (np.inf, np.nan):
        b, dstates = p.b.copy(), p.dstates.copy()
        b[before.start + 1], dstates[later.start + 1] = poison, poison
        found, (_, *gradients) = run(p._replace(b=b))
        assert not np.isfinite(found[before.start + 1]).any()
        assert_close((found[later], *gradients[:2]), (states[later], db, dinitial))
        _, (found_da, found_db, found_dinitial, _) = run(p._replace(dstates=dstates))
        assert_close((found_da[before], found_db[before], found_dinitial), (da[before], db[before], dinitial))


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
@pytest.mark.parametrize(
    ("dtype", "batch_major"), [("float32", False), ("float64", True), ("complex64", True), ("complex128", False)]
)
def test_native_at_sizes_that_fill_vectors_tiles_and_threads_in_part(dtype, batch_major, monkeypatch):
    for (time, rows, channels), a_shape, masks in [
        ((9, 3, 21), None, True),
        ((9, 3, 21), (1, 1, 21), True),  # the sum over time
        ((300, 1, 130), None, False),  # two threads divide the channels
        ((300, 1, 130), (1, 1, 130), False),
        ((40, 17, 64), (40, 1, 64), True),
        ((5, 3, 4111), (1, 3, 4111), False),  # wider than a tile
        ((40, 3, 8192), None, True),  # large enough to be written past the caches, where that pays
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


@needs_library
@pytest.mark.parametrize("instructions", OLDER)
def test_native_with_older_instructions(instructions):
    """In a process of its own, since the library chooses once."""
    program = """
import jax, jax.numpy as jnp, numpy as np
from tests.ops.test_linear import natively, needs_library
from tests.ops.linear_oracle import assert_close, loop, problem
from jaxrnn.ops.linear import kernel
from jaxrnn.ops.linear.arrays import LinearArrays
from jaxrnn.ops.linear.loops import loop_recurrence, scan
for dtype in ("float32", "complex64"):
    p = problem(9, (3,), 21, dtype, masks=False)
    x = LinearArrays(*map(jnp.asarray, p[:3]))
    found, gradients = jax.jit(lambda x, d: natively(False, x, d))(x, p.dstates)
    states, wanted = loop(p, True)
    assert_close((found, gradients[:3]), (states, wanted[:3]), 1e-5)
"""
    environment = os.environ | {"JAXRNN_INSTRUCTION_SET": instructions, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


LONG = 65536


@functools.cache
def long_problem(dtype: str):
    """Decays near 1, up to a memory of 20,000 steps, and what NumPy makes of it in float64."""
    p = problem(LONG, (), 2, dtype, a_shape=(2,), masks=False)
    a = np.array([0.99995, 0.999]) * (np.exp([0.01j, 3j]) if dtype == "complex64" else 1)
    p = p._replace(a=a.astype(dtype))
    wide = {name: getattr(p, name).astype("complex128") for name in ("a", "b", "initial_state", "dstates")}
    states, gradients = loop(p._replace(**wide), False)
    return p, states, gradients


@each
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_sixty_five_thousand_steps_in_single_precision_stay_near_float64(implementation, dtype):
    p, states, gradients = long_problem(dtype)
    found, (da, db, dinitial, _) = compiled(implementation, False)(p)
    assert found.dtype == da.dtype == db.dtype == dtype
    # High powers of a complex number, which only this one needs, lose digits.
    tolerance = 2e-4 if (implementation, dtype) == ("associative", "complex64") else 2e-5
    assert_close((found, db, dinitial), (states, *gradients[1:3]), tolerance)
    assert_close(da, gradients[0], 10 * tolerance)  # a sum over time of products that nearly cancel


@needs_library
def test_a_constant_decay_is_not_repeated_in_memory():
    shape = jax.ShapeDtypeStruct((1000, 8, 64), jnp.float32)
    decay = jax.ShapeDtypeStruct((64,), jnp.float32)
    run = jax.jit(lambda a, b: jax.vjp(lambda a, b: linear_recurrence(a, b, implementation="native"), a, b)[1](b))
    memory: Any = run.lower(decay, shape).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 1.1 * 1000 * 8 * 64 * 4  # the states, and nothing else of their size


@each
def test_a_sequence_cut_in_two_equals_one_pass(implementation):
    p = problem(9, (2,), 3, "float64")
    lengths, resets = p.lengths, p.resets
    for reverse in (implementation in ("native", "chunked"),):
        run = functools.partial(linear_recurrence, reverse=reverse, implementation=implementation)
        whole = run(p.a, p.b, p.initial_state, seq_lengths=lengths, resets=resets, reset_state=p.reset_state)
        parts, state = {}, p.initial_state
        for part in (slice(4, 9), slice(0, 4)) if reverse else (slice(0, 4), slice(4, 9)):
            left = np.clip(lengths - part.start, 0, part.stop - part.start)
            options: Any = {"seq_lengths": left, "resets": resets[part], "reset_state": p.reset_state}
            parts[part.start] = run(p.a[part], p.b[part], state, **options)
            state = parts[part.start][0 if reverse else -1]
        assert_close(jnp.concatenate([parts[0], parts[4]]), whole)


@each
def test_second_derivatives_equal_those_of_plain_autodiff(implementation):
    p = problem(3, (2,), 2, "float64")

    def by_hand(a, b, h, reset_state):
        states = []
        for t in range(3):
            before = jnp.where((p.resets[t] & (t < p.lengths))[:, None], reset_state, h)
            h = jnp.where((t < p.lengths)[:, None], a[t] * before + b[t], h)
            states.append(h)
        return jnp.stack(states)

    def ours(a, b, h, reset_state):
        options: Any = {"seq_lengths": p.lengths, "resets": p.resets, "reset_state": reset_state}
        return linear_recurrence(a, b, h, implementation=implementation, **options)

    @functools.partial(jax.jit, static_argnums=0)
    def slope(states, arrays):
        def gradient(arrays):
            return jax.grad(lambda arrays: jnp.sin(states(*arrays)).sum())(arrays)

        found, pullback = jax.vjp(gradient, arrays)
        return pullback(jax.tree.map(jnp.cos, found))

    arrays = tuple(map(jnp.asarray, p[:4]))
    assert_close(slope(ours, arrays), slope(by_hand, arrays))


@each
def test_vmap_and_nan_in_the_padding(implementation):
    p = problem(5, (4,), 3, "float64")
    run = functools.partial(linear_recurrence, reset_state=p.reset_state, implementation=implementation)
    mapped = jax.jit(jax.vmap(lambda a, b: run(a, b, p.initial_state, seq_lengths=p.lengths, resets=p.resets)))
    padding = np.arange(5)[:, None] >= p.lengths
    b, a = (np.where(padding[..., None], np.nan, array) for array in (p.b, p.a))
    found = mapped(np.stack([a, p.a]), np.stack([b, 2 * p.b]))
    assert_close(found[0], loop(p, False)[0])
    assert_close(found[1], loop(p._replace(b=2 * p.b), False)[0])


def test_half_precision_is_computed_in_float32():
    p = problem(50, (2,), 3, "float32", masks=False)
    a, b = (jnp.asarray(array, jnp.bfloat16) for array in (np.tanh(p.a), p.b))
    found = linear_recurrence(a, b)
    assert found.dtype == jnp.bfloat16
    wide = linear_recurrence(a.astype("float32"), b.astype("float32"))
    assert_close(found.astype("float32"), wide, 2.0**-8)
    of_number = linear_recurrence(0.999, jnp.ones((1000, 1, 1), jnp.bfloat16))  # in bfloat16, 0.999 is 1
    assert of_number.dtype == jnp.bfloat16 and abs(of_number[-1, 0, 0] - 632.3) < 4


def test_what_runs_where():
    def chosen(shape, dtype="float32", **options):
        b = jax.ShapeDtypeStruct(shape, dtype)
        return explain_linear_recurrence(b, b, **options)

    if NATIVE:
        assert chosen((100, 2, 3), "complex64", platform="cpu").chosen == "native"
    for platform, best in (("gpu", "pallas"), ("tpu", "chunked")):
        of_platform = chosen((100, 2, 3), platform=platform)
        assert of_platform.chosen == best
        assert f"not on a {platform}" in of_platform.reasons["native"]
    assert chosen((100, 2, 3), platform="CUDA", reset_state=0.0, reverse=True).chosen == "pallas"
    with pytest.raises(ValueError, match=r"platform must be 'cpu', 'gpu' or 'tpu', .*not 'npu'"):
        chosen((100, 2, 3), platform="npu")
    assert "not measured" in chosen((100, 2, 3), platform="tpu").reasons["pallas"]
    of_complex = chosen((100, 2, 3), "complex64", platform="gpu")
    assert of_complex.chosen == "associative" and "not complex64" in of_complex.reasons["pallas"]
    with pytest.raises(
        ValueError, match="implementation='pallas' cannot run this: the kernels run on a gpu or a tpu"
    ):
        linear_recurrence(0.5, ONES, implementation="pallas")


def test_forward_mode_is_refused():
    b = jnp.ones((3, 2))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda b: linear_recurrence(0.5, b), (b,), (b,))


ONES = np.ones((4, 2, 3))


@pytest.mark.parametrize(
    ("message", "arguments", "options"),
    [
        (r"b.shape=\(4,\) must be", (0.5, np.ones(4)), {}),
        (r"a of shape \(5, 2, 3\) does not broadcast to \(4, 2, 3\)", (np.ones((5, 2, 3)), ONES), {}),
        ("must be real or complex arrays, not int", (np.ones(3, int), np.ones((4, 3), int)), {}),
        (r"initial_state of shape \(3, 3\) does not broadcast to \(2, 3\)", (0.5, ONES, np.ones((3, 3))), {}),
        ("initial_state is complex", (0.5, ONES, np.ones(3) * 1j), {}),
        (r"seq_lengths must lie in 0..4 \(time\), but reach from 1 to 5", (0.5, ONES), {"seq_lengths": [1, 5]}),
        (r"resets must be bool of shape \(4, 2\)", (0.5, ONES), {"resets": np.ones((4, 3), bool)}),
        ("a must be an array of numbers, not None", (None, ONES), {}),
        ("b must be an array of numbers, not 'x'", (0.5, "x"), {}),
        ("initial_state must be an array of numbers, not 'x'", (0.5, ONES, "x"), {}),
        ("reverse must be True or False, not 'yes'", (0.5, ONES), {"reverse": "yes"}),
        ("unknown implementation 'fast'; available: ", (0.5, ONES), {"implementation": "fast"}),
    ],
)
def test_invalid_arguments_are_refused_with_their_values(message, arguments, options):
    with pytest.raises(ValueError, match=message):
        linear_recurrence(*arguments, **options)
