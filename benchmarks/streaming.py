"""Time one step of one cell at a time, as a controller or a live signal needs it: B = 1, H = 128.

    python -m benchmarks.streaming              # about three minutes
    python -m benchmarks.streaming --quick      # under a minute, to see that everything works

All contestants have the same weights (their outputs after 16 steps are compared first), and inputs that are an
array of the library already. They are: ours by ``streaming_step``, in the C++ library with NumPy arrays and
compiled by JAX; ours under a plain ``jax.jit``; the cells of Flax, Haiku and Keras under ``jax.jit``; and
PyTorch's cells in inference mode.

Everything is measured twice: with ``jax_cpu_enable_async_dispatch`` off, which suits streaming on a CPU, and with
JAX's default, where another thread runs the program and the caller waits for it. Each cell and setting has a
process of its own, in which the contestants are interleaved (benchmarks/common/timing.py); every timed call makes
400 steps.

A ratio is a contestant's time divided by ours: above 1, ours is faster. The tables go to benchmarks/results/.
"""

from dataclasses import dataclass
from typing import Any

from benchmarks.common.command import Options, command
from benchmarks.common.process import Process
from benchmarks.common.report import Report, progress
from benchmarks.common.rows import Row, groups, ratio_table, time_table
from benchmarks.common.timing import Timing
from benchmarks.libraries import STEPPERS
from benchmarks.libraries.ours import CELLS

HIDDEN = 128
IN_FEATURES = (1, HIDDEN)
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
            update(description=", ".join(map(str, case.values())))
            with Process("benchmarks.libraries.streaming_process") as process:
                found = process.ask({**case, **common, "synchronous": DISPATCH[case["dispatch"]]})
            rows.append(Row(case, {name: Timing.from_json(timing) for name, timing in found.items()}))
            update(advance=1)
    absences = {library.label: why for library in STEPPERS.values() if (why := library.missing())}
    results = {**common, "absent": absences, "rows": [row.as_json() for row in rows]}
    report(rows, absences, common).write(options.name("streaming"), results, machine, options.out)


def report(rows: list[Row], absences: dict[str, str], common: dict[str, Any]) -> Report:
    made = Report(
        "One step at a time",
        f"Microseconds a step, B = 1: median, and quartiles in parentheses, of {common['repetitions']} "
        f"repetitions of 2 calls of {common['steps']} steps, the fastest in bold; every step waits for its "
        "output. Float32, the same weights in all, outputs compared before. Ratios are a contestant's time "
        "divided by ours, pair by pair: above 1 ours is faster. jaxrnn is `streaming_step` in the C++ library, "
        'with NumPy arrays; compiled is the same with `implementation="jax"`. PyTorch runs in inference mode, '
        "on one thread.",
        [f"{who}: {why}." for who, why in absences.items()],
    )
    first: Any = {"heading": "cell, in to hidden", "title": title}
    for (dispatch,), group in groups(rows, "dispatch").items():
        made.add(f"## Dispatch {dispatch}")
        made.table(time_table(group, unit=1e-6, **first), f"microseconds a step, dispatch {dispatch}")
        made.table(ratio_table(group, **first), "divided by ours")
    return made


def title(row: Row) -> str:
    return f"{row.case['cell']}, {row.case['in_features']} to {HIDDEN}"


main = command(StreamingOptions, run, "streaming", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
