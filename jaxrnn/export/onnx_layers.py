"""Layers and models as ONNX graphs: what their calls do, operator by operator."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrnn.checks import Cell
from jaxrnn.export.onnx_cells import ExportedCell, exported_cell, run_layer
from jaxrnn.export.onnx_graph import Graph
from jaxrnn.layers import RNN, Bidirectional, StackedRNN
from jaxrnn.layers.arguments import errors_of
from jaxrnn.layers.rnn import concatenate_features
from jaxrnn.layers.stack import add_features, average_features
from jaxrnn.models import RNNForecaster


class Layer(NamedTuple):
    """One layer of a model.

    Attributes:
      name: for errors and for the names of its carry; empty where it is the only one.
      cells: one, or those of both directions.
    """

    name: str
    cells: tuple[ExportedCell, ...]

    @property
    def carry_names(self) -> Iterator[tuple[str, ...]]:
        """Of each direction, the ends of the names of its carry's parts."""
        for cell, direction in zip(self.cells, ("forward", "backward") if len(self.cells) == 2 else ("",)):
            yield tuple("_".join(filter(None, (self.name, direction, part))) for part in cell.parts)


class Plan(NamedTuple):
    """What a model computes.

    Attributes:
      layers: the lowest first.
      merge: of the outputs of both directions; None where there is one.
      reverse: whether a single direction runs backwards.
      flip: whether its outputs are returned in the order in which they were computed.
      return_sequences: whether the outputs of every step are returned.
      skip_connections: as in :class:`jaxrnn.StackedRNN`.
      time_major: of inputs and outputs.
      head: kernel ``[hidden, features]``, bias or None, and scale of a forecaster; None for layers alone.
    """

    layers: tuple[Layer, ...]
    merge: Any = None
    reverse: bool = False
    flip: bool = False
    return_sequences: bool = True
    skip_connections: bool = False
    time_major: bool = False
    head: tuple[np.ndarray, np.ndarray | None, np.ndarray] | None = None


def plan_of(model: Any) -> Plan:
    """The plan of a layer or model, or a ValueError that says what cannot be exported."""
    for kind, plan in _PLANS.items():
        if isinstance(model, kind):
            if type(model).__call__ is not kind.__call__:
                raise ValueError(
                    f"a {type(model).__name__} has a __call__ of its own, which cannot be exported to ONNX"
                )
            return plan(model)
    hint = ": put the cell into jaxrnn.RNN(cell)" if isinstance(model, nnx.RNNCellBase) else ""
    kinds = ", ".join(f"jaxrnn.{kind.__name__}" for kind in _PLANS)
    raise ValueError(f"to_onnx exports {kinds} and their kinds, not a {type(model).__name__}{hint}")


def run_plan(
    graph: Graph, plan: Plan, inputs: str, lengths: str | None, carries: list[list[Any]]
) -> tuple[str, list[list[tuple[str, ...]]]]:
    """Append a model.

    Args:
      graph: what to append to.
      plan: of the model.
      inputs: as the model takes them.
      lengths: int32 ``[batch]``, or None.
      carries: of each layer, for each direction, the parts of its first carry or None.

    Returns:
      The outputs as the model returns them, and the final carries.
    """
    sequence = inputs if plan.time_major else graph.add("Transpose", inputs, perm=[1, 0, 2])
    finals, result = [], sequence
    for number, (layer, carry) in enumerate(zip(plan.layers, carries, strict=True)):
        directions = run_layer(graph, layer.cells, sequence, lengths, carry, reverse=plan.reverse)
        finals.append([direction.carry for direction in directions])
        outputs = [direction.outputs for direction in directions]
        top = number == len(plan.layers) - 1
        if top and not plan.return_sequences:
            backwards = [plan.reverse] if len(outputs) == 1 else [False, True]
            lasts = [_last(graph, one, lengths, reverse) for one, reverse in zip(outputs, backwards)]
            result = _merged(graph, plan, lasts)
            if plan.skip_connections and number > 0:
                result = graph.add("Add", result, _last(graph, sequence, lengths, plan.reverse))
            break
        result = _merged(graph, plan, outputs)
        if plan.skip_connections and number > 0:
            result = graph.add("Add", result, sequence)
        sequence = result
    if plan.return_sequences:
        if plan.flip:
            result = _flipped(graph, result, lengths)
        if not plan.time_major:
            result = graph.add("Transpose", result, perm=[1, 0, 2])
    if plan.head is not None:
        kernel, bias, scale = plan.head
        result = graph.add("MatMul", result, graph.constant(kernel, name="head_kernel"))
        if bias is not None:
            result = graph.add("Add", result, graph.constant(bias, name="head_bias"))
        result = graph.add("Mul", result, graph.constant(scale, name="output_scale"))
    return result, finals


def width_of(plan: Plan) -> int:
    """Size of the last axis of the outputs."""
    if plan.head is not None:
        return plan.head[0].shape[1]
    sizes = [cell.hidden for cell in plan.layers[-1].cells]
    return sum(sizes) if plan.merge is _concatenated else sizes[0]


def _plan_of_rnn(layer: RNN) -> Plan:
    flip = layer.reverse and not layer.keep_order
    layers = (_layer("", layer.cell),)
    return Plan(layers, reverse=layer.reverse, flip=flip, time_major=layer.time_major)


def _plan_of_bidirectional(layers: Bidirectional) -> Plan:
    pair = (layers.forward_rnn, layers.backward_rnn)
    for rnn in pair:
        if not isinstance(rnn, RNN) or type(rnn).__call__ is not RNN.__call__:
            raise ValueError(
                f"a Bidirectional of {type(rnn).__name__} cannot be exported to ONNX, only of jaxrnn.RNN"
            )
    merge = _merge_of(layers.merge_fn)
    return Plan((_layer("", *(rnn.cell for rnn in pair)),), merge, time_major=layers.time_major)


def _plan_of_stack(stack: StackedRNN) -> Plan:
    layers = tuple(
        _layer(str(number), *cells)
        for number, cells in enumerate(zip(stack.cells, *([stack.backward_cells] if stack.bidirectional else [])))
    )
    merge = _merge_of(stack.merge_fn) if stack.bidirectional else None
    plan = Plan(
        layers,
        merge,
        reverse=stack.reverse,
        flip=stack.reverse and not stack.keep_order,
        return_sequences=stack.return_sequences,
        skip_connections=stack.skip_connections,
        time_major=stack.time_major,
    )
    for below, layer in zip(plan.layers, plan.layers[1:]):
        width = width_of(plan._replace(layers=(below,)))
        for cell in layer.cells:
            if cell.in_features != width:
                reads = f"layer {layer.name}: it reads {cell.in_features} features"
                raise ValueError(f"{reads}, but the layer below puts out {width}")
    return plan


def _plan_of_forecaster(model: RNNForecaster) -> Plan:
    head = model.head
    if type(model.layers).__call__ is not StackedRNN.__call__ or type(head) is not nnx.Linear:
        raise ValueError(
            f"a forecaster of a {type(model.layers).__name__} and a {type(head).__name__} cannot be exported to "
            "ONNX, only of a StackedRNN and an nnx.Linear"
        )
    bias = None if head.bias is None else np.asarray(head.bias[...], np.float32)
    kernel, scale = np.asarray(head.kernel[...], np.float32), np.asarray(model.output_scale, np.float32)
    return _plan_of_stack(model.layers)._replace(head=(kernel, bias, scale))


_PLANS: dict[Any, Callable[[Any], Plan]] = {
    RNN: _plan_of_rnn,
    Bidirectional: _plan_of_bidirectional,
    StackedRNN: _plan_of_stack,
    RNNForecaster: _plan_of_forecaster,
}


def _layer(name: str, *cells: Cell) -> Layer:
    if not name:
        return Layer(name, tuple(map(exported_cell, cells)))
    with errors_of(f"layer {name}"):
        return Layer(name, tuple(map(exported_cell, cells)))


def _concatenated(graph: Graph, forward: str, backward: str) -> str:
    return graph.add("Concat", forward, backward, axis=-1)


def _added(graph: Graph, forward: str, backward: str) -> str:
    return graph.add("Add", forward, backward)


def _averaged(graph: Graph, forward: str, backward: str) -> str:
    return graph.add("Mul", _added(graph, forward, backward), graph.constant(0.5))


_MERGES = {
    concatenate_features: _concatenated,
    add_features: _added,
    jnp.add: _added,
    average_features: _averaged,
}


def _merge_of(function: Any) -> Any:
    if function not in _MERGES:
        name = getattr(function, "__name__", repr(function))
        raise ValueError(f'the merge {name} cannot be exported to ONNX, only "concat", "sum" and "mean"')
    return _MERGES[function]


def _merged(graph: Graph, plan: Plan, outputs: list[str]) -> str:
    return outputs[0] if len(outputs) == 1 else plan.merge(graph, *outputs)


def _last(graph: Graph, sequence: str, lengths: str | None, reverse: bool) -> str:
    """The output computed last, ``[batch, features]``, of a sequence ``[time, batch, features]``."""
    if reverse or lengths is None:
        return graph.add("Gather", sequence, graph.constant(0 if reverse else -1, np.int64), axis=0)
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    steps = graph.add("Max", graph.add("Sub", graph.add("Cast", lengths, to=7), one), zero)  # 7: int64
    batch = graph.add("Gather", graph.add("Shape", lengths), zero)
    columns = [steps, graph.add("Range", zero, batch, one)]
    places = [graph.add("Unsqueeze", column, graph.integers(1)) for column in columns]
    return graph.add("GatherND", sequence, graph.add("Concat", *places, axis=1))


def _flipped(graph: Graph, sequence: str, lengths: str | None) -> str:
    """``[time, batch, features]`` backwards, row by row within its length."""
    if lengths is not None:
        whole = graph.add("Cast", lengths, to=7)  # 7: int64
        return graph.add("ReverseSequence", sequence, whole, time_axis=0, batch_axis=1)
    start, end = graph.integers(-1), graph.integers(-(2**63))
    return graph.add("Slice", sequence, start, end, graph.integers(0), graph.integers(-1))
