"""Models as ONNX files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrnn import checks
from jaxrnn.export.files import PathLike, free_path, not_a_module, package, version, write_file
from jaxrnn.export.onnx_cells import run_step
from jaxrnn.export.onnx_graph import OLDEST_OPSET, Dim, Graph
from jaxrnn.export.onnx_models import plan_of, run_model
from jaxrnn.export.onnx_scan import Resets
from jaxrnn.export.stablehlo import require_evaluation, require_parameters, returns_to_zeros
from jaxrnn.export.window_model import append_window_model
from jaxrnn.layers import RNN


def to_onnx(
    model: nnx.Module,
    path: PathLike | None = None,
    *,
    batch: int | None = None,
    time: int | None = None,
    seq_lengths: bool = False,
    resets: bool = False,
    reset_carry: str | None = None,
    initial_carry: bool = False,
    return_carry: bool | None = None,
    opset: int = 17,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> bytes:
    """Export layers or a model as an ONNX model, weights included.

    A layer of SimpleRNN, LSTM or GRU becomes one operator, both directions included. Every other layer becomes a
    ``Scan`` over its cell's equations, which are translated operation by operation; so does every layer of a model
    that takes ``resets``, for which ONNX has no operators. A cell alone becomes one step. The model computes in
    float32: half-precision weights are widened, and nothing is rounded in between. Int8 weights, of a model that
    went through :func:`quantize`, stay int8 in the file; a runtime turns them into float32 when it loads it.

    Inputs and outputs of the ONNX model, float32 where nothing else is said; time comes first with ``time_major``:

    - ``inputs [batch, time, in_features]``, of a cell ``[batch, in_features]``, of a model of tokens int32
      ``[batch, time]``, from 0 to the number of tokens - 1;
    - ``seq_lengths``, int32 ``[batch]``, and ``resets``, bool ``[batch, time]``, if asked for;
    - ``initial_carry_0_h [batch, hidden]`` and so on, if asked for: the layer's number in a stack, ``forward`` or
      ``backward`` where it runs both ways (of a :class:`jaxrnn.Bidirectional` in another one,
      both words: ``backward_forward``), and ``h`` (an LSTM's: ``c``, then ``h``), in the order of
      ``jax.tree.leaves`` of the model's carry;
    - ``outputs``, of a forecaster ``forecasts``, of a classifier or a language model ``logits``; ``carry_0_h``
      and so on, if the carry is returned.

    Args:
      model: :class:`jaxrnn.RNN`, :class:`jaxrnn.Bidirectional`, :class:`jaxrnn.SimpleRNN`, :class:`jaxrnn.LSTM`,
        :class:`jaxrnn.GRU`, :class:`jaxrnn.StackedRNN`, :class:`jaxrnn.RNNForecaster`,
        :class:`jaxrnn.SequenceClassifier` or :class:`jaxrnn.LanguageModel`, of built-in cells, of cells of your
        own whose equations are elementwise or work within a row, or of Flax's own cells; or such a cell; or
        :class:`jaxrnn.forecasting.CalibratedNetworks`, whose page names its inputs.
      path: of the file to write; None only returns the bytes.
      batch, time: fixed sizes of these axes; with None the model takes any size of at least 1. There is no guard
        against an empty one: ONNX Runtime 1.32 ends the process at a GRU without steps or rows and at an LSTM
        without rows.
      seq_lengths: whether the model also takes ``seq_lengths``, from 0 to time.
      resets: whether the model also takes ``resets``: before a step where one is true, that row
        returns to its first carry.
      reset_carry: ``"zeros"`` lets it return to zeros instead, as in :class:`jaxrnn.RNN`.
      initial_carry: whether the model also takes the first carry; a cell always does.
      return_carry: whether it returns the final carry; None does what the model does. A cell returns it.
      opset: version of ONNX's operators, 14 or later; runtimes know those up to their own.
      metadata: more texts by name, to be stored in the model, such as its classes or how inputs are prepared; not
        ``inputs``, ``outputs`` and the other names that the export uses itself.
      overwrite: whether a file that exists may be replaced.

    Returns:
      The serialised model, which ``onnx.checker`` has checked. Its metadata name the versions, the model, its
      cells, and the names and shapes of inputs and outputs.

    Raises:
      ValueError: a cell, merge or model cannot be exported: the message names it; or an argument is invalid, the
        model is training with dropout or computes in float64, or the path exists already.
      ImportError: the package onnx is not installed.
      OSError: the file cannot be written.

    Source: https://onnx.ai/onnx/operators/onnx__RNN.html; onnx__LSTM.html, onnx__GRU.html and onnx__Scan.html
    beside it.

    >>> import jaxrnn
    >>> import numpy as np
    >>> import onnxruntime
    >>> from flax import nnx
    >>> model = jaxrnn.RNNForecaster(hidden_features=(20, 20), output_scale=200.0, rngs=nnx.Rngs(0))
    >>> session = onnxruntime.InferenceSession(to_onnx(model), providers=["CPUExecutionProvider"])
    >>> inputs = np.ones((8, 30, 1), np.float32)
    >>> (forecasts,) = session.run(None, {"inputs": inputs})
    >>> bool(np.allclose(forecasts, model(inputs), rtol=1e-5))
    True
    """
    if not isinstance(model, nnx.Module):
        raise ValueError(not_a_module(model, "a layer, cell or model"))
    is_cell = isinstance(model, nnx.RNNCellBase)
    onnx = package("onnx")
    free = None if path is None else free_path(path, overwrite)
    seq_lengths, resets = checks.flag("seq_lengths", seq_lengths), checks.flag("resets", resets)
    to_zeros = returns_to_zeros(reset_carry, resets)
    initial_carry = checks.flag("initial_carry", initial_carry) or is_cell
    return_carry = checks.flag("return_carry", return_carry, bool(getattr(model, "return_carry", is_cell)))
    opset, newest = checks.positive_integer("opset", opset), onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ValueError(f"opset must be from {OLDEST_OPSET} to {newest}, the newest of onnx {onnx.__version__}")
    texts = dict(metadata or {})
    for name, text in texts.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise ValueError(f"metadata must be texts by name, not {checks.shown(text)} by {checks.shown(name)}")
    require_evaluation(model)
    if is_cell and time is not None:
        raise ValueError(f"{time=} does not fit a {type(model).__name__}, which computes one step: leave it out")
    of_carry = {} if is_cell else {"initial_carry": initial_carry, "return_carry": return_carry}
    require_parameters(model, seq_lengths=seq_lengths, resets=resets, **of_carry)
    batch_size: Dim = "batch" if batch is None else checks.positive_integer("batch", batch)
    graph = Graph(opset)
    if hasattr(model, "append_to_onnx"):
        return _finished(graph, model, append_window_model(graph, model, batch_size, time), texts, free)
    plan = plan_of(RNN(model) if is_cell else model)
    _require_float32(model)
    steps: Dim = "time" if time is None else checks.positive_integer("time", time)
    layers = plan.layers.layers
    lead: list[Dim] = [steps, batch_size] if plan.layers.time_major else [batch_size, steps]
    if is_cell:
        lead = [batch_size]

    if plan.table is None:
        inputs = graph.input("inputs", [*lead, layers[0].cells[0].in_features])
    else:
        inputs = graph.input("inputs", lead, np.int32)
    lengths = graph.input("seq_lengths", [batch_size], np.int32) if seq_lengths else None
    reset = Resets(graph.input("resets", lead, np.bool_), to_zeros) if resets else None
    carries: list[list[Any]] = [[None] * len(layer.cells) for layer in layers]
    if initial_carry:
        carries = [
            [
                tuple(graph.input(f"initial_carry_{name}", [batch_size, cell.hidden]) for name in names)
                for names, cell in zip(layer.carry_names, layer.cells)
            ]
            for layer in layers
        ]
    if is_cell:
        step = run_step(graph, layers[0].cells[0], inputs, carries[0][0])
        outputs, finals = step.outputs, [[step.carry]]
    else:
        outputs, finals = run_model(graph, plan, inputs, lengths, carries, reset)
    shape = [*lead, plan.width] if plan.returns_sequences else [batch_size, plan.width]
    graph.output(plan.outputs, outputs, shape)
    if return_carry:
        for layer, directions in zip(layers, finals):
            for names, cell, parts in zip(layer.carry_names, layer.cells, directions):
                for name, part in zip(names, parts):
                    graph.output(f"carry_{name}", part, [batch_size, cell.hidden])
    cells = [[f"{c.kind} {c.in_features} -> {c.hidden}" for c in layer.cells] for layer in layers]
    return _finished(graph, model, {"cells": cells}, texts, free)


def _require_float32(model: nnx.Module) -> None:
    """A ValueError if a parameter is float64, or a part of the model computes in it."""
    if any(getattr(leaf, "dtype", None) == jnp.float64 for leaf in jax.tree.leaves(nnx.state(model))):
        raise ValueError("the model has float64 parameters, but an ONNX export computes in float32: convert them")
    for path, part in nnx.iter_modules(model):
        dtype = getattr(part, "dtype", None)
        if dtype is not None and jax.dtypes.canonicalize_dtype(dtype) == jnp.float64:
            name = ".".join(map(str, path)) or type(part).__name__
            raise ValueError(
                f"the model computes in float64 ({name}), but an ONNX export in float32: make it with dtype=None"
            )


def _finished(
    graph: Graph, model: nnx.Module, description: dict[str, Any], texts: dict[str, str], path: Path | None
) -> bytes:
    """The checked model as bytes, which are also written to the path if there is one."""
    name = type(model).__name__
    description |= {"model": name, "jaxrnn_version": version(), "jax_version": jax.__version__}
    reserved = sorted({"inputs", "outputs", *description} & set(texts))
    if reserved:
        raise ValueError(
            f"metadata must have other names than {', '.join(reserved)}, which the export uses for its own entries"
        )
    data = graph.finish(name, version(), description | texts)
    if path is not None:
        write_file(path, data)
    return data
