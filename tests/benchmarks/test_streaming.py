"""One step at a time: every library's cell takes the same steps."""

import numpy as np
import pytest

from benchmarks.libraries import LIBRARIES
from benchmarks.libraries.ours import CELLS, OURS, PLAIN
from benchmarks.streaming import check, contestants, measure


@pytest.mark.parametrize("cell", CELLS)
def test_contestants_agree(cell):
    found = contestants(cell, 3, 5)
    assert {OURS, PLAIN, LIBRARIES["linen"].label} <= set(found)
    check(found, cell)


def test_a_contestant_that_does_not_is_named():
    found = contestants("simple_rnn", 1, 4)
    found["wrong"] = lambda number: np.ones((1, 4))
    with pytest.raises(ValueError, match=r"wrong is not like jaxrnn.*outputs differ"):
        check(found, "simple_rnn")


def test_measure_answers_with_seconds_a_step():
    timing = measure("gru", 2, 4, steps=3, repetitions=1, synchronous=False)[OURS]
    assert len(timing.calls) == 1 and all(seconds > 0 for seconds in timing.calls[0])
