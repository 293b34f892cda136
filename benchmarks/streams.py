"""Steps a second of thousands of streams in one process, each with a state of its own.

    python -m benchmarks.streams                # some minutes
    python -m benchmarks.streams --quick        # a few seconds, to see that everything works

Every stream takes one step at a time, and all of them together: one call a step. Contestants have the same float32
weights, with one input feature and 128 units; their outputs after some steps are compared first. They are ours by
``jaxrnn.Streams``, in the C++ library and compiled by JAX, and PyTorch's cell in inference mode. Ours with int8
weights is beside them; its outputs may differ by 0.05. All use as many threads as there are cores.

Contestants are interleaved (benchmarks/common/timing.py); a timed call makes 20,000 steps of a stream (1,000 with
--quick), or two steps of all streams if those are more. A ratio is a contestant's time divided by ours, pair by
pair: above 1, ours is faster.
"""

import functools
from dataclasses import dataclass

import numpy as np

from benchmarks.common import comparison
from benchmarks.common.command import Benchmark, Options, command, known
from benchmarks.common.machine import cores
from benchmarks.common.report import progress
from benchmarks.common.rows import OURS, Row, groups, ratio_table, row_table
from benchmarks.libraries import LIBRARIES, installed, ours
from benchmarks.libraries.base import Steps
from benchmarks.libraries.ours import CELLS

HIDDEN, IN_FEATURES = 128, 1
COUNTS = (1, 100, 10_000)
CHECKED_STEPS = 8
TOLERANCES = {"outputs": comparison.Tolerance(1e-5)}
TOLERANCES_OF_INT8 = {"outputs": comparison.Tolerance(0.05)}


@dataclass(frozen=True)
class StreamsOptions(Options):
    """What to measure, and how long. ``--quick`` takes the LSTM only."""

    cells: tuple[str, ...] | None = None
    """Cells to measure (default: all)."""


def run(options: StreamsOptions) -> None:
    cells = options.given(options.cells, quick=("lstm",), full=tuple(CELLS))
    known("cell", cells, CELLS)
    made = Benchmark(options, "streams", "Many streams", __doc__, unit="Thousands of steps a second")
    for cell, count in progress((cell, count) for cell in cells for count in COUNTS):
        found = contestants(cell, count)
        check(found, f"{cell}, {count} streams, after {CHECKED_STEPS} steps")
        number = max(2, (1_000 if options.quick else 20_000) // count)
        calls = {name: functools.partial(take, number) for name, take in found.items()}
        made.measure({"cell": cell, "streams": count}, calls, f"{count:,}", steps=number * count)
    for (cell,), group in groups(made.rows, "cell").items():
        made.add(f"## {cell}")
        made.table(row_table(group, thousands, "streams"), f"{cell}: thousands of steps a second")
        made.table(ratio_table(group, "streams"), "times divided by ours")
    made.write(hidden=HIDDEN, in_features=IN_FEATURES, absent=installed(["torch"])[1])


def contestants(cell: str, count: int) -> dict[str, Steps]:
    """Ours and PyTorch, if it is installed, with the same weights and inputs."""
    first = ours.first_cell(cell, IN_FEATURES, HIDDEN)
    inputs = np.random.default_rng(0).normal(size=(count, IN_FEATURES)).astype(np.float32)
    found, torch = ours.streams(first, inputs), LIBRARIES["torch"]
    if torch.missing() is None:
        found[torch.label] = torch.steps(cell, first, inputs, threads=cores())
    return found


def check(found: dict[str, Steps], where: str) -> None:
    """A ValueError if the output of a contestant after some steps is not ours."""
    outputs = {name: {"outputs": np.asarray(take(CHECKED_STEPS))} for name, take in found.items()}
    rounded = {OURS: outputs[OURS], ours.INT8: outputs.pop(ours.INT8)}
    comparison.check(outputs, OURS, TOLERANCES, where)
    comparison.check(rounded, OURS, TOLERANCES_OF_INT8, where)


def thousands(row: Row) -> dict[str, str]:
    """Steps of a stream in a second, in thousands, from the median time."""
    return {name: f"{1e-3 / timing.median:,.0f}" for name, timing in row.timings.items()}


main = command(StreamsOptions, run, "streams", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
