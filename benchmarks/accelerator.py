"""Time a recurrent layer on a GPU or TPU: our kernels, our scan, flax.nnx.RNN, and cuDNN through PyTorch.

    python -m benchmarks.accelerator                      # under 8 minutes
    python -m benchmarks.accelerator --smoke              # on any machine: tiny sizes, nothing worth reading

Simple RNN, LSTM and GRU, in bfloat16 and in float32 with TF32 products; forward, and training steps. Around a
batch of 64, 1024 steps and 128 hidden units one of the three is varied: batch 16 to 128, 256 to 4096 steps, 64 to
1024 hidden units; last the sizes where our kernel needs a cluster of multiprocessors. Results are written after
every shape. What the time does not reach, the report names.

Before any timing all layers get the same weights and fresh random inputs, and their outputs, losses and gradients
are compared; who differs is named, not timed, and the exit status is 1. "auto" is what `implementation=None`
picks, named rather than timed again. Time is that of a whole call divided by the number of steps; how it is
taken: benchmarks/timing.py.

Not measured here: `unroll` above 1, and the scan with the XLA flag `--xla_gpu_enable_command_buffer=+WHILE`, which
puts the whole loop in one CUDA graph; run the benchmark with XLA_FLAGS set to compare.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro

from benchmarks import accelerator_layers as layers
from benchmarks.machine import describe, machine
from benchmarks.report import Table, check_writable, console, fail, write_results
from benchmarks.shapes import Shape
from benchmarks.timing import Timing, interleave
from jaxrnn import ops
from jaxrnn.ops.dispatch import IMPLEMENTATIONS, Implementation

CELLS = ("simple_rnn", "lstm", "gru")
DTYPES = ("bfloat16", "float32")
MODES = {"forward": "forward", "train": "training step"}

BASE = Shape(64, 1024, 128, 128)
VARIED = [
    BASE._replace(in_features=64, hidden=64),
    *(BASE._replace(batch=b) for b in (16, 128)),
    *(BASE._replace(time=t) for t in (256, 4096)),
    *(BASE._replace(in_features=h, hidden=h) for h in (256, 512, 1024)),
]

TOLERANCES = {"bfloat16": (0.05, 0.05), "float32": (0.01, 0.01)}
"""Of outputs, absolute (they lie within -1 and 1); of the loss and the gradients' norm, relative."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    smoke: tyro.conf.FlagCreatePairsOff[bool] = False
    """Tiny sizes on whatever device is there, kernels interpreted on a CPU: shows that the benchmark works."""

    minutes: float = 7.0
    """When to stop measuring and write what there is."""

    repetitions: int = 5
    """Rounds, in each of which every layer is timed twice."""

    out: Path | None = None
    """Folder for the results (default: benchmarks/results; with --smoke nothing is written there)."""


class Row(NamedTuple):
    """Everything measured of one cell at one shape, dtype and mode."""

    cell: str
    dtype: str
    shape: Shape
    mode: str
    auto: str
    timings: dict[str, Timing]
    absent: dict[str, str]

    def microseconds(self, name: str) -> tuple[float, float, float]:
        median, low, high = (seconds / self.shape.time * 1e6 for seconds in self.timings[name].spread)
        return median, low, high


def main(arguments: list[str] | None = None) -> int:
    options = tyro.cli(Options, prog="python -m benchmarks.accelerator", args=arguments, description=__doc__)
    # PyTorch needs memory beside JAX; read when JAX first touches the device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if jax.default_backend() == "cpu" and not options.smoke:
        return fail("no GPU or TPU here, so there is nothing to measure; --smoke shows that the benchmark works")
    pallas = IMPLEMENTATIONS["pallas"]
    if jax.default_backend() == "cpu":
        IMPLEMENTATIONS["pallas"] = interpreted()
    try:
        return run(options)
    except (ValueError, OSError) as error:
        return fail(str(error))
    finally:
        IMPLEMENTATIONS["pallas"] = pallas


def run(options: Options) -> int:
    began = time.monotonic()
    check_writable(options.out)
    on = machine()
    console.print(describe(on), soft_wrap=True)
    rows, left = [], [f"{cell}, {dtype}, {shape}" for cell, dtype, shape in points(options.smoke)]
    path, smoke_only = None, options.smoke and options.out is None
    for number, (cell, dtype, shape) in enumerate(points(options.smoke)):
        if time.monotonic() - began > options.minutes * 60:
            break
        found = measure(cell, dtype, shape, options.repetitions, seed=number)
        rows += found
        left = left[1:]
        for row in found:
            console.print(line(row), soft_wrap=True)
        if not smoke_only:
            path = write(rows, left, on, options)
    if smoke_only:
        table(rows).show("smoke test: the numbers mean nothing")
    else:
        path = path or write(rows, left, on, options)
        console.print(f"Written: {path.name} and .json, in {path.parent}", soft_wrap=True)
    return int(any(why.startswith(DIFFERS) for row in rows for why in row.absent.values()))


def write(rows: list[Row], left: list[str], on: Any, options: Options) -> Path:
    missing = layers.cudnn_is_missing()
    notes = [f"cuDNN: {missing}."] if missing else []
    if left:
        notes.append(f"Not reached in {options.minutes:g} minutes (batch x time x in, hidden): {'; '.join(left)}.")
    results = {"repetitions": options.repetitions, "notes": notes, "rows": [as_json(row) for row in rows]}
    return write_results("accelerator", markdown(rows, notes, options.repetitions), results, on, options.out)


def points(smoke: bool) -> list[tuple[str, str, Shape]]:
    """Cell, dtype and shape, the most telling first, since time may run out."""
    if smoke:
        return [(cell, dtype, Shape(2, 3, 8, 8)) for cell in CELLS for dtype in DTYPES]
    return [(cell, dtype, shape) for shape in (BASE, *VARIED) for dtype in DTYPES for cell in CELLS]


def interpreted() -> Implementation:
    """The GPU's kernel as Pallas interprets it on a CPU, in place of the one that needs a GPU."""
    from jaxrnn.ops.pallas.gpu import GPU
    from jaxrnn.ops.pallas.recurrence import pallas_recurrence

    def run(pointwise, arrays, *, reverse, unroll):
        return pallas_recurrence(GPU, pointwise, arrays, reverse=reverse, interpret=True)

    return Implementation(run, not_preferred=lambda *_: "interpreted: for tests")


def measure(cell: str, dtype: str, shape: Shape, repetitions: int, seed: int) -> list[Row]:
    """All contestants at one shape: compiled side by side, compared, timed."""
    weights, x = layers.weights(cell, shape.hidden, seed), layers.inputs(shape, dtype, seed)
    makers = {
        "pallas": lambda: layers.ours(cell, weights, dtype, "pallas"),
        "scan": lambda: layers.ours(cell, weights, dtype, "scan"),
        "nnx.RNN": lambda: layers.flax(cell, weights, dtype),
    }
    contestants: dict[str, layers.Contestant] = {}
    absent: dict[str, str] = {}
    with ThreadPoolExecutor() as pool:
        compiling = {
            name: pool.submit(lambda make=make: layers.compiled(make(), x)) for name, make in makers.items()
        }
        for name, job in compiling.items():
            try:
                contestants[name] = layers.ready(job.result(), x)
            except (ValueError, TypeError) as error:  # too large for the kernel; a dtype that Flax cannot scan
                absent[name] = str(error).strip().splitlines()[0]
    if layers.cudnn_is_missing() is None:
        contestants["cuDNN"] = layers.cudnn(cell, weights, dtype, x)
    for name, wrong in differing(contestants, dtype).items():
        absent[name] = f"{DIFFERS}: {wrong}"
        del contestants[name]
    auto = chosen(cell, dtype, shape)
    rows = []
    for mode in MODES:
        calls = {name: getattr(contestant, mode) for name, contestant in contestants.items()}
        timings = interleave(calls, repetitions, seed=seed)
        rows.append(Row(cell, dtype, shape, mode, auto, timings, absent))
    return rows


DIFFERS = "differs from the scan"


def differing(contestants: dict[str, layers.Contestant], dtype: str) -> dict[str, str]:
    """Who does not compute the same as the scan, and by how much."""
    outputs, loss, norm = layers.results(contestants["scan"])
    absolute, relative = TOLERANCES[dtype]
    found = {}
    for name, contestant in contestants.items():
        other_outputs, other_loss, other_norm = layers.results(contestant)
        differences = {
            "outputs": (float(np.abs(other_outputs - outputs).max()), absolute),
            "the loss": (abs(other_loss / loss - 1), relative),
            "the norm of the gradients": (abs(other_norm / norm - 1), relative),
        }
        for what, (difference, tolerance) in differences.items():
            if not difference <= tolerance:
                found[name] = f"{what} by {difference:.2g}, more than {tolerance:g}"
    return found


def chosen(cell: str, dtype: str, shape: Shape) -> str:
    """What ``implementation=None`` takes for this layer on this machine."""
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


NAMES = ("pallas", "scan", "nnx.RNN", "cuDNN")


def cells_of(row: Row) -> list[str]:
    texts = []
    for name in NAMES:
        if name not in row.timings:
            texts.append("")
            continue
        median, low, high = row.microseconds(name)
        texts.append(f"{median:.2f} ({low:.2f} to {high:.2f})")
    return texts


def line(row: Row) -> str:
    times = ", ".join(f"{name} {text}" for name, text in zip(NAMES, cells_of(row)) if text)
    return f"{row.cell}, {row.dtype}, {row.shape}, {MODES[row.mode]}: {times} us a step; auto: {row.auto}"


def table(rows: list[Row]) -> Table:
    lines = [[f"{r.cell}, {r.dtype}, {r.shape}, {MODES[r.mode]}", *cells_of(r), r.auto] for r in rows]
    return Table(["cell, dtype, batch x time x in, hidden", *NAMES, "auto"], lines)


def markdown(rows: list[Row], notes: list[str], repetitions: int) -> str:
    absent = {f"{r.cell}, {r.dtype}, {r.shape}: {n}: {why}" for r in rows for n, why in r.absent.items()}
    return "".join(
        [
            "# One recurrent layer on an accelerator\n\n",
            f"Microseconds a step: median, and quartiles in parentheses, of {repetitions} repetitions of 2 calls. "
            "Products of float32 are TF32 on a GPU. Same weights and inputs in all; outputs, losses and gradients "
            "compared before. A training step has its forward pass in it. auto: implementation=None.\n\n",
            *(f"- {note}\n" for note in [*notes, *sorted(absent)]),
            "\n",
            table(rows).markdown(),
        ]
    )


def as_json(row: Row) -> dict[str, Any]:
    return {
        "cell": row.cell,
        "dtype": row.dtype,
        "shape": row.shape._asdict(),
        "mode": row.mode,
        "auto": row.auto,
        "absent": row.absent,
        "microseconds_a_step": {name: row.microseconds(name) for name in row.timings},
        "timings": {name: timing.as_json() for name, timing in row.timings.items()},
    }


if __name__ == "__main__":
    raise SystemExit(main())
