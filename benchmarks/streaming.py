"""Time one step of one cell at a time, as a controller or a live signal needs it: B = 1, H = 128.

    python -m benchmarks.streaming              # about three minutes
    python -m benchmarks.streaming --quick      # under a minute, to see that everything works

Contestants, all with the same weights (their outputs after 16 steps are compared first) and inputs that are an
array of the library already: ours by ``streaming_step``, in the C++ library with NumPy arrays and compiled by JAX,
and under a plain ``jax.jit``; the cells of Flax, Haiku and Keras under ``jax.jit``; and PyTorch's cells in
inference mode. benchmarks/steps.py has them.

Everything is measured twice: with ``jax_cpu_enable_async_dispatch`` off, as streaming on a CPU wants it, and as
JAX comes, where a program is handed to another thread and waited for. Each cell and setting has a process of its
own, in which the contestants are interleaved (benchmarks/timing.py); every timed call makes 400 steps.

A ratio is a contestant's time divided by ours: above 1, ours is faster. The tables go to benchmarks/results/.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from benchmarks.cells import CELLS
from benchmarks.machine import describe, machine
from benchmarks.peers import OURS, PEERS
from benchmarks.process import Process
from benchmarks.report import Table, check_writable, console, fail, progress, times, write_results
from benchmarks.steps import LABELS, MAKERS
from benchmarks.timing import Spread, Timing, ratio

HIDDEN = 128
IN_FEATURES = (1, HIDDEN)
STEPS = 400
DISPATCH = {"synchronous": True, "asynchronous, JAX's default": False}


@dataclass(frozen=True)
class Options:
    """How long to measure."""

    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """One width of inputs, synchronous only, and few repetitions."""

    repetitions: int | None = None
    """Rounds, in each of which every contestant is timed twice (default: 20, with --quick 3)."""

    steps: int = STEPS
    """Steps in every timed call."""

    out: Path | None = None
    """Folder for the results (default: benchmarks/results)."""


class Row(NamedTuple):
    """What was measured of one cell under one dispatch: the timings are seconds a step."""

    dispatch: str
    cell: str
    in_features: int
    timings: dict[str, Timing]

    def ratios(self) -> dict[str, Spread]:
        return {name: ratio(timing, self.timings[OURS]) for name, timing in self.timings.items() if name != OURS}


def main(arguments: list[str] | None = None) -> int:
    options = tyro.cli(Options, prog="python -m benchmarks.streaming", args=arguments, description=__doc__)
    try:
        return run(options)
    except (ValueError, OSError) as error:
        return fail(str(error))


def run(options: Options) -> int:
    repetitions = (3 if options.quick else 20) if options.repetitions is None else options.repetitions
    check_writable(options.out)
    on = machine()
    console.print(describe(on), soft_wrap=True)
    dispatches = list(DISPATCH)[:1] if options.quick else list(DISPATCH)
    widths = IN_FEATURES[-1:] if options.quick else IN_FEATURES
    cases = [(d, c, w) for d in dispatches for c in CELLS for w in widths]
    rows = []
    with progress(len(cases)) as update:
        for dispatch, cell, in_features in cases:
            update(description=f"{cell}, {in_features} to {HIDDEN}, {dispatch}")
            request = {
                "cell": cell,
                "in_features": in_features,
                "hidden": HIDDEN,
                "repetitions": repetitions,
                "steps": options.steps,
                "synchronous": DISPATCH[dispatch],
            }
            with Process("benchmarks.steps") as process:
                found = process.ask(request)
            timings = {n: Timing(0.0, tuple(map(tuple, t["calls_s"]))) for n, t in found.items()}
            rows.append(Row(dispatch, cell, in_features, timings))
            update(advance=1)
    absences = {LABELS[name]: why for name in MAKERS if (why := PEERS[name].missing())}
    report(rows, absences, repetitions, on, options)
    return 0


def time_table(rows: list[Row], *, brief: bool = False) -> Table:
    """Microseconds a step, the least of a row in bold; brief is without quartiles."""
    names = list(dict.fromkeys(name for row in rows for name in row.timings))
    lines = []
    for row in rows:
        least = min(row.timings.values(), key=lambda timing: timing.median)
        line = [f"{row.cell}, {row.in_features} to {HIDDEN}"]
        for name in names:
            timing = row.timings.get(name)
            text = "" if timing is None else _microseconds(timing, not brief)
            line.append(f"**{text}**" if timing is least else text)
        lines.append(line)
    return Table(["cell, in to hidden", *names], lines)


def _microseconds(timing: Timing, quartiles: bool) -> str:
    return times(Spread(*(value * 1e6 for value in timing.spread)), quartiles=quartiles)


def ratio_table(rows: list[Row], *, brief: bool = False) -> Table:
    """Each contestant's time divided by ours; brief is without quartiles."""
    names = list(dict.fromkeys(name for row in rows for name in row.timings if name != OURS))
    lines = []
    for row in rows:
        ratios = row.ratios()
        texts = [times(ratios[name], quartiles=not brief) if name in ratios else "" for name in names]
        lines.append([f"{row.cell}, {row.in_features} to {HIDDEN}", *texts])
    return Table(["cell, in to hidden", *names], lines)


def report(
    rows: list[Row], absences: dict[str, str], repetitions: int, on: dict[str, Any], options: Options
) -> None:
    parts = [
        "# One step at a time\n\n",
        f"Microseconds a step, B = 1: median, and quartiles in parentheses, of {repetitions} repetitions of 2 "
        f"calls of {options.steps} steps, the fastest in bold; every step waits for its output. Float32, same "
        "weights in all, outputs compared before. Ratios are a contestant's time divided by ours, "
        "pair by pair: above 1 ours is faster. jaxrnn is `streaming_step` in the C++ library, NumPy arrays in and "
        'out; compiled is the same with `implementation="jax"`. PyTorch runs in inference mode, on one '
        "thread.\n\n",
        *(f"- {who}: {why}.\n" for who, why in absences.items()),
    ]
    for dispatch in dict.fromkeys(row.dispatch for row in rows):
        group = [row for row in rows if row.dispatch == dispatch]
        parts += [
            f"\n## Dispatch {dispatch}\n\n",
            time_table(group).markdown(),
            "\n",
            ratio_table(group).markdown(),
        ]
        time_table(group, brief=True).show(f"microseconds a step, dispatch {dispatch}")
        ratio_table(group, brief=True).show("divided by ours")
    results = {
        "repetitions": repetitions,
        "steps": options.steps,
        "hidden": HIDDEN,
        "absent": absences,
        "rows": [
            {
                "dispatch": row.dispatch,
                "cell": row.cell,
                "in_features": row.in_features,
                "timings": {
                    name: {**timing.spread._asdict(), "calls_s": timing.calls}
                    for name, timing in row.timings.items()
                },
                "ratios_to_ours": {name: spread._asdict() for name, spread in row.ratios().items()},
            }
            for row in rows
        ],
    }
    name = "streaming-quick" if options.quick else "streaming"
    path = write_results(name, "".join(parts), results, on, options.out)
    for who, why in absences.items():
        console.print(f"{who}: {why}", markup=False, soft_wrap=True)
    console.print(f"Written: {path.name} and .json, in {path.parent}", soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(main())
