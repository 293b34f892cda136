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

import functools
import importlib
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxrnn
from benchmarks.common.command import Benchmark, ClockOptions, command
from benchmarks.common.report import progress
from benchmarks.common.rows import OURS, Shape, groups
from benchmarks.libraries.base import Contestant, layer_in_jax, layer_in_nnx
from benchmarks.libraries.flax import in_nnx_rnn
from benchmarks.libraries.torch import contestant
from benchmarks.user_cell import by_mode, compared
from jaxrnn.interop import load_xlstm_weights

SLSTM_SHAPES = [(heads, Shape(16, steps, 64, heads * 64)) for heads in (4, 12) for steps in (256, 1024)]
"""Heads of 64 units."""

XLSTM_STEPS = 256
"""The most steps with which xlstm takes part. Its backward pass copies the states of all steps at every step, so
its time grows with the square of their number."""

LSTM_SHAPE = Shape(16, 256, 64, 512)
LSTM_HEADS = 8


def run(options: ClockOptions) -> None:
    made = Benchmark(options, "heads", "Layers with heads", __doc__, quick=3, full=10)
    shapes = SLSTM_SHAPES[:1] if options.quick else SLSTM_SHAPES
    for heads, shape in progress(shapes):
        layer = f"sLSTM, {heads} heads of 64"
        layers = compared(functools.partial(slstms, heads), shape, layer)
        by_mode(made, {"layer": layer, "shape": shape}, layers)
    by_mode(made, {"layer": f"LSTM, {LSTM_HEADS} heads", "shape": LSTM_SHAPE}, lstms(LSTM_SHAPE))
    for (layer, mode), group in groups(made.rows, "layer", "mode").items():
        made.tables(f"{layer}, {mode}", group)
    made.write()


def inputs_of(shape: Shape) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape[:3]).astype(np.float32)


def lstms(shape: Shape) -> dict[str, Contestant]:
    """With heads and without: different layers, so only their times are compared."""
    found = {}
    for name, heads in ((OURS, LSTM_HEADS), ("1 head", 1)):
        cell = jaxrnn.LSTMCell(shape.in_features, shape.hidden, num_heads=heads, rngs=nnx.Rngs(0))
        found[name] = layer_in_nnx(jaxrnn.RNN(cell), inputs_of(shape))
    return found


def slstms(heads: int, shape: Shape) -> dict[str, Contestant]:
    """The layers, all with the same weights and inputs."""
    inputs = inputs_of(shape)
    cell = jaxrnn.SLSTMCell(shape.in_features, shape.hidden, num_heads=heads, rngs=nnx.Rngs(0))
    found = {OURS: layer_in_nnx(jaxrnn.RNN(cell), inputs)}
    if importlib.util.find_spec("xlstm") is not None and shape.time <= XLSTM_STEPS:
        found["xlstm"] = _in_torch(cell, inputs)
    found["by hand, hoisted"] = layer_in_jax(by_hand, nnx.to_pure_dict(nnx.state(cell)), inputs)
    return found | {"nnx.RNN": in_nnx_rnn(cell, inputs)}


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
    sizes = {"hidden_size": cell.hidden_features, "num_heads": cell.num_heads, "output_shape": "BSH"}
    precision = {"dtype": "float32", "enable_automatic_mixed_precision": False}
    config = package.sLSTMCellConfig(backend="vanilla", **sizes, **precision)
    gates = torch.nn.Linear(cell.in_features, 4 * cell.hidden_features, bias=False)
    module = package.sLSTMCell_vanilla(config)
    assert cell.bias is not None
    with torch.no_grad():
        gates.weight.copy_(torch.tensor(np.array(cell.kernel[...]).T))
        module._recurrent_kernel_.copy_(torch.tensor(np.swapaxes(np.array(cell.recurrent_kernel[...]), 1, 2)))
        module._bias_.copy_(torch.tensor(np.array(cell.bias[...])))
    load_xlstm_weights(cell, module.state_dict())  # raises if a name or a shape is another one
    params = [*gates.parameters(), *module.parameters()]
    return contestant(lambda x: module(gates(x))[0], params, torch.tensor(inputs))


main = command(ClockOptions, run, "heads", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
