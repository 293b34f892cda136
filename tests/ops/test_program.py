"""Programs compute what the equations of a cell and their derivative do, and name what they cannot express."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.ops.program import CellProgram, cell_program
from tests.ops.oracle import CASES, Case, assert_close
from tests.ops.programs import USERS, random_case, shapes, step_and_gradients

ROWS, HIDDEN = 5, 6


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def program(case: Case, **options: Any) -> CellProgram:
    found = cell_program(case.pointwise, shapes(case, HIDDEN, **options))
    assert isinstance(found, CellProgram), found
    return found


def reason(case: Case, **options: Any) -> str:
    found = cell_program(case.pointwise, shapes(case, HIDDEN, **options))
    assert isinstance(found, str)
    return found


def assert_equal_to_jax(case: Case) -> None:
    random = np.random.RandomState(1)
    params = jax.tree.map(jnp.asarray, case.params(random, HIDDEN))

    def block() -> Any:
        return jnp.asarray(random.randn(ROWS, HIDDEN))

    def blocks(count: int) -> list[Any]:
        return [block() for _ in range(count)]

    carry, dcarry = case.carry(block), case.carry(block)
    xw, rh = blocks(case.gates), blocks(case.recurrent_gates or case.gates)
    (dy,) = blocks(1)

    @jax.jit
    def in_jax(params, carry, xw, rh, cotangents):
        results, pull = jax.vjp(case.pointwise, params, carry, tuple(xw), tuple(rh))
        return results, pull(cotangents)

    (new_carry, y), (dparams, *gradients) = in_jax(params, carry, xw, rh, (dcarry, dy))
    given = {"carry": jax.tree.leaves(carry), "xw": xw, "rh": rh, "dcarry": jax.tree.leaves(dcarry), "dy": [dy]}
    found = step_and_gradients(program(case), params, given)
    expected = (new_carry, y, dparams, *gradients)
    assert_close(jax.tree.leaves(found), jax.tree.leaves(expected), 1e-12)


@pytest.mark.parametrize("case", [c for c in CASES if c.name != "gru_reset_before"] + USERS, ids=str)
def test_values_and_gradients_equal_those_of_jax(case):
    assert_equal_to_jax(case)


@pytest.mark.parametrize("seed", range(12))
def test_random_equations(seed):
    assert_equal_to_jax(random_case(seed))


@pytest.mark.parametrize(
    ("name", "saved"),
    [("tanh", 0), ("relu", 0), ("leaky", 1), ("lstm", 5), ("gru", 4), ("minimal_gated_unit", 3), ("peephole", 5)],
)
def test_no_more_is_saved_than_in_the_equations_written_by_hand(name, saved):
    case = next(case for case in CASES + USERS if case.name == name)
    assert program(case).saved == saved


def case(pointwise: Any, **options: Any) -> Case:
    return Case("of_this_test", pointwise, **options)


def simple(function: Any) -> Any:
    def pointwise(params, h, xw, rh):
        h = function(params, h, xw[0] + rh[0])
        return h, h

    return pointwise


def matrix(random, hidden):
    return random.randn(hidden, hidden)


@pytest.mark.parametrize(
    ("pointwise", "params", "expected"),
    [
        (simple(lambda p, h, z: jnp.tanh(z + h @ p)), matrix, r"have dot_general \(a matrix product\)"),
        (simple(lambda p, h, z: jnp.concatenate([z[:, 1:], h[:, :1]], -1)), None, r"have (concatenate|slice) \("),
        (simple(lambda p, h, z: jnp.cumsum(z, -1)), None, "have cumsum"),
        (simple(lambda p, h, z: z - z.mean(0)), None, "a sum over the batch within the step"),
        (simple(lambda p, h, z: z + jax.random.normal(jax.random.key(0), z.shape)), None, "random|iota"),
        (simple(lambda p, h, z: z.astype(jnp.float32) * h), None, "compute in float32, not only float64"),
        (simple(lambda p, h, z: h + jnp.arange(7)[:, None]), None, "incompatible shapes"),
        (simple(lambda p, h, z: z.T), None, "pointwise must keep the shapes"),
        (lambda p, h, xw, rh: (h, xw[0][:, :2]), None, "its output has 2 features, and not 6"),
    ],
)
def test_what_programs_cannot_express_is_named(pointwise, params, expected):
    of_cell = case(pointwise, **({"params": params} if params else {}))
    if expected.startswith("pointwise"):  # the author of the cell must mend this, whatever runs it
        with pytest.raises(ValueError, match=expected):
            program(of_cell)
    else:
        assert re.search(expected, reason(of_cell))


def test_what_follows_from_the_parameters_alone_is_computed_once_per_call():
    def low_rank(params, h, xw, rh):
        h = jnp.tanh(xw[0] + rh[0] + h * (params["left"] @ params["right"]).sum(0) + params["table"][1])
        return h, h

    def params(random, hidden):
        shapes = {"left": (hidden, 2), "right": (2, hidden), "table": (3, hidden)}
        return {name: random.randn(*shape) for name, shape in shapes.items()}

    of_cell = case(low_rank, params=params)
    assert program(of_cell).derived == 2
    assert_equal_to_jax(of_cell)


@pytest.mark.parametrize("limit", [jnp.clip, lambda d, low, high: d + 1])
def test_a_gradient_that_is_not_linear_in_the_sums_is_left_to_the_scan(limit):
    @jax.custom_vjp
    def limited(p):
        return p

    limited.defvjp(lambda p: (p, None), lambda _, d: (limit(d, -1, 1),))
    of_cell = case(simple(lambda p, h, z: jnp.tanh(z + limited(p))), params=lambda r, hidden: r.randn(hidden))
    assert "cannot wait for the end of the loop" in reason(of_cell)


@pytest.mark.parametrize(
    ("function", "of_units", "sums"),
    [
        (lambda p, h, z: h + jax.nn.sigmoid(p) * (jnp.tanh(z) - h), True, 1),
        (lambda p, h, z: jnp.exp(p) * h + (1 - jnp.exp(p)) * jnp.tanh(z), True, 2),  # of two exponentials
        (lambda p, h, z: jnp.tanh(p * h - z * p) + p, True, 1),
        (lambda p, h, z: jnp.tanh(p * h - z * p), False, 1),
        (lambda p, h, z: jnp.tanh(p * h - p * z.mean(-1, keepdims=True)), False, 2),  # a number for each row
        (lambda p, h, z: jnp.tanh(p * h) + jnp.exp(p) * z, True, 2),  # their factors differ from unit to unit
    ],
)
def test_gradients_from_all_uses_of_a_parameter_are_added_within_the_loop(function, of_units, sums):
    """A difference of two sums over many steps has fewer correct digits."""
    of_cell = case(simple(function), params=lambda r, hidden: r.randn(*((hidden,) if of_units else ())))
    assert program(of_cell).sums == sums
    assert_equal_to_jax(of_cell)


def test_batch_axes_and_an_output_of_its_own():
    def pointwise(params, h, xw, rh):
        h = jnp.tanh(xw[0] + rh[0] - xw[0].mean(-1, keepdims=True))
        return h, 2 * h

    assert program(case(pointwise), batch=(2, 3)).carry_slots == (0,)
    assert program(case(pointwise), batch=()).carry_slots == (0,)
    over_rows = case(simple(lambda p, h, z: z - z.mean(1, keepdims=True)))
    assert "a sum over a part of the batch" in reason(over_rows, batch=(2, 3))


def test_the_same_cell_is_translated_once():
    of_cell = USERS[0]
    assert program(of_cell) is program(of_cell)
    assert program(of_cell) is not program(of_cell, dtype=jnp.float32)
