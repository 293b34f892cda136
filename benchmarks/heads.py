"""Time layers with heads: the sLSTM against other libraries, and an LSTM with 8 heads against one with 1.

    python -m benchmarks.heads --quick                              # the smallest shapes, a minute
    python -m benchmarks.heads                                      # all shapes, half an hour
    taskset -c 0 python -m benchmarks.heads --processor-time        # where others use the machine, too

A training step computes the mean of the squared outputs and its gradients with respect to the parameters. The
sLSTM is that of the PyTorch package ``xlstm`` with its vanilla backend, behind a linear layer for its gates (it
takes part if the package is installed), and the same equations in ``jax.lax.scan`` with plain autodiff, as one
writes them by hand in Flax: the input projection once before the scan, or within each step, as ``flax.nnx.RNN``
does. All have the same float32 weights, and the losses and gradients of 16 steps are compared before any timing.
benchmarks/common/timing.py describes how the time is taken. Ratios are the time of the others divided by ours,
pair by pair: above 1, ours is faster.
"""

import importlib
import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

import jaxrnn
from benchmarks.common import comparison
from benchmarks.common.command import Options, command
from benchmarks.common.report import Report, medians, progress
from benchmarks.common.rows import OURS, Row, Shape, groups, ratio_table, time_table
from benchmarks.common.timing import interleave
from benchmarks.libraries.base import Contestant, layer_in_jax, layer_in_nnx
from jaxrnn.interop import load_xlstm_weights

SLSTM_SHAPES = [(heads, Shape(16, steps, 64, heads * 64)) for heads in (4, 12) for steps in (256, 1024)]
"""Heads of 64 units."""

XLSTM_STEPS = 256
"""The most steps with which xlstm takes part. Its backward pass copies the states of all steps at every step, so
its time grows with the square of their number."""

LSTM_SHAPE = Shape(16, 256, 64, 512)
LSTM_HEADS = 8

MODES = {"training step": "train", "forward pass": "forward"}
"""What is timed, and the attribute of a contestant that does it."""

TOLERANCE = comparison.Tolerance(1e-4, relative=True)
CHECKED_STEPS = 16


@dataclass(frozen=True)
class HeadsOptions(Options):
    """What to measure."""

    processor_time: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure the processor time of this process, all threads together, in place of the time on the wall."""


def run(options: HeadsOptions) -> None:
    repetitions = options.given(options.repetitions, quick=3, full=10)
    shapes = options.given(None, quick=SLSTM_SHAPES[:1], full=SLSTM_SHAPES)
    clock = time.process_time if options.processor_time else time.perf_counter
    machine = options.start()
    rows = []
    with progress((len(shapes) + 1) * repetitions * len(MODES)) as update:
        for heads, shape in [*shapes, (LSTM_HEADS, LSTM_SHAPE)]:
            is_lstm = shape == LSTM_SHAPE
            layer = f"LSTM, {heads} heads" if is_lstm else f"sLSTM, {heads} heads of 64"
            update(f"{layer}, {shape}")
            if is_lstm:
                layers = {OURS: lstm(shape, heads), "1 head": lstm(shape, 1)}
            else:
                comparison.check_training(
                    slstms(heads, shape._replace(time=CHECKED_STEPS)), f"{layer}, {shape}", OURS, TOLERANCE
                )
                layers = slstms(heads, shape)
            for mode, attribute in MODES.items():
                calls = {name: getattr(layer, attribute) for name, layer in layers.items()}
                timings = interleave(calls, repetitions, advance=update, clock=clock)
                rows.append(Row({"layer": layer, "mode": mode, "shape": shape}, timings))
    results = {
        "repetitions": repetitions,
        "processor_time": options.processor_time,
        "rows": [row.as_json() for row in rows],
    }
    report(rows, repetitions, options.processor_time).write(options.name("heads"), results, machine, options.out)


def inputs_of(shape: Shape) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape[:3]).astype(np.float32)


def lstm(shape: Shape, heads: int) -> Contestant:
    cell = jaxrnn.LSTMCell(shape.in_features, shape.hidden, num_heads=heads, rngs=nnx.Rngs(0))
    return layer_in_nnx(jaxrnn.RNN(cell), inputs_of(shape))


def slstms(heads: int, shape: Shape) -> dict[str, Contestant]:
    """The layers, all with the same weights and inputs."""
    inputs = inputs_of(shape)
    cell = jaxrnn.SLSTMCell(shape.in_features, shape.hidden, num_heads=heads, rngs=nnx.Rngs(0))
    found = {OURS: layer_in_nnx(jaxrnn.RNN(cell), inputs)}
    if importlib.util.find_spec("xlstm") is not None and shape.time <= XLSTM_STEPS:
        found["xlstm"] = _in_torch(cell, inputs)
    params = nnx.to_pure_dict(nnx.state(cell))
    found["by hand, hoisted"] = layer_in_jax(by_hand, params, inputs)
    graphdef, state, rest = nnx.split(nnx.RNN(cell), nnx.Param, ...)
    first = cell.initialize_carry((shape.batch, shape.in_features))
    found["nnx.RNN"] = layer_in_jax(
        lambda p, x: nnx.merge(graphdef, p, rest)(x, initial_carry=first), state, inputs
    )
    return found


def by_hand(params: Any, x: Any) -> Any:
    """The outputs ``[batch, time, hidden]`` of an sLSTM that is scanned by hand."""
    heads, units, _ = params["recurrent_kernel"].shape
    batch = x.shape[0]
    xw = (x @ params["kernel"] + params["bias"]).reshape(batch, -1, 4, heads, units)

    def step(carry: Any, xw: Any) -> Any:
        c, n, m, h = carry
        rh = jnp.einsum("bni,nio->bno", h, params["recurrent_kernel"]).reshape(batch, heads, 4, units)
        i, f, z, o = jnp.moveaxis(xw + jnp.moveaxis(rh, 2, 1), 1, 0)
        log_f = jax.nn.log_sigmoid(f) + m
        new_m = jnp.where(n == 0, i, jnp.maximum(i, log_f))
        i, f = jnp.exp(i - new_m), jnp.minimum(jnp.exp(log_f - new_m), 1)
        c, n = f * c + i * jnp.tanh(z), f * n + i
        h = jax.nn.sigmoid(o) * c / n
        return (c, n, new_m, h), h

    zeros = (jnp.zeros((batch, heads, units), x.dtype),) * 4
    outputs = jax.lax.scan(step, zeros, jnp.moveaxis(xw, 1, 0))[1]
    return jnp.moveaxis(outputs, 0, 1).reshape(batch, -1, heads * units)


def _in_torch(cell: jaxrnn.SLSTMCell, inputs: np.ndarray) -> Contestant:
    torch, package = importlib.import_module("torch"), importlib.import_module("xlstm.blocks.slstm.cell")
    config = package.sLSTMCellConfig(
        hidden_size=cell.hidden_features,
        num_heads=cell.num_heads,
        backend="vanilla",
        dtype="float32",
        enable_automatic_mixed_precision=False,
        output_shape="BSH",
    )
    gates = torch.nn.Linear(cell.in_features, 4 * cell.hidden_features, bias=False)
    module = package.sLSTMCell_vanilla(config)
    assert cell.bias is not None
    with torch.no_grad():
        gates.weight.copy_(torch.tensor(np.array(cell.kernel[...]).T))
        module._recurrent_kernel_.copy_(torch.tensor(np.swapaxes(np.array(cell.recurrent_kernel[...]), 1, 2)))
        module._bias_.copy_(torch.tensor(np.array(cell.bias[...])))
    load_xlstm_weights(cell, module.state_dict())  # raises if a name or a shape is another one
    x, params = torch.tensor(inputs), [*gates.parameters(), *module.parameters()]

    def forward() -> Any:
        with torch.inference_mode():
            return module(gates(x))[0]

    def train() -> tuple[Any, Any]:
        loss = module(gates(x))[0].square().mean()
        return loss.detach(), torch.autograd.grad(loss, params)

    return Contestant(forward, train)


def report(rows: Sequence[Row], repetitions: int, processor_time: bool) -> Report:
    unit = "Milliseconds of processor time" if processor_time else "Milliseconds"
    made = Report("Layers with heads", medians(unit, repetitions), __doc__)
    for (layer, mode), group in groups(rows, "layer", "mode").items():
        made.add(f"## {layer}, {mode}")
        made.table(time_table(group), f"{layer}: {mode}, ms")
        made.table(ratio_table(group), "divided by ours")
    return made


main = command(HeadsOptions, run, "heads", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
