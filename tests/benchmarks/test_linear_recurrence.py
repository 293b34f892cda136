"""The loops that the linear recurrence is timed beside compute the same."""

import numpy as np

from benchmarks.linear_recurrence import LOOPS, problem, states_and_gradients
from jaxrnn.ops import linear_recurrence


def test_all_contestants_compute_the_same():
    arrays = problem("complex64", (9, 2, 3))
    found = [states_and_gradients(states)(*arrays) for states in (linear_recurrence, *LOOPS.values())]
    for others in found[1:]:
        for ours, theirs in zip(found[0], others, strict=True):
            np.testing.assert_allclose(theirs, ours, atol=1e-5)
