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

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from benchmarks.common import comparison
from benchmarks.common.command import Options, command
from benchmarks.common.process import Process
from benchmarks.common.report import Report, medians, progress
from benchmarks.common.rows import OURS, Row, groups, ratio_table, time_table
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
    repetitions = options.given(options.repetitions, quick=3, full=20)
    machine = options.start()
    dispatches = options.given(None, quick=list(DISPATCH)[:1], full=list(DISPATCH))
    widths = options.given(None, quick=IN_FEATURES[-1:], full=IN_FEATURES)
    cases = [{"dispatch": d, "cell": c, "in_features": w} for d in dispatches for c in CELLS for w in widths]
    common = {"hidden": HIDDEN, "repetitions": repetitions, "steps": options.steps}
    rows = []
    with progress(len(cases)) as update:
        for case in cases:
            update(", ".join(map(str, case.values())))
            with Process("benchmarks.streaming") as process:
                found = process.ask({**case, **common, "synchronous": DISPATCH[case["dispatch"]]})
            rows.append(Row(case, {name: Timing.from_json(timing) for name, timing in found.items()}))
            update()
    _, absences = installed(STEPPERS)
    results = {**common, "absent": absences, "rows": [row.as_json() for row in rows]}
    report(rows, absences, common).write(options.name("streaming"), results, machine, options.out)


def report(rows: list[Row], absences: dict[str, str], common: dict[str, Any]) -> Report:
    text = medians("Microseconds a step", common["repetitions"], f"2 calls of {common['steps']} steps")
    made = Report("One step at a time", text, __doc__, [f"{who}: {why}." for who, why in absences.items()])

    def title(row: Row) -> str:
        return f"{row.case['cell']}, {row.case['in_features']} to {HIDDEN}"

    first: Any = {"heading": "cell, in to hidden", "title": title}
    for (dispatch,), group in groups(rows, "dispatch").items():
        made.add(f"## Dispatch {dispatch}")
        made.table(time_table(group, unit=1e-6, **first), f"microseconds a step, dispatch {dispatch}")
        made.table(ratio_table(group, **first), "divided by ours")
    return made


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
    """Seconds of one step: ``{contestant: Timing.as_json()}``. The request has cell, in_features, hidden,
    repetitions, steps (in every timed call) and synchronous: whether JAX runs programs in the caller's thread."""
    jax.config.update("jax_cpu_enable_async_dispatch", not request["synchronous"])
    found = contestants(request["cell"], request["in_features"], request["hidden"])
    check(found, f"{request['cell']}, {request['in_features']} to {request['hidden']}")
    number = request["steps"]
    calls = {name: lambda steps=steps: steps(number) for name, steps in found.items()}
    timings = interleave(calls, request["repetitions"])
    return {name: timing.divided_by(number).as_json() for name, timing in timings.items()}


main = command(StreamingOptions, run, "streaming", __doc__, measure)

if __name__ == "__main__":
    raise SystemExit(main())
