"""Layers as ONNX graphs: what their calls do, operator by operator."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrnn.checks import Cell
from jaxrnn.export.onnx_cells import exported_cell, run_layer
from jaxrnn.export.onnx_graph import Graph
from jaxrnn.export.onnx_scan import ExportedCell, Resets
from jaxrnn.layers import RNN, Bidirectional, StackedRNN
from jaxrnn.layers.arguments import errors_of
from jaxrnn.layers.rnn import concatenate_features
from jaxrnn.layers.stack import add_features, average_features, check_skip_connection

Outputs = Callable[[Graph, Sequence[str]], str]
"""Appends the merge of the outputs of a layer's cells."""


class Layer(NamedTuple):
    """One layer of a model: cells that all read the same sequence.

    Attributes:
      cells: one, those of both directions, or those of nested pairs.
      names: of each cell, for the names of its carry; empty where it is the only one.
      reverses: whether each cell runs from the last step to the first.
      merge: of their outputs.
      width: of the merged outputs.
      name: for errors and for the names of its carry; empty where it is the only layer.
      flip: whether the outputs are passed on in the order in which they were computed, from the last step back.
      skip: whether the inputs are added to the outputs.
    """

    cells: tuple[ExportedCell, ...]
    names: tuple[str, ...]
    reverses: tuple[bool, ...]
    merge: Outputs
    width: int
    name: str = ""
    flip: bool = False
    skip: bool = False

    @property
    def carry_names(self) -> Iterator[tuple[str, ...]]:
        """Of each cell, the ends of the names of its carry's parts."""
        for cell, name in zip(self.cells, self.names):
            yield tuple("_".join(filter(None, (self.name, name, part))) for part in cell.parts)


class Plan(NamedTuple):
    """What layers compute.

    Attributes:
      layers: the lowest first.
      return_sequences: whether the outputs of every step are returned.
      time_major: of inputs and outputs.
    """

    layers: tuple[Layer, ...]
    return_sequences: bool = True
    time_major: bool = False

    @property
    def width(self) -> int:
        """Size of the last axis of the outputs."""
        return self.layers[-1].width


def run_layers(
    graph: Graph,
    plan: Plan,
    sequence: str,
    lengths: str | None,
    carries: list[list[Any]],
    resets: Resets | None = None,
) -> tuple[str, list[list[tuple[str, ...]]]]:
    """Append layers.

    Args:
      graph: what to append to.
      plan: of the layers.
      sequence: ``[time, batch, in_features]``.
      lengths: int32 ``[batch]``, or None.
      carries: of each layer, for each cell, the parts of its first carry or None.
      resets: where the carry returns to its first one, or None.

    Returns:
      The outputs, ``[time, batch, features]`` or, of the last step alone, ``[batch, features]``, and the final
      carries.
    """
    finals, result = [], sequence
    for number, (layer, carry) in enumerate(zip(plan.layers, carries, strict=True)):
        cells = run_layer(graph, layer.cells, sequence, lengths, carry, reverses=layer.reverses, resets=resets)
        finals.append([cell.carry for cell in cells])
        outputs = [cell.outputs for cell in cells]
        if number == len(plan.layers) - 1 and not plan.return_sequences:
            lasts = [_last(graph, one, lengths, reverse) for one, reverse in zip(outputs, layer.reverses)]
            result = layer.merge(graph, lasts)
            if layer.skip:
                result = graph.add("Add", result, _last_read(graph, layer, sequence, lengths))
            break
        result = layer.merge(graph, outputs)
        if layer.skip:
            result = graph.add("Add", result, sequence)
        if layer.flip:
            result = _flipped(graph, result, lengths)
        sequence = result
    return result, finals


def plan_of_rnn(rnn: RNN) -> Plan:
    layer = _layer_of_cell(rnn.cell, rnn.reverse)._replace(flip=rnn.reverse and not rnn.keep_order)
    return Plan((layer,), time_major=rnn.time_major)


def plan_of_bidirectional(layers: Bidirectional) -> Plan:
    return Plan((_layer_of_bidirectional(layers),), time_major=layers.time_major)


def _layer_of_bidirectional(layers: Bidirectional) -> Layer:
    """Its members may be pairs themselves: these ignore in which direction they are told to run, as in Flax."""
    members = []
    for rnn, reverse in ((layers.forward_rnn, False), (layers.backward_rnn, True)):
        if isinstance(rnn, RNN) and type(rnn).__call__ is RNN.__call__:
            members.append(_layer_of_cell(rnn.cell, reverse))
        elif isinstance(rnn, Bidirectional) and type(rnn).__call__ is Bidirectional.__call__:
            members.append(_layer_of_bidirectional(rnn))
        else:
            raise ValueError(
                f"a Bidirectional of {type(rnn).__name__} cannot be exported to ONNX, only of jaxrnn.RNN and "
                "jaxrnn.Bidirectional"
            )
    return _pair(*members, merge=_merge_of(layers.merge_fn))


def plan_of_stack(stack: StackedRNN) -> Plan:
    if stack.zoneout is not None:
        raise ValueError(
            "a stack with zoneout cannot be exported to ONNX: after eval(), a step is not a cell's alone"
        )
    layers: list[Layer] = []
    merge = _merge_of(stack.merge_fn) if stack.bidirectional else None
    for number, forward in enumerate(stack.cells):
        with errors_of(f"layer {number}"):
            layer = _layer_of_cell(forward, stack.reverse)
            if merge is not None:
                layer = _pair(layer, _layer_of_cell(stack.backward_cells[number], True), merge=merge)
            for cell in layer.cells:
                if layers and cell.in_features != layers[-1].width:
                    raise ValueError(
                        f"it reads {cell.in_features} features, but the layer below puts out {layers[-1].width}"
                    )
        skip = stack.skip_connections and number > 0
        if skip:
            check_skip_connection(number, (layers[-1].width,), (layer.width,))
        layers.append(layer._replace(name=str(number), skip=skip))
    layers[-1] = layers[-1]._replace(flip=stack.reverse and not stack.keep_order)
    return Plan(tuple(layers), return_sequences=stack.return_sequences, time_major=stack.time_major)


def _layer_of_cell(cell: Cell, reverse: bool) -> Layer:
    exported = exported_cell(cell)
    return Layer((exported,), ("",), (reverse,), lambda graph, outputs: outputs[0], exported.hidden)


def _pair(forward: Layer, backward: Layer, *, merge: Any) -> Layer:
    """Both layers over the same sequence, and the merge of what they return."""
    count = len(forward.cells)
    names = [("forward", name) for name in forward.names] + [("backward", name) for name in backward.names]

    def merged(graph: Graph, outputs: Sequence[str]) -> str:
        return merge(graph, forward.merge(graph, outputs[:count]), backward.merge(graph, outputs[count:]))

    return Layer(
        forward.cells + backward.cells,
        tuple("_".join(filter(None, name)) for name in names),
        forward.reverses + backward.reverses,
        merged,
        forward.width + (backward.width if merge is _concatenated else 0),
    )


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


def _last_read(graph: Graph, layer: Layer, sequence: str, lengths: str | None) -> str:
    """What a layer reads at the step computed last; of two directions, side by side, at that of each."""
    last = _last(graph, sequence, lengths, layer.reverses == (True,))
    forward, *backward = (cell.hidden for cell in layer.cells)
    if not backward or forward + sum(backward) != layer.width:
        return last
    start, middle, end, axis = (graph.integers(n) for n in (0, forward, layer.width, -1))
    back = graph.add("Slice", _last(graph, sequence, lengths, True), middle, end, axis)
    return graph.add("Concat", graph.add("Slice", last, start, middle, axis), back, axis=-1)


def _flipped(graph: Graph, sequence: str, lengths: str | None) -> str:
    """``[time, batch, features]`` backwards, row by row within its length."""
    if lengths is not None:
        whole = graph.add("Cast", lengths, to=7)  # 7: int64
        return graph.add("ReverseSequence", sequence, whole, time_axis=0, batch_axis=1)
    start, end = graph.integers(-1), graph.integers(-(2**63))
    return graph.add("Slice", sequence, start, end, graph.integers(0), graph.integers(-1))
