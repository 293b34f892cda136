"""On a GPU, each kernel at the sizes that it is made for, against the scan in float64 on the same device.

tests/device/test_conformance.py has every setup at a tiny size, which one streaming multiprocessor (SM) always
holds. Here the weights take all of its memory, or that of a cluster of SMs, and there are enough steps and tiles
for blocks to get out of step. Every kernel runs three times: all bits of the results must be the same, since a
difference would be a race.
"""

import dataclasses
import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.ops.pallas import not_a_tile
from jaxrnn.ops.pallas.recurrence import pallas_recurrence
from jaxrnn.ops.scan import scan_recurrence
from jaxrnn.ops.step import Recurrence
from tests.ops.oracle import CASES, Case, assert_close, cast, problem

TIME, BATCH = 96, 40
TOLERANCES = {"float32": 1e-2, "bfloat16": 4e-2}
"""Of results and gradients. Products of float32 are of TF32, with 10 bits of mantissa."""

CELLS = {case.name: case for case in CASES if case.name in ("tanh", "leaky", "minimal_gated_unit", "lstm", "gru")}
SIZES = {
    "mosaic_gpu_sm": (40, 100, 128, 256),
    "triton": (64, 100, 128, 256),
    "mosaic_gpu": (128, 256, 300, 512, 1024),
}
WITH_HEADS = {"mosaic_gpu_sm": ((12, 64), (3, 100), (4, 128)), "triton": ((12, 64), (3, 100), (4, 128))}
"""Heads and the units of each."""


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(("backend", "hidden"), [(b, h) for b, sizes in SIZES.items() for h in sizes])
def test_results_and_gradients_are_near_the_scan_in_float64(backend, hidden, name, dtype, accelerator):
    case = CELLS[name]
    case = dataclasses.replace(case, params=lambda random, hidden: random.randn(hidden) if name == "leaky" else ())
    arguments, cotangents = problem(case, TIME, (BATCH,), hidden)
    # Half the orthogonal kernel's size, so that rounding errors shrink from step to step.
    arguments["recurrent_kernel"] /= np.sqrt(hidden)
    assert_near_the_scan(backend, case, cast((arguments, cotangents), dtype), dtype, accelerator)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", ["lstm", "slstm", "gru", "leaky"])
@pytest.mark.parametrize(("backend", "heads"), [(b, h) for b, sizes in WITH_HEADS.items() for h in sizes])
def test_heads_are_near_the_scan_in_float64(backend, heads, name, dtype, accelerator):
    case = next(case for case in CASES if case.name == name)
    (heads, units), gates = heads, case.recurrent_gates or case.gates
    arguments, cotangents = problem(case, TIME, (BATCH,), heads * units)
    random = np.random.default_rng(1)
    arguments["recurrent_kernel"] = 0.5 * random.normal(size=(heads, units, gates * units)) / np.sqrt(units)
    arrays = cast((arguments, cotangents), dtype)
    if name == "slstm":
        # n, by which c is divided, counts steps: near zero it is no state. c, n and m have no cotangent of their
        # own, because their gradients depend on which of two nearly equal gates the stabiliser m follows.
        carry, (of_carry, of_outputs) = arguments["initial_carry"], cotangents
        arguments["initial_carry"] = carry._replace(n=1 + np.abs(carry.n))
        of_carry = jax.tree.map(np.zeros_like, of_carry)._replace(h=of_carry.h)
        arrays = cast((arguments, (of_carry, of_outputs)), dtype)
        # c, n and m stay in float32.
        wide = [cast(carry[:3], "float32") for carry in (arrays[0]["initial_carry"], arrays[1][0])]
        arrays[0]["initial_carry"] = arrays[0]["initial_carry"]._make((*wide[0], arrays[0]["initial_carry"].h))
        arrays = arrays[0], (arrays[1][0]._make((*wide[1], arrays[1][0].h)), arrays[1][1])
    assert_near_the_scan(backend, case, arrays, dtype, accelerator)


def assert_near_the_scan(backend: str, case: Case, arrays: Any, dtype: str, accelerator: Any) -> None:
    """Results and gradients of a kernel for ``(arguments, cotangents)``; a skip where it cannot run them."""
    if accelerator.platform != "gpu":
        pytest.skip("these are the kernels for GPUs")
    device = getattr(importlib.import_module(f"jaxrnn.ops.pallas.{backend}"), backend.upper())
    random = np.random.default_rng(0)
    lengths = random.integers(0, TIME + 1, BATCH)
    masks = {
        "valid": jnp.asarray(np.arange(TIME)[:, None] < lengths),
        "resets": jnp.asarray(random.random((TIME, BATCH)) < 0.05) & (np.arange(TIME)[:, None] < lengths),
    }
    shapes = Recurrence(**arrays[0])
    reason = device.unable(shapes) or not_a_tile(case.pointwise, shapes, device.lacks)
    if reason is not None:
        pytest.skip(reason)

    def gradients(recurrence: Any, arguments: Any, cotangents: Any) -> Any:
        def run(arguments):
            arrays = Recurrence(**arguments, **masks, reset_carry=arguments["initial_carry"])
            return recurrence(case.pointwise, arrays, reverse=False)

        results, pullback = jax.vjp(run, arguments)
        return results, pullback(cotangents)[0]

    kernel = jax.jit(functools.partial(gradients, functools.partial(pallas_recurrence, device)))
    runs = [jax.tree.map(np.asarray, kernel(*arrays)) for _ in range(3)]
    for again in runs[1:]:
        jax.tree.map(np.testing.assert_array_equal, again, runs[0])
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), arrays)
        expected = jax.jit(functools.partial(gradients, functools.partial(scan_recurrence, unroll=1)))(*wide)
    for found, right in zip(runs[0], expected, strict=True):
        assert_close(found, right, TOLERANCES[dtype])
