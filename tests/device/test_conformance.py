"""On an accelerator, every implementation that runs there agrees with a Python loop in float64 on the CPU.

This is where the kernels meet a real device: tests/ops has all setups in float64, with kernels interpreted.
Products are asked for in full float32, since by default a GPU multiplies in TF32 and a TPU in bfloat16.
"""

from typing import Any

import jax
import numpy as np
import pytest

from jaxrnn.ops import IMPLEMENTATIONS, recurrence
from jaxrnn.ops.step import Recurrence
from tests.ops.oracle import CASES, HALF_PRECISION, assert_close, cast, loop_and_gradients, problem

DTYPES = {"float32": (1e-5, 1e-4), "bfloat16": HALF_PRECISION["bfloat16", "bfloat16"]}
"""The tolerance of results and of gradients."""

TIME, BATCH, HIDDEN = 5, 4, 3
STEPS = np.arange(TIME)
MASKS = {
    "unmasked": {},
    "masked": {
        "seq_lengths": np.array([0, 5, 3, 1]),
        "resets": np.stack([STEPS == 0, STEPS == 4, STEPS >= 0, STEPS % 2 == 1], axis=1),
    },
}


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_and_gradients_are_near_a_float64_loop(case, implementation, dtype, masks, accelerator):
    arguments, cotangents = cast(problem(case, TIME, (BATCH,), HIDDEN), dtype)
    reason = IMPLEMENTATIONS[implementation].unable(case.pointwise, Recurrence(**arguments), accelerator.platform)
    if reason is not None:
        pytest.skip(reason)

    @jax.jit
    def run(arguments: Any, cotangents: Any) -> Any:
        results, pullback = jax.vjp(
            lambda a: recurrence(case.pointwise, **a, **masks, implementation=implementation), arguments
        )
        return results, pullback(cotangents)[0]

    with jax.default_matmul_precision("highest"):
        results, gradients = run(arguments, cotangents)
    assert {leaf.devices().pop() for leaf in jax.tree.leaves((results, gradients))} == {accelerator}

    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (arguments, cotangents))
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        expected = loop_and_gradients(case, *wide, **masks)
    for found, right, tolerance in zip((results, gradients), expected, DTYPES[dtype], strict=True):
        assert_close(found, right, tolerance)
