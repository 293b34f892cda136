"""One cell, one step at a time, in every library: benchmarks.streaming runs this in a process for each case."""

from typing import Any

import jax
import numpy as np

from benchmarks.common import comparison
from benchmarks.common.process import answer
from benchmarks.common.rows import OURS
from benchmarks.common.timing import interleave, seconds_of
from benchmarks.libraries import STEPPERS, ours
from benchmarks.libraries.base import Steps

CHECKED_STEPS = 16
TOLERANCES = {"outputs": comparison.Tolerance(1e-5)}


def contestants(cell: str, in_features: int, hidden: int) -> dict[str, Steps]:
    """Ours and every installed library that has the cell, by label, with the same weights and inputs."""
    weights = ours.first_weights(cell, in_features, hidden)
    inputs = np.random.default_rng(0).normal(size=(1, in_features)).astype(np.float32)
    found = ours.steps(cell, weights, inputs)
    for library in STEPPERS.values():
        if cell in library.cells and library.missing() is None:
            assert library.steps is not None
            found[library.label] = library.steps(library.cells[cell], weights, inputs)
    return found


def check(found: dict[str, Steps], where: str) -> None:
    """A ValueError if the output of a contestant after some steps from a zero carry is not ours."""
    outputs = {name: {"outputs": np.asarray(steps(CHECKED_STEPS))} for name, steps in found.items()}
    comparison.check(outputs, OURS, TOLERANCES, f"{where}, after {CHECKED_STEPS} steps")


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds of one step: ``{contestant: Timing.as_json()}``.

    Args:
      request: cell, in_features, hidden, repetitions, steps (in every timed call) and synchronous: whether JAX
        runs programs in the caller's thread.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", not request["synchronous"])
    found = contestants(request["cell"], request["in_features"], request["hidden"])
    check(found, f"{request['cell']}, {request['in_features']} to {request['hidden']}")
    number = request["steps"]
    calls = {name: lambda steps=steps: steps(number) for name, steps in found.items()}
    first = {name: seconds_of(call) for name, call in calls.items()}
    timings = interleave(calls, request["repetitions"], first_calls=first)
    return {name: timing.divided_by(number).as_json() for name, timing in timings.items()}


if __name__ == "__main__":
    answer(measure)
