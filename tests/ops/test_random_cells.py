"""Cells of random equations: the C++ library and the scan compute what plain autodiff of the loop computes.

To draw other cells than those of every run::

    JAXRNN_RANDOM_CELLS=1000:1200 pytest tests/ops/test_random_cells.py
"""

import os

import jax
import numpy as np
import pytest

from jaxrnn.ops import recurrence
from jaxrnn.ops.native import library
from tests.ops.oracle import assert_close, loop_and_gradients, problem
from tests.ops.programs import random_case

FIRST, LAST = map(int, os.environ.get("JAXRNN_RANDOM_CELLS", "100:108").split(":"))
TIME, ROWS = 5, 3


@pytest.mark.parametrize("seed", range(FIRST, LAST))
def test_a_random_cell_equals_plain_autodiff(seed):
    case = random_case(seed)
    random = np.random.default_rng(seed)
    options = {"reverse": seed % 3 == 0}
    if seed % 2:
        masks = {"seq_lengths": random.integers(0, TIME + 1, ROWS), "resets": random.random((TIME, ROWS)) < 0.3}
        options.update(masks)
    with jax.enable_x64(True):
        arguments, cotangents = problem(case, TIME, (ROWS,), hidden=5, seed=seed)
        expected = loop_and_gradients(case, arguments, cotangents, **options)
        for implementation in ("scan", "native"):
            if implementation == "native" and library.why_not_loaded() is not None:
                continue

            @jax.jit
            def run(arguments, cotangents, implementation=implementation):
                def results(arguments):
                    return recurrence(case.pointwise, **arguments, **options, implementation=implementation)

                found, pullback = jax.vjp(results, arguments)
                return found, pullback(cotangents)[0]

            assert_close(run(arguments, cotangents), expected)
