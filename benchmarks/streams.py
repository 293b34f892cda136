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

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.common import comparison
from benchmarks.common.command import Options, command, known
from benchmarks.common.machine import cores
from benchmarks.common.report import Report, Table, medians, progress
from benchmarks.common.rows import OURS, Row, groups, ratio_table
from benchmarks.common.timing import interleave
from benchmarks.libraries import LIBRARIES, ours
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
    repetitions = options.given(options.repetitions, quick=3, full=20)
    steps = options.given(None, quick=1_000, full=20_000)
    cells = options.given(options.cells, quick=("lstm",), full=tuple(CELLS))
    known("cell", cells, CELLS)
    torch = LIBRARIES["torch"]
    why = torch.missing()
    absences = {torch.label: why} if why else {}
    machine = options.start()
    rows = []
    with progress(len(cells) * len(COUNTS)) as update:
        for cell in cells:
            for count in COUNTS:
                update(f"{cell}, {count}")
                rows.append(measured(cell, count, steps, repetitions))
                update()
    common = {"hidden": HIDDEN, "in_features": IN_FEATURES, "repetitions": repetitions}
    results = {**common, "absent": absences, "rows": [row.as_json() for row in rows]}
    report(rows, absences, repetitions).write(options.name("streams"), results, machine, options.out)


def contestants(cell: str, count: int) -> dict[str, Steps]:
    """Ours and PyTorch, if it is installed, with the same weights and inputs."""
    weights = ours.first_weights(cell, IN_FEATURES, HIDDEN)
    inputs = np.random.default_rng(0).normal(size=(count, IN_FEATURES)).astype(np.float32)
    found = ours.streams(cell, weights, inputs)
    torch = LIBRARIES["torch"]
    if torch.missing() is None:
        assert torch.steps is not None
        found[torch.label] = torch.steps(torch.cells[cell], weights, inputs, threads=cores())
    return found


def measured(cell: str, count: int, steps: int, repetitions: int) -> Row:
    """Seconds of one step of one stream, after a comparison of the outputs."""
    found = contestants(cell, count)
    outputs = {name: {"outputs": np.asarray(take(CHECKED_STEPS))} for name, take in found.items()}
    where = f"{cell}, {count} streams, after {CHECKED_STEPS} steps"
    rounded = {OURS: outputs[OURS], ours.INT8: outputs.pop(ours.INT8)}
    comparison.check(outputs, OURS, TOLERANCES, where)
    comparison.check(rounded, OURS, TOLERANCES_OF_INT8, where)
    number = max(2, steps // count)
    timings = interleave({name: lambda take=take: take(number) for name, take in found.items()}, repetitions)
    each = {name: timing.divided_by(number * count) for name, timing in timings.items()}
    return Row({"cell": cell, "streams": count}, each)


def rate_table(rows: list[Row]) -> Table:
    """Steps of a stream in a second, in thousands, from the median time."""

    def texts(row: Row) -> dict[str, str]:
        return {name: f"{1e-3 / timing.median:,.0f}" for name, timing in row.timings.items()}

    return Table.of("streams", [(title(row), texts(row)) for row in rows])


def title(row: Row) -> str:
    return f"{row.case['streams']:,}"


def report(rows: list[Row], absences: dict[str, str], repetitions: int) -> Report:
    text = medians("Thousands of steps a second", repetitions)
    made = Report("Many streams", text, __doc__, [f"{who}: {why}." for who, why in absences.items()])
    for (cell,), group in groups(rows, "cell").items():
        made.add(f"## {cell}")
        made.table(rate_table(group), f"{cell}: thousands of steps a second")
        made.table(ratio_table(group, heading="streams", title=title), "times divided by ours")
    return made


main: Any = command(StreamsOptions, run, "streams", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
