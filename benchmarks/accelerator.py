"""Time a recurrent layer on a GPU or TPU: our kernels, our scan, flax.nnx.RNN, and cuDNN through PyTorch.

    python -m benchmarks.accelerator                      # under 8 minutes
    python -m benchmarks.accelerator --heads              # only the layers with heads, a minute
    python -m benchmarks.accelerator --smoke              # on any machine: tiny sizes, the numbers mean nothing

Simple RNN, LSTM, GRU and a user's cell, in bfloat16 and in float32 with TF32 products; forward, and training
steps. Starting from a batch of 64, 1024 steps and 128 hidden units, one of the three is varied: 64 to 1024 hidden
units, batch 16 to 2048, 256 to 4096 steps. At the end come an sLSTM and an LSTM with heads, whose times in
milliseconds a sequence are printed, too. Results are written after every shape. The report names the cases that
were not reached.

On a GPU, "one SM" is the kernel whose tile of the batch runs on one streaming multiprocessor of a Hopper GPU;
"Triton" is the one that does the same on any GPU and in float32; "cluster" is the one that shares a tile among
several multiprocessors. Each is timed wherever it can run. "scan, unroll 8" is the scan with eight steps in one
iteration of its loop. Next to bfloat16, "cuDNN, float16" is measured, in which cuDNN is faster.

Before any timing all layers get the same weights and inputs ``[time, batch, hidden]``, and their outputs, losses
and gradients are compared; a layer that differs is named and not timed, and the exit status is 1. "auto" is what
`implementation=None` picks, which is named rather than timed again. A call is queued four times before its results
are waited for, as a training loop queues its steps, and the time is divided by the number of calls and of steps;
benchmarks/common/timing.py describes how it is taken.

Not measured here: the scan with the XLA flag `--xla_gpu_enable_command_buffer=+WHILE`, which puts the whole loop
in one CUDA graph; run the benchmark with XLA_FLAGS set to compare.
"""

import importlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import tyro
from flax.nnx import Rngs

import jaxrnn
from benchmarks.common import comparison
from benchmarks.common.command import Benchmark, FolderOptions, command
from benchmarks.common.report import console, spread_text
from benchmarks.common.rows import SHAPE, Row, Shape, time_table
from benchmarks.common.timing import FirstCalls, first_calls
from benchmarks.layers import by_mode
from benchmarks.libraries import base, flax, ours, torch
from benchmarks.libraries.base import Contestant
from benchmarks.libraries.by_hand import by_hand
from benchmarks.libraries.user_cells import readme_cells
from jaxrnn import ops
from jaxrnn.ops import IMPLEMENTATIONS, Implementation
from jaxrnn.ops.pallas import not_a_tile
from jaxrnn.ops.pallas.recurrence import pallas_recurrence

OWN = "MinimalGatedCell"
"""The user's cell that the documentation shows."""

CELLS = {"simple_rnn": "simple_rnn", "lstm": "lstm", "gru": "gru_one_bias", OWN: OWN}
"""By name: the compared cell. Flax's GRU has no recurrent bias, so none has one here."""

HEADS = {
    "slstm, 12 heads": (jaxrnn.SLSTMCell, 12, Shape(16, 1024, 64, 768)),
    "lstm, 12 heads": (jaxrnn.LSTMCell, 12, Shape(16, 1024, 64, 768)),
    "slstm, 16 heads": (jaxrnn.SLSTMCell, 16, Shape(16, 1024, 64, 2048)),
}
"""Cells with heads. FlashRNN (arXiv:2412.07752) gives figures for 12 heads of 64, a batch of 16 and 1024 steps."""

DTYPES = ("bfloat16", "float32")

BASE = Shape(64, 1024, 128, 128)
VARIED = [
    *(BASE._replace(in_features=h, hidden=h) for h in (64, 256, 512, 1024)),
    *(BASE._replace(batch=b, time=256) for b in (512, 2048)),
    *(BASE._replace(batch=b, time=256, in_features=512, hidden=512) for b in (128, 256)),
    *(BASE._replace(batch=b) for b in (16, 128)),
    BASE._replace(time=4096),
]

TOLERANCES = {
    "bfloat16": comparison.layer_tolerances(outputs=0.05, relative=0.1),
    "float32": comparison.layer_tolerances(outputs=0.01, relative=0.01),
}

BASELINE = "scan"
UNROLLED = "scan, unroll 8"
CALLS = 4
"""That are queued before the results are waited for."""

DIFFERS = "differs from the scan"


@dataclass(frozen=True)
class AcceleratorOptions(FolderOptions):
    """What to measure."""

    smoke: tyro.conf.FlagCreatePairsOff[bool] = False
    """Tiny sizes on any device, with the kernels interpreted on a CPU: shows that the benchmark works. Results are
    only written where --out says."""

    heads: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure only the layers with heads."""

    minutes: float = 7.0
    """When to stop measuring and write the results so far."""

    repetitions: int = 5
    """Rounds, in each of which every layer is timed twice."""


def run(options: AcceleratorOptions) -> int:
    # PyTorch needs memory beside JAX; JAX reads this when it first uses the device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if jax.default_backend() == "cpu" and not options.smoke:
        raise ValueError("no GPU or TPU here, so nothing can be measured; --smoke shows that the benchmark works")
    title, unit, heading = "One recurrent layer on an accelerator", "Microseconds a step", f"cell, dtype, {SHAPE}"
    made = Benchmark(options, "accelerator", title, __doc__, full=options.repetitions, unit=unit, heading=heading)
    began, cases = time.monotonic(), points(options.smoke, options.heads)
    for number, case in enumerate(cases):
        if time.monotonic() - began > options.minutes * 60:
            break
        with patch.dict(IMPLEMENTATIONS, kernels()):
            rows = measure(made, *case, seed=number)
        for row in rows:
            texts = [f"{name} {spread_text(timing.spread, 1e-6)}" for name, timing in row.timings.items()]
            console.print(f"{row.title}: {', '.join(texts)} us a step", soft_wrap=True)
            if row.case["cell"] in HEADS:
                texts = [f"{name} {1e3 * row.shape.time * t.median:.3f}" for name, t in row.timings.items()]
                console.print(f"    {', '.join(texts)} ms a sequence", soft_wrap=True)
        if options.out is not None or not options.smoke:  # anew after every shape
            made.table(time_table(made.rows, 1e-6, heading))
            made.record["notes"] = notes_of(made.rows, cases[number + 1 :], options.minutes)
            made.write(notes=made.record["notes"])
    if options.smoke:
        console.print("smoke test: the numbers mean nothing")
    return int(any(why.startswith(DIFFERS) for row in made.rows for why in row.case["absent"].values()))


def points(smoke: bool, heads: bool = False) -> list[tuple[str, str, Shape]]:
    """Cell, dtype and shape, the most important first, since the time may not suffice for all."""
    if smoke:
        names, tiny = (HEADS, Shape(2, 3, 8, 48)) if heads else (CELLS, Shape(2, 3, 8, 8))
        return [(cell, dtype, tiny) for cell in names for dtype in DTYPES]
    usual = [(cell, dtype, shape) for shape in (BASE, *VARIED) for dtype in DTYPES for cell in CELLS]
    with_heads = [(cell, "bfloat16", shape) for cell, (_, _, shape) in HEADS.items()]
    return with_heads if heads else usual + with_heads


KERNELS = {
    "gpu": {"one SM": "mosaic_gpu_sm", "Triton": "triton", "cluster": "mosaic_gpu"},
    "tpu": {"kernel": "mosaic_tpu"},
}
"""By platform: our kernels' names here, and their backends in jaxrnn.ops.pallas."""


def kernels() -> dict[str, Implementation]:
    """Each kernel of this machine's accelerator as an implementation by itself. On a CPU, one of the GPU's as
    Pallas interprets it."""
    platform = jax.default_backend()
    if platform == "cpu":
        return {"Triton": kernel("triton", interpret=True)}
    return {name: kernel(backend) for name, backend in KERNELS[platform].items()}


def kernel(backend: str, *, interpret: bool = False) -> Implementation:
    device = getattr(importlib.import_module(f"jaxrnn.ops.pallas.{backend}"), backend.upper())

    def run(*arguments, reverse, unroll):
        return pallas_recurrence(device, *arguments, reverse=reverse, interpret=interpret)

    def unable(pointwise, arrays, platform):
        return device.unable(arrays) or not_a_tile(pointwise, arrays, device.lacks)

    return Implementation(run, unable, lambda *_: "timed by its own name")


def measure(made: Benchmark, cell: str, dtype: str, shape: Shape, seed: int) -> list[Row]:
    """All contestants at one shape: compiled side by side, compared, timed."""
    name = CELLS.get(cell, cell)
    own = first_cell(name, shape, dtype, seed)
    x = jax.random.normal(jax.random.key(seed), (shape.time, shape.batch, shape.in_features), dtype)

    def layer(implementation: str, unroll: int = 1) -> Contestant:
        options: Any = {"time_major": True, "implementation": implementation, "unroll": unroll}
        return base.layer_in_nnx(jaxrnn.RNN(own, **options), x)

    layers = {kernel: layer(kernel) for kernel in kernels()}
    layers |= {BASELINE: layer("scan"), UNROLLED: layer("scan", 8)}
    if cell == OWN:
        layers["scanned by hand"] = by_hand(own, x, hoisted=True, time_major=True)
    elif name in flax.NNX_CELLS:
        layers["nnx.RNN"] = flax.nnx_layer(name, own, x, time_major=True)
    first, absent = {}, {}
    with ThreadPoolExecutor() as pool:
        compiling = {contestant: pool.submit(first_calls, layer.calls()) for contestant, layer in layers.items()}
        for contestant, job in compiling.items():
            try:
                first[contestant] = job.result()
            except (ValueError, TypeError) as error:  # too large for the kernel; a dtype that Flax cannot scan
                absent[contestant] = str(error).strip().splitlines()[0]
                del layers[contestant]
    layers = {contestant: queued(layer) for contestant, layer in layers.items()}
    if name in flax.NNX_CELLS and torch.cudnn_is_missing() is None:
        inputs = {"cuDNN": x} | ({"cuDNN, float16": x.astype("float16")} if dtype == "bfloat16" else {})
        for contestant, array in inputs.items():
            layers[contestant] = torch.layer(name, own, array, time_major=True, calls=CALLS)
            first[contestant] = first_calls(layers[contestant].calls())
    for contestant, wrong in differing(first, dtype).items():
        absent[contestant] = f"{DIFFERS}: {wrong}"
        del layers[contestant]
    case = {"cell": cell, "dtype": dtype, "shape": shape, "auto": chosen(own, x), "absent": absent}
    title = f"{cell}, {dtype}, {shape}, {{}}; auto: {case['auto']}"
    options = {"seed": seed, "steps": CALLS * shape.time, "baseline": BASELINE}
    return by_mode(made, case, layers, first, title, **options)


def first_cell(name: str, shape: Shape, dtype: str, seed: int) -> jaxrnn.RecurrentCell:
    """Our cell. Its recurrent kernel is half as large as usual, so that rounding errors shrink from step to step:
    after thousands of steps in half precision the results of different programs can still be compared."""
    options: Any = {"dtype": dtype, "param_dtype": dtype, "rngs": Rngs(seed)}
    if name in HEADS:
        make, heads, _ = HEADS[name]
        cell = make(shape.in_features, shape.hidden, num_heads=heads, **options)
    elif name == OWN:
        cell = readme_cells()[OWN](shape.in_features, shape.hidden, **options)
    else:
        cell = ours.first_cell(name, shape.in_features, shape.hidden, seed=seed, dtype=jnp.dtype(dtype))
    cell.recurrent_kernel[...] *= 0.5
    return cell


def queued(layer: Contestant) -> Contestant:
    """Every function called several times; an accelerator runs the calls one after the other."""
    return Contestant(*(lambda call=call: [call() for _ in range(CALLS)][-1] for call in layer.calls().values()))


def differing(first: dict[str, FirstCalls], dtype: str) -> dict[str, str]:
    """The contestants whose functions did not return the same as the scan, and by how much they differ."""
    results = {name: comparison.layer_results(found) for name, found in first.items()}
    return comparison.differences(results, BASELINE, TOLERANCES[dtype])


def chosen(cell: jaxrnn.RecurrentCell, x: Any) -> str:
    """The implementation that ``implementation=None`` picks for this layer on this machine."""
    pointwise, params = cell.pure_pointwise()
    xw = jax.ShapeDtypeStruct((*x.shape[:-1], cell.num_gates * cell.hidden_features), x.dtype)
    carry = cell.initialize_carry(x.shape[1:])
    return ops.explain(pointwise, cell.recurrent_kernel[...], xw, carry, params=params).chosen


def notes_of(rows: list[Row], left: list[tuple[str, str, Shape]], minutes: float) -> list[str]:
    missing = torch.cudnn_is_missing()
    notes = [f"cuDNN: {missing}."] if missing else []
    if left:
        shapes = "; ".join(dict.fromkeys(str(shape) for *_, shape in left))
        notes.append(f"Not reached in {minutes:.2g} minutes: {len(left)} cases, at {shapes}.")
    # Which sizes the kernels can run is told elsewhere (jaxrnn/README.md), and an empty cell shows it.
    absent = [
        (f"{row.case['cell']}, {row.case['dtype']}, {row.shape}", name, why)
        for row in rows
        for name, why in row.case["absent"].items()
        if name not in kernels()
    ]
    return notes + sorted({f"{case}: {name}: {why}" for case, name, why in absent})


main = command(AcceleratorOptions, run, "accelerator", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
