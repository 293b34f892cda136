"""Time a recurrent layer on a GPU or TPU: our kernels, our scan, flax.nnx.RNN, and cuDNN through PyTorch.

    python -m benchmarks.accelerator                      # under 8 minutes
    python -m benchmarks.accelerator --smoke              # on any machine: tiny sizes, the numbers mean nothing

Simple RNN, LSTM and GRU, in bfloat16 and in float32 with TF32 products; forward, and training steps. Starting from
a batch of 64, 1024 steps and 128 hidden units, one of the three is varied: batch 16 to 128, 256 to 4096 steps, 64
to 1024 hidden units; last come the sizes where our kernel needs a cluster of multiprocessors. Results are written
after every shape. The report names the cases that were not reached in time.

Before any timing all layers get the same weights and inputs ``[time, batch, hidden]``, and their outputs, losses
and gradients are compared; a layer that differs is named and not timed, and the exit status is 1. "auto" is what
`implementation=None` picks, which is named rather than timed again. The time is that of a whole call divided by
the number of steps; benchmarks/common/timing.py describes how it is taken.

Not measured here: `unroll` above 1, and the scan with the XLA flag `--xla_gpu_enable_command_buffer=+WHILE`, which
puts the whole loop in one CUDA graph; run the benchmark with XLA_FLAGS set to compare.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import tyro

from benchmarks.common import comparison
from benchmarks.common.command import command
from benchmarks.common.machine import describe, machine
from benchmarks.common.report import Report, check_writable, console, spread_text
from benchmarks.common.rows import Row, time_table
from benchmarks.common.shapes import Shape
from benchmarks.common.timing import interleave
from benchmarks.libraries import nnx, ours, torch
from benchmarks.libraries.base import Contestant, Weights
from benchmarks.reports.layers import MODES
from jaxrnn import ops
from jaxrnn.ops import IMPLEMENTATIONS, Implementation

CELLS = {"simple_rnn": "simple_rnn", "lstm": "lstm", "gru": "gru_one_bias"}
"""By name: the compared cell. Flax's GRU has no recurrent bias, so none has one here."""

DTYPES = ("bfloat16", "float32")

BASE = Shape(64, 1024, 128, 128)
VARIED = [
    BASE._replace(in_features=64, hidden=64),
    *(BASE._replace(batch=b) for b in (16, 128)),
    *(BASE._replace(time=t) for t in (256, 4096)),
    *(BASE._replace(in_features=h, hidden=h) for h in (256, 512, 1024)),
]

TOLERANCES = {
    "bfloat16": comparison.layer_tolerances(outputs=0.05, relative=0.05),
    "float32": comparison.layer_tolerances(outputs=0.01, relative=0.01),
}

BASELINE = "scan"
DIFFERS = "differs from the scan"


@dataclass(frozen=True)
class Options:
    """What to measure."""

    smoke: tyro.conf.FlagCreatePairsOff[bool] = False
    """Tiny sizes on any device, with the kernels interpreted on a CPU: shows that the benchmark works."""

    minutes: float = 7.0
    """When to stop measuring and write the results so far."""

    repetitions: int = 5
    """Rounds, in each of which every layer is timed twice."""

    out: Path | None = None
    """Folder for the results (default: benchmarks/results; with --smoke nothing is written there)."""


def run(options: Options) -> int:
    # PyTorch needs memory beside JAX; JAX reads this when it first uses the device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if jax.default_backend() != "cpu":
        return measure_all(options)
    if not options.smoke:
        raise ValueError("no GPU or TPU here, so nothing can be measured; --smoke shows that the benchmark works")
    pallas = IMPLEMENTATIONS["pallas"]
    IMPLEMENTATIONS["pallas"] = interpreted()
    try:
        return measure_all(options)
    finally:
        IMPLEMENTATIONS["pallas"] = pallas


def measure_all(options: Options) -> int:
    began = time.monotonic()
    check_writable(options.out)
    on = machine()
    console.print(describe(on), soft_wrap=True)
    rows: list[Row] = []
    cases = points(options.smoke)
    write = not options.smoke or options.out is not None
    for number, (cell, dtype, shape) in enumerate(cases):
        if time.monotonic() - began > options.minutes * 60:
            break
        found = measure(cell, dtype, shape, options.repetitions, seed=number)
        rows += found
        for row in found:
            texts = [f"{name} {spread_text(timing.spread, 1e-6)}" for name, timing in row.timings.items()]
            console.print(f"{title(row)}: {', '.join(texts)} us a step", soft_wrap=True)
        if write:
            left = [f"{cell}, {dtype}, {shape}" for cell, dtype, shape in cases[number + 1 :]]
            notes = notes_of(rows, left, options.minutes)
            results = {"repetitions": options.repetitions, "notes": notes, "rows": [row.as_json() for row in rows]}
            report(rows, notes, options.repetitions).write("accelerator", results, on, options.out)
    if not write:
        report(rows, [], options.repetitions, show="smoke test: the numbers mean nothing")
    return int(any(why.startswith(DIFFERS) for row in rows for why in row.case["absent"].values()))


def points(smoke: bool) -> list[tuple[str, str, Shape]]:
    """Cell, dtype and shape, the most important first, since the time may not suffice for all."""
    if smoke:
        return [(cell, dtype, Shape(2, 3, 8, 8)) for cell in CELLS for dtype in DTYPES]
    return [(cell, dtype, shape) for shape in (BASE, *VARIED) for dtype in DTYPES for cell in CELLS]


def interpreted() -> Implementation:
    """The GPU's kernel as Pallas interprets it on a CPU, in place of the one that needs a GPU."""
    from jaxrnn.ops.pallas.recurrence import pallas_recurrence
    from jaxrnn.ops.pallas.triton import TRITON

    def run(pointwise, arrays, *, reverse, unroll):
        return pallas_recurrence(TRITON, pointwise, arrays, reverse=reverse, interpret=True)

    return Implementation(run, not_preferred=lambda *_: "interpreted: for tests")


def weights_of(cell: str, hidden: int, seed: int) -> Weights:
    """First weights with recurrent kernels of half the size.

    Rounding errors then shrink from step to step, so that after thousands of steps in half precision results of
    different programs can still be compared.
    """
    weights = ours.first_weights(cell, hidden, hidden, seed=seed)
    return weights._replace(recurrent_kernel=0.5 * weights.recurrent_kernel)


def measure(cell: str, dtype: str, shape: Shape, repetitions: int, seed: int) -> list[Row]:
    """All contestants at one shape: compiled side by side, compared, timed."""
    name = CELLS[cell]
    weights = weights_of(name, shape.hidden, seed)
    x = jax.random.normal(jax.random.key(seed), (shape.time, shape.batch, shape.in_features), dtype)
    made = {
        "pallas": ours.layer(name, weights, x, implementation="pallas", time_major=True),
        BASELINE: ours.layer(name, weights, x, implementation="scan", time_major=True),
        "nnx.RNN": nnx.layer(nnx.CELLS[name], weights, x, time_major=True),
    }
    absent: dict[str, str] = {}
    with ThreadPoolExecutor() as pool:
        compiling = {contestant: pool.submit(_first_calls, layer) for contestant, layer in made.items()}
        for contestant, job in compiling.items():
            try:
                job.result()
            except (ValueError, TypeError) as error:  # too large for the kernel; a dtype that Flax cannot scan
                absent[contestant] = str(error).strip().splitlines()[0]
                del made[contestant]
    if torch.cudnn_is_missing() is None:
        made["cuDNN"] = torch.layer(torch.CELLS[name], weights, x, time_major=True)
    for contestant, wrong in differing(made, dtype).items():
        absent[contestant] = f"{DIFFERS}: {wrong}"
        del made[contestant]
    rows = []
    for mode in MODES:
        calls = {contestant: getattr(layer, mode) for contestant, layer in made.items()}
        timings = interleave(calls, repetitions, seed=seed)
        steps = {contestant: timing.divided_by(shape.time) for contestant, timing in timings.items()}
        case = {"cell": cell, "dtype": dtype, "shape": shape, "mode": mode, "auto": chosen(cell, dtype, shape)}
        rows.append(Row({**case, "absent": absent}, steps, BASELINE))
    return rows


def _first_calls(layer: Contestant) -> None:
    jax.block_until_ready((layer.forward(), layer.train()))


def differing(contestants: dict[str, Contestant], dtype: str) -> dict[str, str]:
    """The contestants that do not compute the same as the scan, and by how much they differ."""
    results = {name: comparison.layer_results(*contestant) for name, contestant in contestants.items()}
    return comparison.differences(results, BASELINE, TOLERANCES[dtype])


def chosen(cell: str, dtype: str, shape: Shape) -> str:
    """The implementation that ``implementation=None`` picks for this layer on this machine."""
    pointwise, gates = {
        "simple_rnn": (ops.simple_rnn_pointwise(), 1),
        "lstm": (ops.lstm_pointwise, 4),
        "gru": (ops.gru_pointwise, 3),
    }[cell]

    def array(*sizes) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype)

    h = array(shape.batch, shape.hidden)
    carry = ops.LSTMCarry(h, h) if cell == "lstm" else h
    kernel, xw = array(shape.hidden, gates * shape.hidden), array(shape.time, shape.batch, gates * shape.hidden)
    return ops.explain(pointwise, kernel, xw, carry).chosen


def title(row: Row) -> str:
    case = row.case
    return f"{case['cell']}, {case['dtype']}, {row.shape}, {MODES[case['mode']]}; auto: {case['auto']}"


def notes_of(rows: list[Row], left: list[str], minutes: float) -> list[str]:
    missing = torch.cudnn_is_missing()
    notes = [f"cuDNN: {missing}."] if missing else []
    if left:
        notes.append(f"Not reached in {minutes:g} minutes (batch x time x in, hidden): {'; '.join(left)}.")
    return notes + sorted(
        {
            f"{row.case['cell']}, {row.case['dtype']}, {row.shape}: {name}: {why}"
            for row in rows
            for name, why in row.case["absent"].items()
        }
    )


def report(rows: list[Row], notes: list[str], repetitions: int, show: str | None = None) -> Report:
    made = Report(
        "One recurrent layer on an accelerator",
        f"Microseconds a step: median, and quartiles in parentheses, of {repetitions} repetitions of 2 calls; "
        "the fastest in bold. Products of float32 are TF32 on a GPU. The same weights and inputs in all; "
        "outputs, losses and gradients are compared before. A training step includes its forward pass. auto: "
        "implementation=None.",
        notes,
    )
    heading = "cell, dtype, batch x time x in, hidden"
    made.table(time_table(rows, unit=1e-6, heading=heading, title=title), show)
    return made


main = command(Options, run, "accelerator", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
