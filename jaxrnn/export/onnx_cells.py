"""Cells as ONNX operators: one RNN, LSTM or GRU operator for a layer, both of its directions included.

=============== =========================== ==================================================================
                jaxrnn                      ONNX
=============== =========================== ==================================================================
kernels         [in_features, gates * h]    [directions, gates * h, in_features]
LSTM gates      i f g o                     i o f c (c is g)
GRU gates       r z n                       z r h (h is n)
GRU update      (1 - z) * n + z * h_{t-1}   (1 - z) * h + z * H_{t-1}: the same
GRU variant     reset_after                 linear_before_reset
biases          one; GRU reset_after: two   [directions, 2 * gates * h]: of the input, then of the recurrence
=============== =========================== ==================================================================

Source: https://onnx.ai/onnx/operators/onnx__RNN.html, onnx__LSTM.html and onnx__GRU.html there.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.cells.base import steps_on_engine
from jaxrnn.cells.inference import is_quantized
from jaxrnn.cells.linear import steps_linearly
from jaxrnn.checks import Cell
from jaxrnn.export.onnx_equations import UntranslatableError
from jaxrnn.export.onnx_graph import OLDEST_OPSET, Graph, Kernel
from jaxrnn.export.onnx_linear import linear_equations
from jaxrnn.export.onnx_scan import (
    ExportedCell,
    Resets,
    append_equations,
    append_step,
    input_projection,
    scan_cell,
)
from jaxrnn.layers.flax_cells import carry_for_engine, translated
from jaxrnn.layers.sequence import first_carry
from jaxrnn.ops.activations import ACTIVATIONS
from jaxrnn.ops.pointwise import gru_pointwise, gru_reset_before_pointwise, lstm_pointwise, simple_rnn_pointwise
from jaxrnn.ops.step import Pointwise, Projection


class Operator(NamedTuple):
    """An ONNX operator that computes a cell.

    Attributes:
      name: RNN, LSTM or GRU.
      gates: the cell's gates in the operator's order.
      attributes: of one direction, each a list but ``linear_before_reset``.
    """

    name: str
    gates: tuple[int, ...]
    attributes: dict[str, Any]


_ACTIVATIONS: dict[str, dict[str, Any]] = {
    "tanh": {"activations": ["Tanh"]},
    "relu": {"activations": ["Relu"]},
    "sigmoid": {"activations": ["Sigmoid"]},
    "softsign": {"activations": ["Softsign"]},
    "identity": {"activations": ["Affine"], "activation_alpha": [1.0], "activation_beta": [0.0]},
}

OPERATORS: dict[Pointwise, Operator] = {
    lstm_pointwise: Operator("LSTM", (0, 3, 1, 2), {}),
    gru_pointwise: Operator("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    gru_reset_before_pointwise: Operator("GRU", (1, 0, 2), {"linear_before_reset": 0}),
} | {
    simple_rnn_pointwise(ACTIVATIONS[name]): Operator("RNN", (0,), attributes)
    for name, attributes in _ACTIVATIONS.items()
}


class Direction(NamedTuple):
    """What a layer computes in one direction.

    Attributes:
      outputs: ``[time, batch, hidden]``, aligned with the inputs, zero past the lengths.
      carry: each part ``[batch, hidden]``.
    """

    outputs: str
    carry: tuple[str, ...]


def exported_cell(cell: Cell) -> ExportedCell:
    """The cell as the export needs it, or a ValueError that names it."""
    kind = type(cell).__name__
    in_features = getattr(cell, "in_features", None)
    if not isinstance(in_features, int):
        raise ValueError(f"a {kind} cannot be exported to ONNX: jaxrnn does not know its equations")
    x = jnp.zeros((1, 2, in_features), jnp.float32)
    carry = first_carry(cell, x, None)
    if steps_linearly(cell):
        of_inputs = linear_equations(cell)
        weights = of_inputs.kernel, np.zeros((cell.hidden_features, 0), np.float32), of_inputs.bias, None
        return _checked(kind, carry, of_inputs.pointwise, (), weights)
    if steps_on_engine(cell):
        engine_cell: Any = cell
    else:
        engine_cell = translated(cell, x, carry)
        carry = carry_for_engine(carry)
    if engine_cell is None:
        raise ValueError(
            f"a {kind} cannot be exported to ONNX: it is no jaxrnn.RecurrentCell, or has a __call__ of its own, "
            "and it is not one of Flax's cells as they come"
        )
    projection = engine_cell.lazy_projection(x, False)
    if not isinstance(projection, Projection):
        raise ValueError(f"a {kind} cannot be exported to ONNX: it has an input_projection of its own")
    pointwise, params = engine_cell.pure_pointwise()
    recurrent_kernel, recurrent_bias = engine_cell.recurrent_parameters(jnp.dtype(jnp.float32))
    if recurrent_kernel.ndim == 3:
        recurrent_kernel = _block_diagonal(recurrent_kernel)
        if pointwise is gru_reset_before_pointwise:  # the candidate's recurrent kernel has heads too
            params = _block_diagonal(params)
    weights = projection.kernel, recurrent_kernel, projection.bias, recurrent_bias
    exported = _checked(kind, carry, pointwise, params, weights)
    if is_quantized(engine_cell):
        columns = np.asarray(engine_cell.kernel.integers.scale, np.float32)
        recurrent = np.asarray(engine_cell.recurrent_kernel.integers.scale, np.float32)
        if recurrent.ndim == 2:  # of heads: [heads, gates, units] becomes [gates, heads, units], as in the matrix
            recurrent = recurrent.reshape(len(recurrent), engine_cell.num_gates, -1).swapaxes(0, 1).ravel()
        exported = exported._replace(kernel_scale=columns, recurrent_kernel_scale=recurrent)
    return exported


def _checked(kind: str, carry: Any, pointwise: Any, params: Any, weights: tuple[Any, ...]) -> ExportedCell:
    """The cell, if its first carry and its equations can be exported."""
    kernel, recurrent_kernel, *biases = (None if array is None else _single(array) for array in weights)
    assert kernel is not None and recurrent_kernel is not None
    leaves = [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(carry)]
    if any((leaf[0] != leaf[1]).any() for leaf in leaves):
        raise ValueError(f"a {kind} with a random first carry cannot be exported: pass initial_carry=True")
    exported = ExportedCell(
        kind,
        pointwise,
        params,
        kernel,
        recurrent_kernel,
        biases[0],
        biases[1],
        tuple(leaf[0] for leaf in leaves) if any(leaf.any() for leaf in leaves) else None,
        carry,
        _parts(carry),
    )
    if pointwise not in OPERATORS:
        try:
            append_equations(Graph(OLDEST_OPSET), exported, exported.parts, "xw", "rh")
        except UntranslatableError as error:
            reason = f"its equations have an operation without a translation, {error}"
            raise ValueError(f"a {kind} cannot be exported to ONNX: {reason}") from error
    return exported


def _block_diagonal(kernel: Any) -> np.ndarray:
    """A kernel with heads ``[heads, units, gates * units]`` as one matrix ``[hidden, gates * hidden]``.

    ONNX has no operator for heads. The zeros make the file and the product as many times as large as there are
    heads.
    """
    heads, units, width = kernel.shape
    matrix = np.zeros((heads, units, width // units, heads, units), np.float32)
    for head in range(heads):
        matrix[head, :, :, head] = np.asarray(kernel[head], np.float32).reshape(units, -1, units)
    return matrix.reshape(heads * units, -1)


def run_layer(
    graph: Graph,
    cells: Sequence[ExportedCell],
    x: str,
    lengths: str | None,
    carries: Sequence[Any],
    *,
    reverses: Sequence[bool],
    resets: Resets | None = None,
) -> list[Direction]:
    """Append one layer.

    A forward cell and a backward one behind it share an operator if they can. With resets there are no operators:
    those of ONNX cannot return to a carry in the middle of a sequence.

    Args:
      graph: what to append to.
      cells: all that read ``x``.
      x: ``[time, batch, in_features]``.
      lengths: int32 ``[batch]``, or None.
      carries: for each cell the parts of its first carry, each ``[batch, hidden]``; None for the cell's own.
      reverses: whether each cell runs from the last step to the first.
      resets: where the carry returns to its first one, or None.

    Returns:
      What each cell computes.
    """
    carries = [_first(graph, cell, x, carry) for cell, carry in zip(cells, carries, strict=True)]
    results: list[Direction] = []
    while (number := len(results)) < len(cells):
        cell, backwards, pair = cells[number], reverses[number], slice(number, number + 2)
        if resets is not None or cell.pointwise not in OPERATORS:
            outputs, last = scan_cell(graph, cell, x, lengths, carries[number], reverse=backwards, resets=resets)
            results.append(Direction(outputs, last))
        elif tuple(reverses[pair]) == (False, True) and _fit_one_operator(*cells[pair]):
            results += _run_operator(graph, cells[pair], x, lengths, carries[pair], "bidirectional")
        else:
            direction = "reverse" if backwards else "forward"
            results += _run_operator(graph, [cell], x, lengths, [carries[number]], direction)
    return results


def run_step(graph: Graph, cell: ExportedCell, x: str, carry: tuple[str, ...]) -> Direction:
    """Append one step of a cell.

    Args:
      graph: what to append to.
      cell: what computes the step.
      x: ``[batch, in_features]``.
      carry: its parts, each ``[batch, hidden]``.

    Returns:
      The output ``[batch, hidden]``, and the parts of the new carry.
    """
    if cell.pointwise in OPERATORS:
        first = graph.integers(0)
        (result,) = _run_operator(graph, [cell], graph.add("Unsqueeze", x, first), None, [carry], "forward")
        return Direction(graph.add("Squeeze", result.outputs, first), result.carry)
    after, y = append_step(graph, cell, carry, input_projection(graph, cell, x))
    return Direction(y, after)


def _run_operator(
    graph: Graph,
    cells: Sequence[ExportedCell],
    x: str,
    lengths: str | None,
    carries: Sequence[tuple[str, ...] | None],
    direction: str,
) -> list[Direction]:
    operator, hidden, parts = OPERATORS[cells[0].pointwise], cells[0].hidden, cells[0].parts
    attributes = {
        name: value * len(cells) if isinstance(value, list) else value
        for name, value in operator.attributes.items()
    }
    kernels, recurrent_kernels, biases = zip(*map(_operator_weights, cells))
    biases = np.stack(biases)
    initial = dict.fromkeys(parts, "")
    if any(carry is not None for carry in carries):
        given = [_zeros(graph, cell, x) if carry is None else carry for cell, carry in zip(cells, carries)]
        for part, leaves in zip(parts, zip(*given)):
            rows = [graph.add("Unsqueeze", leaf, graph.integers(0)) for leaf in leaves]
            initial[part] = rows[0] if len(rows) == 1 else graph.add("Concat", *rows, axis=0)
    inputs = [
        x,
        graph.kernel(_stacked(kernels), f"{operator.name}_kernel"),
        graph.kernel(_stacked(recurrent_kernels), f"{operator.name}_recurrent_kernel"),
        graph.constant(biases, name=f"{operator.name}_bias") if biases.any() else "",
        lengths or "",
        *(initial[part] for part in ("h", "c") if part in initial),
    ]
    while not inputs[-1]:
        inputs.pop()
    outputs, *states = graph.add_many(
        operator.name, inputs, 1 + len(parts), direction=direction, hidden_size=hidden, **attributes
    )
    last: dict[str, str] = dict(zip(("h", "c"), states))
    results = []
    for number, carry in enumerate(carries):
        index = graph.constant(number, np.int64)
        leaves = []
        for place, part in enumerate(parts):
            leaf = graph.add("Gather", last[part], index, axis=0)
            if lengths is not None and carry is not None:
                # The operators do not say what becomes of a row without steps; ONNX Runtime returns zeros.
                empty = graph.add("Equal", lengths, graph.constant(0, np.int32))
                leaf = graph.add("Where", graph.add("Unsqueeze", empty, graph.integers(1)), carry[place], leaf)
            leaves.append(leaf)
        results.append(Direction(graph.add("Gather", outputs, index, axis=1), tuple(leaves)))
    return results


def _stacked(kernels: Sequence[Kernel]) -> Kernel:
    """Those of both directions in one array, int8 only if both are."""
    scales = [kernel.scale for kernel in kernels if kernel.scale is not None]
    whole = len(scales) == len(kernels)
    return Kernel(np.stack([kernel.values for kernel in kernels]), np.stack(scales) if whole else None)


def _operator_weights(cell: ExportedCell) -> tuple[Kernel, Kernel, np.ndarray]:
    """Kernel, recurrent kernel and both biases of one direction, in the operator's order."""
    gates = OPERATORS[cell.pointwise].gates
    hidden = cell.hidden

    def ordered(kernel: np.ndarray) -> np.ndarray:
        """``[rows, gates * hidden]`` to ``[gates * hidden, rows]``."""
        blocks = kernel.reshape(len(kernel), len(gates), hidden)[:, gates]
        return blocks.reshape(len(kernel), -1).T

    recurrent_kernel, zeros = cell.recurrent_kernel, np.zeros(len(gates) * hidden, np.float32)
    if cell.pointwise is gru_reset_before_pointwise:
        recurrent_kernel = np.concatenate([recurrent_kernel, _single(cell.params)], axis=-1)
    biases = [zeros if bias is None else bias for bias in (cell.bias, cell.recurrent_bias)]
    scales = [
        None if scale is None else ordered(scale[None])
        for scale in (cell.kernel_scale, cell.recurrent_kernel_scale)
    ]
    return (
        Kernel(ordered(cell.kernel), scales[0]),
        Kernel(ordered(recurrent_kernel), scales[1]),
        np.concatenate([ordered(bias[None])[:, 0] for bias in biases]),
    )


def _fit_one_operator(forward: ExportedCell, backward: ExportedCell) -> bool:
    same = forward.pointwise is backward.pointwise and forward.hidden == backward.hidden
    return same and forward.pointwise in OPERATORS


def _first(graph: Graph, cell: ExportedCell, x: str, carry: Any) -> tuple[str, ...] | None:
    """The parts of the first carry: those given, or the cell's own; None for zeros."""
    if carry is not None or cell.initial_carry is None:
        return carry
    return tuple(_rows(graph, x, leaf) for leaf in cell.initial_carry)


def _zeros(graph: Graph, cell: ExportedCell, x: str) -> tuple[str, ...]:
    return (_rows(graph, x, np.zeros(cell.hidden, np.float32)),) * len(cell.parts)


def _rows(graph: Graph, x: str, values: np.ndarray) -> str:
    """``values [hidden]`` for every row of ``x [time, batch, in_features]``."""
    batch = graph.add("Gather", graph.add("Shape", x), graph.integers(1))
    shape = graph.add("Concat", batch, graph.integers(len(values)), axis=0)
    return graph.add("Expand", graph.constant(values), shape)


def _parts(carry: Any) -> tuple[str, ...]:
    """Names of the leaves of a carry: those of its fields where it has them, else numbers, and h for the last."""
    fields, count = getattr(type(carry), "_fields", ()), len(jax.tree.leaves(carry))
    return fields if len(fields) == count else (*(f"part{number}" for number in range(count - 1)), "h")


def _single(array: Any) -> np.ndarray:
    return np.asarray(array, np.float32)
