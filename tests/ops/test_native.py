"""The C++ library at sizes where it has threads, panels, blocks and tails to get wrong, against the scan.

The conformance suite holds it against a Python loop, at sizes of a few units and steps.
"""

import functools
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.sharding import AxisType, Mesh

from jaxrnn.ops import (
    LSTMCarry,
    Projection,
    explain,
    gru_pointwise,
    gru_reset_before_pointwise,
    leaky_pointwise,
    lstm_pointwise,
    recurrence,
    simple_rnn_pointwise,
)
from jaxrnn.ops.native import library
from tests.ops.oracle import assert_close

TANH = simple_rnn_pointwise(jnp.tanh)
CELLS = {
    "simple_rnn": (TANH, 1),
    "lstm": (lstm_pointwise, 4),
    "gru": (gru_pointwise, 3),
    "gru_reset_before": (gru_reset_before_pointwise, 3),
    "leaky": (leaky_pointwise, 1),
}

needs_library = pytest.mark.skipif(library.why_not_loaded() is not None, reason=str(library.why_not_loaded()))

# batch, time, in_features, hidden
SHAPES = {
    "rows_apart": (70, 9, 5, 37),
    "units_apart": (3, 11, 7, 300),
    "units_apart_odd": (1, 6, 2, 515),
    "one_thread": (2, 40, 3, 17),
    "one_unit": (5, 4, 1, 1),
    "many_chunks": (1, 700, 4, 20),
    "wide_batch": (600, 3, 17, 64),
    "sections": (49, 4, 3, 260),
}


def arguments(cell: str, shape: tuple[int, ...], dtype: Any, masks: bool, seed: int = 0) -> dict[str, Any]:
    batch, time, in_features, hidden = shape
    gates = CELLS[cell][1]
    random = np.random.RandomState(seed)

    def array(*sizes: int, scale: float = 1.0) -> jax.Array:
        return jnp.asarray(scale * random.randn(*sizes), dtype)

    def carry() -> Any:
        h = array(batch, hidden)
        return LSTMCarry(array(batch, hidden), h) if cell == "lstm" else h

    width = gates * hidden
    own = {"leaky": array(hidden), "gru_reset_before": array(hidden, hidden, scale=hidden**-0.5)}
    found: dict[str, Any] = {
        "recurrent_kernel": array(hidden, 2 * hidden if cell == "gru_reset_before" else width, scale=hidden**-0.5),
        "xw": Projection(array(time, batch, in_features), array(in_features, width), array(width)),
        "initial_carry": carry(),
        "recurrent_bias": array(width) if cell == "gru" else None,
        "params": own.get(cell),
    }
    if masks:
        found |= {
            "recurrent_scale": array(batch, hidden),
            "seq_lengths": jnp.asarray(random.randint(0, time + 1, batch)),
            "resets": jnp.asarray(random.rand(time, batch) < 0.2),
            "reset_carry": carry(),
        }
    return found


def split(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments that have gradients, and those that have none."""
    fixed = {k: v for k, v in given.items() if k in ("recurrent_scale", "seq_lengths", "resets")}
    return {k: v for k, v in given.items() if k not in fixed}, fixed


def results_and_gradients(cell: str, given: dict[str, Any], implementation: str, reverse: bool):
    smooth, fixed = split(given)

    @jax.jit
    def run(smooth):
        def forward(smooth):
            return recurrence(CELLS[cell][0], **smooth, **fixed, reverse=reverse, implementation=implementation)

        results, pullback = jax.vjp(forward, smooth)
        return results, pullback(jax.tree.map(lambda a: jnp.cos(a * 3), results))[0]

    return run(smooth)


@needs_library
@pytest.mark.parametrize("masks", [False, True], ids=["plain", "masks"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", CELLS)
def test_every_way_of_dividing_the_work_equals_the_scan(cell, shape, masks):
    with jax.enable_x64(True):
        given = arguments(cell, SHAPES[shape], jnp.float64, masks)
        found = results_and_gradients(cell, given, "native", masks)
        assert_close(found, results_and_gradients(cell, given, "scan", masks))


@needs_library
@pytest.mark.parametrize("cell", CELLS)
def test_float32_is_as_near_to_float64_as_the_scan_is(cell):
    given = arguments(cell, (33, 20, 6, 50), jnp.float32, masks=True)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, given)
        exact = jax.tree.map(np.asarray, results_and_gradients(cell, wide, "scan", False))

    def error(implementation: str) -> float:
        found = results_and_gradients(cell, given, implementation, False)
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
        return max(np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max() for a, b in pairs)

    assert error("native") < max(2 * error("scan"), 1e-6)


@needs_library
def test_arrays_with_the_batch_first_in_memory_give_the_same():
    given = arguments("gru", (6, 15, 4, 20), jnp.float32, masks=False)
    xw = given["xw"]
    hinted = given | {"xw": Projection(xw.inputs, xw.kernel, xw.bias, batch_major=True)}
    plain = results_and_gradients("gru", given, "native", False)
    found = results_and_gradients("gru", hinted, "native", False)
    assert_close(jax.tree.leaves(found), jax.tree.leaves(plain), 1e-6)


@needs_library
def test_tanh_keeps_the_digits_of_small_numbers_saturates_and_passes_nan_on():
    with jax.enable_x64(True):
        for dtype, tolerance in ((jnp.float32, 5e-7), (jnp.float64, 1e-15)):
            x = np.concatenate([np.geomspace(1e-30, 100, 4000), [0.0, np.inf]]).astype(dtype)
            x = np.concatenate([x, -x])
            carry, _ = recurrence(
                TANH, jnp.zeros((1, 1), dtype), jnp.asarray(x)[None, :, None], jnp.zeros((len(x), 1), dtype)
            )
            found = np.asarray(carry[:, 0], np.float64)
            np.testing.assert_allclose(found, np.tanh(x.astype(np.float64)), rtol=tolerance)
            assert np.abs(found).max() == 1
            missing = jnp.full((1, 1, 1), jnp.nan, dtype)
            assert jnp.isnan(
                recurrence(TANH, jnp.zeros((1, 1), dtype), missing, jnp.zeros((1, 1), dtype))[0]
            ).all()


@needs_library
def test_sigmoid_keeps_the_digits_of_small_values_saturates_and_passes_every_nan_on():
    def found(x):
        sigmoid, first = simple_rnn_pointwise(jax.nn.sigmoid), jnp.zeros((x.size, 1))
        xw = jnp.asarray(x)[None, :, None]
        return np.asarray(recurrence(sigmoid, jnp.zeros((1, 1)), xw, first, implementation="native")[0][:, 0])

    x = np.concatenate([np.linspace(-80, 100, 4000), [np.inf]]).astype(np.float32)
    np.testing.assert_allclose(found(x), scipy.special.expit(x.astype(np.float64)), rtol=5e-6)
    assert 0 <= found(np.array([-np.inf, -1e30], np.float32)).max() < 1e-34
    assert np.isnan(found(np.array([0x7FC00000, 0x7FC00001, 0xFFC12345], np.uint32).view(np.float32))).all()


@needs_library
@pytest.mark.parametrize("instructions", ["avx2", "base"])
def test_older_processors_compute_the_same(instructions):
    if instructions not in library.instruction_sets():
        pytest.skip(f"the library was compiled for {library.instruction_sets()} only")
    environment = os.environ | {"JAXRNN_INSTRUCTION_SET": instructions, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    code = (
        "import jax, jax.numpy as jnp\n"
        "from jaxrnn.ops.native import library\n"
        f"assert library.instruction_set() in ({instructions!r}, 'base'), library.instruction_set()\n"
        "import tests.ops.test_native as t\n"
        "for cell in t.CELLS:\n"
        "    t.test_every_way_of_dividing_the_work_equals_the_scan(cell, 'rows_apart', True)\n"
        "    t.test_float32_is_as_near_to_float64_as_the_scan_is(cell)\n"
        "t.test_tanh_keeps_the_digits_of_small_numbers_saturates_and_passes_nan_on()\n"
        "t.test_sigmoid_keeps_the_digits_of_small_values_saturates_and_passes_every_nan_on()\n"
        "import tests.ops.test_native_programs as p\n"
        "for cell in ('layer_norm', 'minimal_gated_unit'):\n"
        "    p.test_every_way_of_dividing_the_work_equals_the_scan(cell, 'rows_apart', True)\n"
        "for function in p.FUNCTIONS:\n"
        "    p.test_functions_are_exact_to_the_last_places_also_at_infinity_and_nan(*function)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_library
def test_threads_that_call_it_at_once_do_not_disturb_each_other():
    given = arguments("lstm", (64, 12, 8, 64), jnp.float32, masks=False)
    expected = results_and_gradients("lstm", given, "native", False)

    @jax.jit
    def both(smooth):
        # Two calls that do not depend on each other: XLA may run them at the same time.
        one = recurrence(lstm_pointwise, **smooth, implementation="native")
        two = recurrence(lstm_pointwise, **smooth, reverse=True, implementation="native")
        return one, two

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        for one, _ in pool.map(lambda _: both(given), range(20)):
            assert_close(one, expected[0], 1e-6)


def reason(platform: str = "cpu", pointwise: Any = TANH, dtype: Any = jnp.float32, **changes: Any) -> str:
    given: dict[str, Any] = {
        "recurrent_kernel": jax.ShapeDtypeStruct((3, 3), dtype),
        "xw": jax.ShapeDtypeStruct((4, 2, 3), dtype),
        "initial_carry": jax.ShapeDtypeStruct((2, 3), dtype),
    }
    return explain(pointwise, **given | changes, platform=platform).reasons.get("native", "")


def test_it_says_why_it_cannot_run():
    assert "it runs on a cpu, not on a gpu" in reason("gpu")
    narrow = jax.ShapeDtypeStruct((2, 3), jnp.float8_e4m3fn)
    assert "there is float32 and float8_e4m3fn" in reason(initial_carry=narrow)
    with pytest.raises(ValueError, match=r"implementation='native' cannot run this: .*and float8_e4m3fn"):
        h = jnp.zeros((2, 3), jnp.float8_e4m3fn)
        recurrence(TANH, jnp.eye(3), jnp.ones((4, 2, 3)), h, implementation="native")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_float32_rounded_at_the_end(dtype):
    random = np.random.default_rng(0)
    kernel, xw, h, weights = (random.normal(size=s) for s in ((5, 5), (40, 3, 5), (3, 5), (40, 3, 5)))
    narrow = [jnp.asarray(a, dtype) for a in (kernel, xw, h)]
    wide = [a.astype(jnp.float32) for a in narrow]

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
    def run(kernel, xw, h):
        results = recurrence(TANH, kernel, xw, h, implementation="native")
        return (results[1].astype(jnp.float32) * weights).sum(), results

    (_, results), gradients = run(*narrow)
    # A cotangent is rounded to the dtype of the outputs.
    weights = jnp.asarray(weights, dtype).astype(jnp.float32)
    (_, expected), expected_gradients = run(*wide)
    for found, like in zip(jax.tree.leaves((results, gradients)), jax.tree.leaves((expected, expected_gradients))):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, like.astype(dtype))


def test_an_explicit_mesh_is_left_to_the_scan():
    mesh = Mesh(np.array(jax.devices("cpu")[:1]), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        assert "explicit mesh" in reason()


@needs_library
@pytest.mark.parametrize("cell", ["gru_reset_before", "leaky"])
def test_an_infinite_carry_stays_infinite_as_on_the_scan(cell):
    given = arguments(cell, (4, 1, 3, 5), jnp.float32, masks=False)
    given["recurrent_kernel"] = jnp.abs(given["recurrent_kernel"])  # so that no infinities cancel
    if cell == "gru_reset_before":
        given["params"] = jnp.abs(given["params"])
    given["initial_carry"] = given["initial_carry"].at[1, 2].set(jnp.inf)
    native, scan = (
        recurrence(CELLS[cell][0], **given, implementation=implementation)[0]
        for implementation in ("native", "scan")
    )
    assert jnp.isinf(scan[1, 2])
    np.testing.assert_allclose(np.asarray(native), np.asarray(scan), rtol=1e-5, atol=1e-6)


OUT_OF_MEMORY = """
import resource
import jax, jax.numpy as jnp, numpy as np
from jaxrnn.ops import recurrence, simple_rnn_pointwise

def run(kernel):
    xw, h = jnp.ones((2, 1, len(kernel))), jnp.zeros((1, len(kernel)))
    return recurrence(simple_rnn_pointwise(jnp.tanh), kernel, xw, h, implementation="native")[1]

large, small = jnp.zeros((4096, 4096)), jnp.zeros((64, 64))
run_large, run_small = (jax.jit(run).lower(kernel).compile() for kernel in (large, small))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 20), limits[1]))
try:
    run_large(large).block_until_ready()
except jax.errors.JaxRuntimeError as error:
    assert "no memory for a recurrence" in str(error), error
else:
    raise AssertionError("there was memory")
run_small(small).block_until_ready()
resource.setrlimit(resource.RLIMIT_AS, limits)
run_large(large).block_until_ready()
"""


@needs_library
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process limit its memory like this")
def test_a_failed_allocation_does_not_harm_later_calls():
    done = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
