"""One step at a time: every library's cell takes the same steps."""

import numpy as np
import pytest

from benchmarks.cells import CELLS
from benchmarks.steps import LABELS, OURS, PLAIN, check, contestants, measure
from benchmarks.streaming import Row, ratio_table, time_table
from benchmarks.timing import Timing

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("cell", CELLS)
def test_contestants_agree(cell):
    found = contestants(cell, 3, 5)
    assert {OURS, PLAIN, LABELS["linen"]} <= set(found)
    check(found, cell)


def test_a_contestant_that_does_not_is_named():
    found = contestants("simple_rnn", 1, 4)
    found["wrong"] = lambda number: np.ones((1, 4))
    with pytest.raises(ValueError, match="outputs of wrong"):
        check(found, "simple_rnn")


def test_measure_answers_with_seconds_a_step():
    request = {"cell": "gru", "in_features": 2, "hidden": 4, "repetitions": 1, "steps": 3, "synchronous": False}
    found = measure(request)
    assert len(found[OURS]["calls_s"]) == 1 and all(seconds > 0 for seconds in found[OURS]["calls_s"][0])


def test_tables():
    timings = {OURS: Timing(0, ((1e-5, 1e-5),)), "PyTorch": Timing(0, ((2e-5, 3e-5),))}
    rows = [Row("synchronous", "gru", 1, timings)]
    assert time_table(rows, brief=True).rows == [["gru, 1 to 128", "**10.0**", "25.0"]]
    assert ratio_table(rows, brief=True).rows == [["gru, 1 to 128", "2.50"]]
