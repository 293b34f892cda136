"""Every implementation of the engine runs every cell as a Python loop in float64 does, and so do its gradients.

One suite for all pairs of a cell (``CASES``) and an implementation (``IMPLEMENTATIONS``): a new one of either
is under all of it. Compared are the final carry, the outputs, and the gradients of every argument for random
cotangents on both; the tolerance is 1e-10 relative, that of half precision stands in one table.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxrnn.ops import IMPLEMENTATIONS, recurrence
from jaxrnn.ops.step import Recurrence
from tests.ops.interpreted import KERNELS
from tests.ops.oracle import (
    CASES,
    HALF_PRECISION,
    Case,
    assert_close,
    cast,
    loop,
    loop_and_gradients,
    problem,
)

ALL = IMPLEMENTATIONS | KERNELS


WATCHED = ("pallas_mosaic_tpu_races", "pallas_mosaic_gpu")
"""The implementations that are interpreted step by step, with races detected."""

RACES_WITH = ("leaky", "gru", "lstm")
"""The cells whose TPU kernels are watched for races and for memory that nobody wrote.

Together they have every form of the kernels: parameters of the cell (leaky), a recurrent bias and separate
gradients of xw and rh (gru), and two parts in the carry (lstm). Copies and threads depend on nothing else of a
cell, so the kernels of the other cells are interpreted without this, in half the time."""


def able(case: Case, implementation: str, dtype: str = "float64") -> bool:
    """Whether an implementation can run a cell on a CPU in this dtype."""
    if implementation == ("pallas_mosaic_tpu" if case.name in RACES_WITH else "pallas_mosaic_tpu_races"):
        return False
    arguments, _ = problem(case, 2, (2,))
    shapes: Any = jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), dtype), arguments)
    with jax.enable_x64(True):
        return ALL[implementation].unable(case.pointwise, Recurrence(**shapes), "cpu") is None


def over(pairs: list[tuple[Case, str]]):
    ids = [f"{case.name}-{name}" for case, name in pairs]
    return pytest.mark.parametrize(("case", "implementation"), pairs, ids=ids)


PAIRS = [(case, name) for case in CASES for name in ALL if able(case, name)]
# The sLSTM takes long to compile; test_heads.py has it in a kernel.
PAIRS = [pair for pair in PAIRS if pair[0].name != "slstm" or pair[1] in ("scan", "native")]
# What interprets a TPU is slow, and its step-by-step form does not support vmap.
OFTEN = [pair for pair in PAIRS if not pair[1].startswith("pallas_mosaic_tpu")]


@pytest.fixture(scope="module", autouse=True)
def float64_and_interpreted_kernels():
    IMPLEMENTATIONS.update(KERNELS)
    jax.config.update("jax_enable_x64", True)  # in all threads: what interprets a TPU has its own
    yield
    jax.config.update("jax_enable_x64", False)
    for name in KERNELS:
        del IMPLEMENTATIONS[name]


@dataclass(frozen=True)
class Setup:
    """A way of running a recurrence."""

    time: int
    batch: tuple[int, ...]
    seq_lengths: Any = None
    resets: Any = None
    recurrent_scale: Any = None
    optional: bool = False
    reverse: bool = False
    unroll: int = 1

    @property
    def masks(self) -> dict[str, Any]:
        """The arguments that have no gradient."""
        return {"seq_lengths": self.seq_lengths, "resets": self.resets, "recurrent_scale": self.recurrent_scale}

    def problem(self, case: Case, **options: Any):
        return problem(case, self.time, self.batch, optional=self.optional, **options)


STEPS = np.arange(5)
LENGTHS = np.array([0, 5, 3, 1])
# One row is reset at its first step, one at its last, one at every step, one at random ones.
RESETS = np.stack([STEPS == 0, STEPS == 4, STEPS >= 0, np.array([0, 1, 0, 1, 0]) > 0], axis=1)
# As dropout has it, and one number that is no power of two. The second batch axis is broadcast.
SCALE = np.array([[0, 2, 2], [2, 0, 2], [0, 0, 0], [2, 1.7, 0]])[:, None]
EVERY_LENGTH, EVERY_RESET = np.broadcast_to(LENGTHS, (4, 4)), np.broadcast_to(RESETS[..., None], (5, 4, 4))
SETUPS = {
    "odd_time": Setup(3, (2,)),
    "one_step_no_batch": Setup(1, ()),
    "no_steps": Setup(0, (2,)),
    "seq_lengths_unroll_2": Setup(5, (4,), seq_lengths=LENGTHS, unroll=2),
    "resets_reverse_unroll_3": Setup(5, (4,), resets=RESETS, reverse=True, unroll=3),
    # Forward: in reverse the padding comes first, where a reset changes nothing.
    "every_argument_two_batch_axes": Setup(
        5, (4, 4), seq_lengths=EVERY_LENGTH, resets=EVERY_RESET, recurrent_scale=SCALE, optional=True
    ),
}


@functools.cache
def compiler_options() -> dict[str, Any]:
    """What makes XLA compile more than twice as fast on a CPU, where this XLA knows it."""
    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(jnp.negative, compiler_options=options)(1.0)
    except Exception:
        return {}
    return options


@functools.cache
def compiled(case: Case, implementation: str, reverse: bool, unroll: int):
    """One program for results and gradients, shared by all tests that need it."""

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def run(arguments, cotangents, masks):
        def forward(arguments):
            return recurrence(
                case.pointwise, **arguments, **masks, reverse=reverse, unroll=unroll, implementation=implementation
            )

        results, pullback = jax.vjp(forward, arguments)
        return results, pullback(cotangents)[0]

    return run


@functools.cache
def expected(case: Case, setup_name: str):
    setup = SETUPS[setup_name]
    return loop_and_gradients(case, *setup.problem(case), **setup.masks, reverse=setup.reverse)


def test_the_oracle_equals_numpy():
    arguments, _ = problem(CASES[0], 4, (2,))
    h, outputs = arguments["initial_carry"], []
    for xw in arguments["xw"]:
        h = np.tanh(xw + h @ arguments["recurrent_kernel"])
        outputs.append(h)
    assert_close(loop(CASES[0], arguments), (h, np.stack(outputs)))


@over(PAIRS)
@pytest.mark.parametrize("setup_name", SETUPS)
def test_results_and_gradients_equal_a_python_loop(case, implementation, setup_name, capfd):
    setup = SETUPS[setup_name]
    arguments, cotangents = setup.problem(case)
    run = compiled(case, implementation, setup.reverse, setup.unroll)
    assert_close(run(arguments, cotangents, setup.masks), expected(case, setup_name))
    assert "RACE" not in "".join(capfd.readouterr())  # older versions of JAX print it and go on


# What watches for races takes minutes for so many steps.
@over([(c, name) for c, name in PAIRS if c.name in ("tanh", "lstm") and name not in WATCHED])
def test_a_thousand_steps_in_float32_stay_near_float64(case, implementation):
    arguments, cotangents = problem(case, 1000, (2,))
    wide = compiled(case, "reference", False, 1)(arguments, cotangents, {})
    narrow = compiled(case, implementation, False, 1)(*cast((arguments, cotangents), "float32"), {})
    assert {leaf.dtype.name for leaf in jax.tree.leaves(narrow)} == {"float32"}
    assert_close(narrow, wide, 1e-5)


@over(OFTEN)
def test_nan_in_the_padding_reaches_neither_results_nor_gradients(case, implementation):
    setup = SETUPS["seq_lengths_unroll_2"]
    arguments, cotangents = setup.problem(case)
    padding = np.arange(setup.time)[:, None] >= setup.seq_lengths
    arguments["xw"][padding] = np.nan
    cotangents[1][padding] = np.nan  # nobody may read what stands there on the way back, either
    run = compiled(case, implementation, False, setup.unroll)
    assert_close(run(arguments, cotangents, setup.masks), expected(case, "seq_lengths_unroll_2"))


@over(OFTEN)
def test_vmap_over_kernels_and_inputs_equals_a_loop(case, implementation):
    setup = SETUPS["odd_time"]
    arguments, cotangents = setup.problem(case)
    others, _ = setup.problem(case, seed=1)
    kernels = np.stack([arguments["recurrent_kernel"], others["recurrent_kernel"]])
    inputs = np.stack([arguments["xw"], others["xw"]])
    run = compiled(case, implementation, False, 1)

    def one(kernel, xw):
        changed = arguments | {"recurrent_kernel": kernel, "xw": xw}
        return run(changed, cotangents, setup.masks)

    found = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(kernels, inputs)
    for i, kernel in enumerate(kernels):
        for j, xw in enumerate(inputs):
            assert_close(jax.tree.map(lambda a, i=i, j=j: a[i, j], found), one(kernel, xw))


@over(OFTEN)
def test_a_call_outside_jit_equals_one_inside(case, implementation):
    setup = SETUPS["seq_lengths_unroll_2"]
    arguments, _ = setup.problem(case)
    arguments = jax.tree.map(jnp.asarray, arguments)
    options: dict[str, Any] = {"seq_lengths": setup.seq_lengths, "unroll": 2, "implementation": implementation}
    found = recurrence(case.pointwise, **arguments, **options)
    assert_close(found, expected(case, "seq_lengths_unroll_2")[0])


@functools.cache
def second_derivatives(case: Case, implementation: str):
    """The gradient of the slope of a loss in a random direction, with respect to every argument."""
    arguments, _ = problem(case, 2, (), hidden=2)
    direction, _ = problem(case, 2, (), hidden=2, seed=1)

    def loss(arguments):
        carry, outputs = recurrence(case.pointwise, **arguments, implementation=implementation)
        return jnp.sin(outputs).sum() + sum(leaf.sum() for leaf in jax.tree.leaves(carry))

    def slope(arguments):
        products = jax.tree.map(lambda g, d: (g * d).sum(), jax.grad(loss)(arguments), direction)
        return sum(jax.tree.leaves(products))

    return jax.jit(jax.grad(slope), compiler_options=compiler_options())(arguments)


@over([pair for pair in OFTEN if pair[1] != "reference"])
def test_second_derivatives_equal_those_of_plain_autodiff(case, implementation):
    assert_close(second_derivatives(case, implementation), second_derivatives(case, "reference"))


def test_second_derivatives_of_plain_autodiff_equal_finite_differences():
    case = next(case for case in CASES if case.name == "gru")
    arguments, _ = problem(case, 2, (), hidden=2)

    def outputs(arguments):
        return jnp.sin(recurrence(case.pointwise, **arguments, implementation="reference")[1]).sum()

    check_grads(jax.jit(outputs), (arguments,), order=2, modes=("rev",))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_sequence_cut_anywhere_with_its_carry_handed_over_equals_one_pass(data):
    case, implementation = data.draw(st.sampled_from(OFTEN))
    time, rows, hidden = (data.draw(st.integers(1, most)) for most in (6, 3, 4))
    cut = data.draw(st.integers(0, time))
    reverse = data.draw(st.booleans())
    lengths = np.array(data.draw(st.lists(st.integers(0, time), min_size=rows, max_size=rows)))
    arguments, _ = problem(case, time, (rows,), hidden)

    def run(carry, xw, seq_lengths):
        changed = jax.tree.map(jnp.asarray, arguments | {"xw": xw, "initial_carry": carry})
        return recurrence(
            case.pointwise, **changed, seq_lengths=seq_lengths, reverse=reverse, implementation=implementation
        )

    whole = run(arguments["initial_carry"], arguments["xw"], lengths)
    parts = [
        (arguments["xw"][:cut], np.minimum(lengths, cut)),
        (arguments["xw"][cut:], np.maximum(lengths - cut, 0)),
    ]
    carry: Any = arguments["initial_carry"]
    outputs: list[Any] = [None, None]
    for part in (1, 0) if reverse else (0, 1):
        carry, outputs[part] = run(carry, *parts[part])
    assert_close((carry, jnp.concatenate(outputs)), whole)


@functools.cache
def half_precision_problem(case: Case, dtype: str, carry_dtype: str):
    """Arguments and cotangents in half precision, and what float64 makes of these very numbers."""
    arguments, (dcarry, doutputs) = problem(case, 3, (2,))
    narrow = cast(arguments, dtype) | {"initial_carry": cast(arguments["initial_carry"], carry_dtype)}
    cotangents = cast(dcarry, carry_dtype), cast(doutputs, dtype)
    return narrow, cotangents, loop_and_gradients(case, cast(narrow, "float64"), cast(cotangents, "float64"))


@over([pair for pair in PAIRS if able(*pair, "bfloat16")])
@pytest.mark.parametrize(("dtype", "carry_dtype"), HALF_PRECISION)
def test_half_precision_stays_near_float64_and_keeps_the_stated_dtypes(case, implementation, dtype, carry_dtype):
    narrow, cotangents, wide = half_precision_problem(case, dtype, carry_dtype)
    results, gradients = compiled(case, implementation, False, 1)(narrow, cotangents, {})
    assert {leaf.dtype.name for leaf in jax.tree.leaves(results[0])} == {carry_dtype}
    assert results[1].dtype.name == dtype
    assert jax.tree.map(lambda a: a.dtype, gradients) == jax.tree.map(lambda a: a.dtype, narrow)
    tolerance, gradient_tolerance = HALF_PRECISION[dtype, carry_dtype]
    assert_close(results, wide[0], tolerance)
    assert_close(gradients, wide[1], gradient_tolerance)
