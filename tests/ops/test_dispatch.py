"""What does not fit is refused with a ValueError that shows the values; equal calls share a compiled program."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.ops import IMPLEMENTATIONS, explain, recurrence, simple_rnn_pointwise
from jaxrnn.ops.step import Recurrence
from tests.ops.interpreted import KERNELS
from tests.ops.programs import primitives

TANH = simple_rnn_pointwise(jnp.tanh)


def test_one_activation_has_one_pointwise_function_however_it_is_given():
    assert simple_rnn_pointwise() is TANH
    assert simple_rnn_pointwise(activation_fn=jnp.tanh) is TANH


TIME, BATCH, HIDDEN = 4, 2, 3


def run(pointwise=TANH, **changes: Any):
    arguments: dict[str, Any] = {
        "recurrent_kernel": jnp.eye(HIDDEN),
        "xw": jnp.ones((TIME, BATCH, HIDDEN)),
        "initial_carry": jnp.zeros((BATCH, HIDDEN)),
    }
    return recurrence(pointwise, **arguments | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"implementation": "cudnn"},
            f"unknown implementation 'cudnn'; available: {', '.join(IMPLEMENTATIONS)}, or None",
        ),
        ({"initial_carry": ()}, "initial_carry has no arrays"),
        ({"recurrent_kernel": jnp.ones((4, 4))}, "recurrent_kernel.shape=(4, 4) must be (hidden, gates * hidden)"),
        ({"recurrent_kernel": jnp.ones(3)}, "recurrent_kernel.shape=(3,) must be"),
        ({"initial_carry": jnp.zeros(())}, "the hidden state has shape (): it needs at least one unit"),
        ({"initial_carry": jnp.zeros((2, 0))}, "the hidden state has shape (2, 0): it needs at least one unit"),
        ({"xw": jnp.ones((4, 2, 5))}, "xw.shape=(4, 2, 5) must be (time, *batch, gates * hidden) with hidden = 3"),
        ({"xw": jnp.ones(3)}, "xw.shape=(3,) must be (time, *batch, gates * hidden)"),
        ({"xw": jnp.ones((4, 2, 3), jnp.int32)}, "must be a floating type"),
        ({"xw": jnp.ones((4, 2, 0))}, "xw.shape=(4, 2, 0) must be"),
        ({"recurrent_kernel": jnp.ones((3, 4))}, "recurrent_kernel.shape=(3, 4) must be (hidden, gates * hidden)"),
        (
            {"recurrent_bias": jnp.ones(2)},
            "recurrent_bias.shape=(2,) must be (3,) as recurrent_kernel.shape=(3, 3)",
        ),
        ({"initial_carry": jnp.zeros((5, 3))}, "initial_carry is float32 (5, 3), but must be a floating array"),
        ({"initial_carry": jnp.zeros((2, 3), jnp.int32)}, "initial_carry is int32 (2, 3)"),
        (
            {"initial_carry": {"c": jnp.zeros((1, 3)), "h": jnp.zeros((2, 3))}},
            "initial_carry['c'] is float32 (1, 3)",
        ),
        ({"resets": jnp.zeros((2, 4), bool)}, "resets must be bool of shape (4, 2), not bool (2, 4)"),
        ({"resets": jnp.zeros((4, 2))}, "resets must be bool of shape (4, 2), not float32 (4, 2)"),
        ({"unroll": 0}, "unroll must be a positive integer, not 0"),
        ({"unroll": 1.5}, "unroll must be a positive integer, not 1.5"),
        ({"unroll": True}, "unroll must be a positive integer, not True"),
        ({"reverse": "no"}, "reverse must be True or False, not 'no'"),
        ({"recurrent_kernel": jnp.eye(3, dtype=int)}, "recurrent_kernel.dtype=dtype('int32') must be a floating"),
        ({"recurrent_kernel": jnp.eye(3, dtype=complex)}, "must be a floating type"),
        ({"seq_lengths": jnp.array([1, 2, 3])}, "seq_lengths must be integers of shape (2,), not int32 (3,)"),
        ({"seq_lengths": jnp.array([1.0, 2.0])}, "seq_lengths must be integers of shape (2,), not float32 (2,)"),
        ({"seq_lengths": jnp.array([1, 5])}, "seq_lengths must lie in 0..4 (time), but reach from 1 to 5"),
        ({"seq_lengths": np.array([-1, 4])}, "seq_lengths must lie in 0..4 (time), but reach from -1 to 4"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_their_values(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        run(**changes)


@pytest.mark.parametrize("implementation", [None, "scan", "reference"])
@pytest.mark.parametrize("pointwise", [TANH, lambda params, carry, xw, rh: (jnp.tanh(xw[0] + rh[0]),) * 2])
@pytest.mark.parametrize("dtype", [bool, "int8", "int32"])
def test_a_bias_and_a_scale_of_integers_are_numbers(implementation, pointwise, dtype):
    given = {"recurrent_bias": np.arange(HIDDEN), "recurrent_scale": np.array([[1, 0, 1], [0, 1, 1]])}
    found = run(
        pointwise, implementation=implementation, **{name: jnp.asarray(a, dtype) for name, a in given.items()}
    )
    floats = {name: jnp.asarray(a, dtype).astype(jnp.float32) for name, a in given.items()}
    jax.tree.map(np.testing.assert_array_equal, found, run(pointwise, implementation=implementation, **floats))


def test_unroll_is_any_integer():
    jax.tree.map(np.testing.assert_array_equal, run(unroll=np.int64(2), implementation="scan"), run(unroll=2))


@pytest.mark.parametrize("implementation", ["scan", "reference"])
@pytest.mark.parametrize(
    ("pointwise", "message"),
    [
        (
            lambda params, carry, xw, rh: ((carry, carry), carry),
            "pointwise must return a carry with the structure",
        ),
        (lambda params, carry, xw, rh: (carry[..., :1], carry), r"changed \(2, 3\) to \(2, 1\)"),
        (lambda params, carry, xw, rh: (0.0, carry), r"changed \(2, 3\) to a float"),
        (lambda params, carry, xw, rh: (carry * 1j, carry), "must return a real carry and output, not complex64"),
        (lambda params, carry, xw, rh: (carry, carry * 1j), "must return a real carry and output, not complex64"),
    ],
)
def test_a_pointwise_function_that_changes_its_carry_is_refused(pointwise, message, implementation):
    with pytest.raises(ValueError, match=message):
        run(pointwise, implementation=implementation)


@pytest.mark.parametrize("name", [*IMPLEMENTATIONS, *KERNELS])
def test_recurrent_scale_gets_no_gradient_and_leaves_the_others_theirs(name, monkeypatch):
    """On every implementation that this machine can run; kernels of accelerators in interpret mode."""
    for kernel, implementation in KERNELS.items():
        monkeypatch.setitem(IMPLEMENTATIONS, kernel, implementation)
    scale, carry, unit = jnp.full((BATCH, HIDDEN), 0.5), jnp.full((BATCH, HIDDEN), 0.1), jnp.eye(HIDDEN)
    arrays = Recurrence(unit, jnp.ones((TIME, BATCH, HIDDEN)), carry, recurrent_scale=scale)
    reason = IMPLEMENTATIONS[name].unable(TANH, arrays, "cpu")
    if reason is not None:
        pytest.skip(reason)

    def loss(kernel, scale):
        options: dict[str, Any] = {"recurrent_scale": scale, "implementation": name}
        return run(recurrent_kernel=kernel, initial_carry=carry, **options)[1].sum()

    dkernel, dscale = jax.grad(loss, argnums=(0, 1))(unit, scale)
    np.testing.assert_array_equal(dscale, jnp.zeros_like(scale))
    expected = jax.grad(lambda kernel: loss(kernel * 0.5, jnp.ones_like(scale)))(unit)
    np.testing.assert_allclose(dkernel, expected, rtol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_a_parameter_may_be_a_python_number(platform):
    def scaled(params, carry, xw, rh):
        h = jnp.tanh(params * xw[0] + rh[0])
        return h, h

    h, xw, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(2, 16), (5, 2, 16), (16, 16)])
    number, array = (
        explain(scaled, kernel, xw, h, params=params, platform=platform) for params in (0.5, jnp.asarray(0.5))
    )
    assert number == array


def test_none_picks_an_implementation_by_itself():
    chosen = explain(TANH, jnp.eye(HIDDEN), jnp.ones((TIME, BATCH, HIDDEN)), jnp.zeros((BATCH, HIDDEN))).chosen
    np.testing.assert_array_equal(run()[1], run(implementation=chosen)[1])


def test_a_second_call_outside_jit_traces_nothing():
    traces = []

    def pointwise(params, carry, xw, rh):
        traces.append(None)
        return carry, xw[0] + rh[0]

    run(pointwise)
    first = len(traces)
    run(pointwise)
    assert 0 < first == len(traces)


def test_lengths_that_a_jitted_function_closes_over_work_as_its_arguments_do():
    lengths = jnp.array([1, 4])
    inside = jax.jit(lambda xw: run(xw=xw, seq_lengths=lengths)[1])(jnp.ones((TIME, BATCH, HIDDEN)))
    np.testing.assert_allclose(inside, run(seq_lengths=lengths)[1], rtol=1e-6)


def test_lengths_may_be_any_integers_and_a_batch_of_none():
    lengths = np.array([1, 4], np.uint8)
    np.testing.assert_array_equal(run(seq_lengths=lengths)[1], run(seq_lengths=jnp.array([1, 4]))[1])
    empty = run(xw=jnp.ones((4, 0, 3)), initial_carry=jnp.zeros((0, 3)), seq_lengths=jnp.zeros(0, jnp.int32))
    assert empty[1].shape == (4, 0, 3)


@pytest.mark.parametrize(
    ("time", "batch", "few"), [(1, (200,), True), (4, (), True), (2, (2,), True), (5, (), False), (2, (3,), False)]
)
def test_few_steps_of_few_rows_are_left_to_the_scan(time, batch, few):
    shape = jax.ShapeDtypeStruct
    xw, h, kernel = (shape(s, jnp.float32) for s in ((time, *batch, 3), (*batch, 3), (3, 3)))
    choice = explain(TANH, kernel, xw, h, platform="cpu")
    if few:
        assert choice.chosen == "scan" and f"few steps and rows, here {time} and" in choice.reasons["native"]
    else:
        assert "few steps" not in choice.reasons.get("native", "")


def test_a_single_step_runs_on_the_scan_on_a_gpu_too():
    def chosen(steps):
        xw: Any = jax.ShapeDtypeStruct((steps, 2, 64), "bfloat16")
        return explain(
            TANH, jax.ShapeDtypeStruct((64, 64), "bfloat16"), xw, xw.update(shape=(2, 64)), platform="gpu"
        )

    assert chosen(2).chosen == "pallas" and chosen(1).chosen == "scan"
    assert "faster for a single step" in chosen(1).reasons["pallas"]


def test_a_single_step_is_no_loop():
    """So that it costs nothing inside somebody's own loop, forward or backward."""

    def loss(kernel, steps):
        xw, valid = jnp.ones((steps, 2, HIDDEN)), jnp.array([0, 1])
        return run(recurrent_kernel=kernel, xw=xw, seq_lengths=valid, implementation="scan")[1].sum()

    def loops(steps):
        return primitives(jax.grad(partial(loss, steps=steps)), jnp.eye(HIDDEN)).count("scan")

    assert (loops(1), loops(2)) == (0, 2)
    assert jax.grad(loss)(jnp.eye(HIDDEN), 1).shape == (HIDDEN, HIDDEN)
