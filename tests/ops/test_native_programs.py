"""Programs in the C++ library at sizes where it has threads, panels, blocks and tails to get wrong.

The conformance suite holds users' cells against a Python loop, at sizes of a few units and steps.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxrnn.ops import Projection, dispatch, explain, recurrence
from jaxrnn.ops.native import build, call, encoding, library, program
from tests.ops.oracle import CASES, Case, assert_close
from tests.ops.programs import USERS

pytestmark = pytest.mark.skipif(library.why_not_loaded() is not None, reason=str(library.why_not_loaded()))

CELLS = {case.name: case for case in [*USERS, *CASES] if case.name in ("slstm", "layer_norm", "many_operations")}
CELLS |= {case.name: case for case in CASES if case.name in ("two_part", "minimal_gated_unit")}

# batch, time, in_features, hidden
SHAPES = {
    "rows_apart": (70, 9, 5, 37),
    "one_unit": (5, 4, 1, 1),
    "many_chunks": (1, 700, 4, 20),
    "wide": (33, 3, 17, 144),
    "units_apart": (3, 11, 7, 300),
    "one_panel": (7, 20, 1500, 8),  # so that one of two threads has no units
    "large_kernel": (3, 11, 300, 300),  # a few rows, whose x is computed for several steps at once
    "sections": (49, 4, 3, 260),  # two groups of rows, and more units than are computed at once
    # With a sum over units, threads divide the units of the products, and then the rows.
    "stages": (5, 11, 7, 300),
    "stages_large_kernel": (5, 11, 300, 500),
    "stages_of_groups": (100, 3, 3, 520),  # its weights fit no cache
}


def arguments(
    case: Case, shape: tuple[int, ...], dtype: Any, masks: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments that have gradients, and those that have none."""
    batch, time, in_features, hidden = shape
    random = np.random.RandomState(0)

    def array(*sizes: int, scale: float = 1.0) -> jax.Array:
        return jnp.asarray(scale * random.randn(*sizes), dtype)

    def part() -> jax.Array:
        return array(batch, hidden)

    width, recurrent = case.gates * hidden, (case.recurrent_gates or case.gates) * hidden
    smooth: dict[str, Any] = {
        "recurrent_kernel": array(hidden, recurrent, scale=0.5 * hidden**-0.5),
        "xw": Projection(array(time, batch, in_features), array(in_features, width, scale=0.5), array(width)),
        "initial_carry": case.carry(part),
        "recurrent_bias": array(recurrent) if case.recurrent_bias else None,
        "params": jax.tree.map(lambda p: jnp.asarray(p, dtype), case.params(random, hidden)),
    }
    if not masks:
        return smooth, {}
    fixed = {
        "recurrent_scale": array(batch, hidden),
        "seq_lengths": jnp.asarray(random.randint(0, time + 1, batch)),
        "resets": jnp.asarray(random.rand(time, batch) < 0.2),
    }
    return smooth | {"reset_carry": case.carry(part)}, fixed


def results_and_gradients(case: Case, smooth: Any, fixed: Any, implementation: str, reverse: bool) -> Any:
    @jax.jit
    def run(smooth):
        def forward(smooth):
            return recurrence(case.pointwise, **smooth, **fixed, reverse=reverse, implementation=implementation)

        results, pullback = jax.vjp(forward, smooth)
        return results, pullback(jax.tree.map(lambda a: jnp.cos(a * 3), results))[0]

    return run(smooth)


@pytest.mark.parametrize(
    ("cell", "shape", "masks"),
    [
        ("slstm", "rows_apart", True),
        ("slstm", "wide", False),
        ("layer_norm", "rows_apart", True),
        ("layer_norm", "many_chunks", False),
        ("two_part", "rows_apart", True),
        ("two_part", "one_unit", True),
        ("minimal_gated_unit", "rows_apart", False),
        ("minimal_gated_unit", "many_chunks", True),
        ("many_operations", "rows_apart", True),
        ("many_operations", "wide", False),
        ("many_operations", "units_apart", True),
        ("two_part", "units_apart", False),
        ("slstm", "one_panel", True),
        ("layer_norm", "one_panel", False),
        ("slstm", "large_kernel", True),
        ("minimal_gated_unit", "large_kernel", False),
        ("minimal_gated_unit", "sections", True),
        ("slstm", "sections", False),
        ("layer_norm", "stages", True),
        ("layer_norm", "stages_large_kernel", True),
        ("layer_norm", "stages_of_groups", True),
    ],
)
def test_every_way_of_dividing_the_work_equals_the_scan(cell, shape, masks):
    with jax.enable_x64(True):
        smooth, fixed = arguments(CELLS[cell], SHAPES[shape], jnp.float64, masks)
        found = results_and_gradients(CELLS[cell], smooth, fixed, "native", masks)
        assert_close(found, results_and_gradients(CELLS[cell], smooth, fixed, "scan", masks))


@pytest.mark.parametrize("cell", ["slstm", "minimal_gated_unit"])
def test_float32_is_as_near_to_float64_as_the_scan_is(cell):
    smooth, fixed = arguments(CELLS[cell], (33, 20, 6, 50), jnp.float32, masks=True)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, (smooth, fixed))
        exact = jax.tree.map(np.asarray, results_and_gradients(CELLS[cell], wide[0], wide[1], "scan", False))

    def error(implementation: str) -> float:
        found = results_and_gradients(CELLS[cell], smooth, fixed, implementation, False)
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
        return max(np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max() for a, b in pairs)

    assert error("native") < max(4 * error("scan"), 1e-6)  # it adds up products in another order


@pytest.mark.parametrize("shape", [(130, 40, 3, 50), SHAPES["stages"]])
def test_the_bits_do_not_depend_on_the_number_of_threads(shape, monkeypatch):
    # Within jit a call like an earlier one takes over its program, and that one's number of threads.
    monkeypatch.setattr(dispatch, "_run", getattr(dispatch._run, "__wrapped__"))  # noqa: B009
    smooth, fixed = arguments(CELLS["layer_norm"], shape, jnp.float32, masks=True)
    found = []
    for threads in (1, 2):
        monkeypatch.setattr(call, "MOST_THREADS", threads)
        results = results_and_gradients(CELLS["layer_norm"], smooth, fixed, "native", True)
        found.append([np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(results)])
    assert found[0] == found[1]


def apply(function: Any, *arrays: Any, dtype: Any) -> np.ndarray:
    """A function as the library computes it, of all numbers at once: one step of a cell that adds nothing."""
    rows = len(arrays[0])
    blocks = [jnp.asarray(a, dtype).reshape(1, rows, 1) for a in arrays]

    def pointwise(params, h, xw, rh):
        return h, function(*xw)

    kernel, h = jnp.zeros((1, 1), dtype), jnp.zeros((rows, 1), dtype)
    _, y = recurrence(pointwise, kernel, jnp.concatenate(blocks, -1), h, implementation="native")
    return np.asarray(y[0, :, 0])


def units_in_the_last_place(found: np.ndarray, exact: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        rounded = exact.astype(found.dtype)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(rounded))
        same = (found == rounded) | np.isnan(rounded)
        spacing = np.spacing(np.abs(rounded)).astype(exact.dtype)
        return float(np.where(same, 0, np.abs(found.astype(exact.dtype) - exact) / spacing).max())


FUNCTIONS = [
    ("exp", jnp.exp, np.exp),
    ("log", jnp.log, np.log),
    ("log1p", jnp.log1p, np.log1p),
    ("expm1", jnp.expm1, np.expm1),
    ("tanh", jnp.tanh, np.tanh),
    ("sigmoid", jax.nn.sigmoid, scipy.special.expit),
    ("rsqrt", jax.lax.rsqrt, lambda x: 1 / np.sqrt(x)),
]


@pytest.mark.parametrize(("name", "in_jax", "exact"), FUNCTIONS)
def test_functions_are_exact_to_the_last_places_also_at_infinity_and_nan(name, in_jax, exact):
    with jax.enable_x64(True):
        for dtype, wider, limit in ((jnp.float32, np.float64, 2.5), (jnp.float64, np.longdouble, 4)):
            tiny = np.finfo(dtype).tiny
            x = np.concatenate([np.geomspace(tiny / 1000, 2000, 4001), np.geomspace(0.01, 90, 4001)])
            x = np.concatenate([x, -x, [0, np.inf, -np.inf, np.nan, 1, -1, 88.8, -104, 709.9, -745]]).astype(dtype)
            found = apply(in_jax, x, dtype=dtype)
            with np.errstate(all="ignore"):
                of_function = exact(x.astype(wider)) if name != "sigmoid" else 1 / (1 + np.exp(-x.astype(wider)))
            # XLA may round numbers below the smallest normal one to zero before the library sees them.
            normal = (np.abs(x) >= tiny) | ~(np.abs(x) > 0)
            normal &= ~(np.abs(of_function) < tiny) | (of_function == 0)
            assert units_in_the_last_place(found[normal], of_function[normal]) <= limit


def test_the_larger_of_two_is_nan_if_one_is_and_comparisons_are_false():
    values = np.array([-np.inf, -1, 0, 2, np.inf, np.nan], np.float32)
    a, b = (m.ravel() for m in np.meshgrid(values, values))
    for in_jax, expected in (
        (jnp.maximum, np.maximum),
        (jnp.minimum, np.minimum),
        (
            lambda a, b: jnp.where(a >= b, 1.0, -1.0) * jnp.isfinite(a),
            lambda a, b: np.where(a >= b, 1, -1) * np.isfinite(a),
        ),
        (lambda a, b: jnp.where((a != b) & ~(a < 0), b, a), lambda a, b: np.where((a != b) & ~(a < 0), b, a)),
        (lambda a, b: jnp.sign(a) * jnp.round(b), lambda a, b: np.sign(a) * np.round(b)),
    ):
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(apply(in_jax, a, b, dtype=jnp.float32), expected(a, b))


def test_python_and_the_library_have_the_same_tables():
    def source(name: str) -> str:
        return re.sub(r"//.*", "", (build.SOURCES / name).read_text())

    def enumerators(name: str, file: str) -> list[str]:
        (body,) = re.findall(rf"enum (?:class )?{name}\b[^{{]*{{(.*?)}}", source(file), re.DOTALL)
        words = [part.strip().removeprefix("k") for part in body.split(",")]
        return [re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word).lower() for word in words]

    operations = re.findall(r"^ *X\((\w+),", source("program.h"), re.MULTILINE)
    assert tuple(operations + enumerators("Reduction", "program.h")) == encoding.OPERATIONS
    places = [name.replace("_", "") for name in enumerators("Place", "program_problem.h")]
    assert places == [name.replace("_", "") for name in encoding.PLACES]
    assert enumerators("Sizes", "program_problem.h") == list(encoding.SIZES)
    results = [name.replace("dinputs", "dx").replace("_", "") for name in program.BackwardResults._fields]
    in_library = [name.replace("_", "") for name in enumerators("BackwardResults", "program_library.cpp")]
    assert [name.removeprefix("out") for name in in_library] == [*results, "dcarry"]
    assert f"kMostGates = {encoding.MOST_GATES};" in source("program_problem.h")


def reason(pointwise: Any, dtype: Any = jnp.float32, params: Any = (), gates: int = 1) -> str:
    h, xw, kernel = (jax.ShapeDtypeStruct(s, dtype) for s in [(2, 3), (4, 2, 3 * gates), (3, 3 * gates)])
    return explain(pointwise, kernel, xw, h, params=params, platform="cpu").reasons.get("native", "")


def test_explain_names_what_keeps_a_cell_on_the_scan():
    def product(params, h, xw, rh):
        h = jnp.tanh(xw[0] + rh[0] + h @ params)
        return h, h

    def simple(params, h, xw, rh):
        return h, xw[0] + rh[0]

    assert reason(simple) == ""
    square = jax.ShapeDtypeStruct((3, 3), jnp.float32)
    assert "have dot_general (a matrix product)" in reason(product, params=square)
    assert reason(simple, jnp.bfloat16) == ""
    assert "its parameters include int32" in reason(simple, params=jax.ShapeDtypeStruct((3,), jnp.int32))
    assert "up to 32 gates" in reason(simple, gates=33)
    with pytest.raises(ValueError, match=r"implementation='native' cannot run this: .*dot_general"):
        h = jnp.zeros((2, 3))
        recurrence(product, jnp.eye(3), jnp.ones((4, 2, 3)), h, params=jnp.eye(3), implementation="native")


def test_numbers_as_parameters():
    def pointwise(params, h, xw, rh):
        h = jnp.tanh(xw[0] + params["gain"] * rh[0])
        return h, h

    h, xw, kernel = jnp.zeros((2, 3)), jnp.ones((4, 2, 3)), jnp.eye(3)
    found = recurrence(pointwise, kernel, xw, h, params={"gain": 0.5}, implementation="native")
    assert_close(found, recurrence(pointwise, kernel, xw, h, params={"gain": 0.5}, implementation="scan"), 1e-6)
