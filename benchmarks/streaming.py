"""Time one step of one cell at a time, as a controller or a live signal needs it: B = 1, H = 128.

    python -m benchmarks.streaming              # about three minutes
    python -m benchmarks.streaming --quick      # under a minute, to see that everything works

All contestants have the same float32 weights (their outputs after 16 steps are compared first), and inputs that
are an array of the library already; every step waits for its output. They are: ours by ``streaming_step``, in the
C++ library with NumPy arrays, and compiled by JAX (``implementation="jax"``); ours under a plain ``jax.jit``; the
cells of Flax, Haiku and Keras under ``jax.jit``; and PyTorch's cells in inference mode, on one thread.

Everything is measured twice: with ``jax_cpu_enable_async_dispatch`` off, which suits streaming on a CPU, and with
JAX's default, where another thread runs the program and the caller waits for it. Each cell and setting has a
process of its own, in which the contestants are interleaved (benchmarks/common/timing.py); every timed call makes
400 steps.

A ratio is a contestant's time divided by ours, pair by pair: above 1, ours is faster.
"""

import functools
import itertools
from dataclasses import dataclass

import jax
import numpy as np

from benchmarks.common import comparison
from benchmarks.common.command import Benchmark, Options, command
from benchmarks.common.process import Process
from benchmarks.common.report import progress
from benchmarks.common.rows import OURS, Row, groups
from benchmarks.common.timing import Timing, interleave
from benchmarks.libraries import STEPPERS, installed, ours
from benchmarks.libraries.base import Steps
from benchmarks.libraries.ours import CELLS

HIDDEN = 128
IN_FEATURES = (1, HIDDEN)
CHECKED_STEPS = 16
TOLERANCES = {"outputs": comparison.Tolerance(1e-5)}
DISPATCH = {"synchronous": True, "asynchronous, JAX's default": False}


@dataclass(frozen=True)
class StreamingOptions(Options):
    """How long to measure. ``--quick`` takes one width of inputs, and synchronous dispatch only."""

    steps: int = 400
    """Steps in every timed call."""


def run(options: StreamingOptions) -> None:
    calls, unit, heading = f"2 calls of {options.steps} steps", "Microseconds a step", "cell, in to hidden"
    made = Benchmark(options, "streaming", "One step at a time", __doc__, unit=unit, calls=calls, heading=heading)
    dispatches = list(DISPATCH)[:1] if options.quick else list(DISPATCH)
    widths = IN_FEATURES[-1:] if options.quick else IN_FEATURES
    cases = itertools.product(dispatches, CELLS, widths)
    for dispatch, cell, width in progress(cases):
        with Process() as process:
            sizes = cell, width, HIDDEN
            found = process.ask(measure, *sizes, options.steps, made.repetitions, synchronous=DISPATCH[dispatch])
        case = {"dispatch": dispatch, "cell": cell, "in_features": width}
        made.rows.append(Row(case, found, f"{cell}, {width} to {HIDDEN}"))
    for (dispatch,), group in groups(made.rows, "dispatch").items():
        made.tables(f"Dispatch {dispatch}", group)
    made.write(hidden=HIDDEN, steps=options.steps, absent=installed(STEPPERS)[1])


def contestants(cell: str, in_features: int, hidden: int) -> dict[str, Steps]:
    """Ours and every installed library that has the cell, by label, with the same weights and inputs."""
    first = ours.first_cell(cell, in_features, hidden)
    inputs = np.random.default_rng(0).normal(size=(1, in_features)).astype(np.float32)
    found = ours.steps(first, inputs)
    for library in STEPPERS.values():
        if cell in library.cells and library.missing() is None:
            found[library.label] = library.steps(cell, first, inputs)
    return found


def check(found: dict[str, Steps], where: str) -> None:
    """A ValueError if the output of a contestant after some steps from a zero carry is not ours."""
    outputs = {name: {"outputs": np.asarray(steps(CHECKED_STEPS))} for name, steps in found.items()}
    comparison.check(outputs, OURS, TOLERANCES, f"{where}, after {CHECKED_STEPS} steps")


def measure(
    cell: str, in_features: int, hidden: int, steps: int, repetitions: int, *, synchronous: bool
) -> dict[str, Timing]:
    """Seconds of one step by contestant, where every timed call makes so many ``steps``. With ``synchronous``, JAX
    runs programs in the caller's thread."""
    jax.config.update("jax_cpu_enable_async_dispatch", not synchronous)
    found = contestants(cell, in_features, hidden)
    check(found, f"{cell}, {in_features} to {hidden}")
    calls = {name: functools.partial(take, steps) for name, take in found.items()}
    return {name: timing.divided_by(steps) for name, timing in interleave(calls, repetitions).items()}


main = command(StreamingOptions, run, "streaming", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
