"""Cells that no ONNX operator computes, as a ``Scan`` over their own equations.

The input projection is one product before the loop, as in the engine. Source:
https://onnx.ai/onnx/operators/onnx__Scan.html.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn.export.onnx_equations import translate
from jaxrnn.export.onnx_graph import Graph, Kernel
from jaxrnn.ops.step import Pointwise


class ExportedCell(NamedTuple):
    """What the engine knows of a cell, in NumPy's float32.

    Attributes:
      kind: the name of its class.
      pointwise: its equations.
      params: of the equations.
      kernel: ``[in_features, gates * hidden]``.
      recurrent_kernel: ``[hidden, gates * hidden]``, without gates whose product is one of the equations, and
        without any, ``[hidden, 0]``, if the state of the cell enters linearly.
      bias, recurrent_bias: ``[gates * hidden]``, or None.
      initial_carry: leaves ``[hidden]`` of the cell's own first carry; None for zeros.
      carry: one, for its structure.
      parts: names of the leaves of its carry.
      kernel_scale, recurrent_kernel_scale: of the columns of kernels that are int8; None otherwise.
    """

    kind: str
    pointwise: Pointwise
    params: Any
    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None
    recurrent_bias: np.ndarray | None
    initial_carry: tuple[np.ndarray, ...] | None
    carry: Any
    parts: tuple[str, ...]
    kernel_scale: np.ndarray | None = None
    recurrent_kernel_scale: np.ndarray | None = None

    @property
    def in_features(self) -> int:
        return self.kernel.shape[0]

    @property
    def hidden(self) -> int:
        return self.recurrent_kernel.shape[0]


class Resets(NamedTuple):
    """Where the carry of a row returns to its first one.

    Attributes:
      steps: bool ``[time, batch, 1]``.
      to_zeros: whether it returns to zeros instead.
    """

    steps: str
    to_zeros: bool = False


def append_equations(
    body: Graph, cell: ExportedCell, carry: tuple[str, ...], xw: str, rh: str
) -> tuple[tuple[str, ...], str]:
    """Append one step of a cell.

    Args:
      body: what to append to.
      cell: whose step it is.
      carry: its parts, each ``[batch, hidden]``.
      xw, rh: ``[batch, gates * hidden]``; rh is empty if the cell has no recurrent product.

    Returns:
      The parts of the new carry, and the output.

    Raises:
      UntranslatableError: its equations have an operation that cannot be translated.
    """
    structure = jax.tree.structure(cell.carry)

    def step(carry: tuple[Any, ...], xw: tuple[Any, ...], rh: tuple[Any, ...]) -> Any:
        return cell.pointwise(cell.params, jax.tree.unflatten(structure, carry), xw, rh)

    arguments = (
        carry,
        _gates(body, xw, cell.kernel.shape[1], cell.hidden),
        _gates(body, rh, cell.recurrent_kernel.shape[1], cell.hidden),
    )
    *after, y = translate(step, body, arguments, cell.hidden)
    return tuple(after), y


def _gates(body: Graph, joined: str, width: int, hidden: int) -> tuple[str, ...]:
    if width <= hidden:
        return (joined,) if width else ()
    sizes = [hidden] * (width // hidden)
    return body.add_many("Split", [joined, body.integers(*sizes)], len(sizes), axis=1)


def input_projection(graph: Graph, cell: ExportedCell, x: str) -> str:
    """``[..., gates * hidden]`` of ``x [..., in_features]``."""
    xw = graph.add("MatMul", x, graph.kernel(Kernel(cell.kernel, cell.kernel_scale), "kernel"))
    return xw if cell.bias is None else graph.add("Add", xw, graph.constant(cell.bias, name="bias"))


def append_step(body: Graph, cell: ExportedCell, carry: tuple[str, ...], xw: str) -> tuple[tuple[str, ...], str]:
    """Append the recurrent product and the equations: the parts of the new carry, and the output."""
    if not cell.recurrent_kernel.size:
        return append_equations(body, cell, carry, xw, "")
    width = cell.recurrent_kernel.shape[1]
    scale = None if cell.recurrent_kernel_scale is None else cell.recurrent_kernel_scale[:width]
    kernel = body.kernel(Kernel(cell.recurrent_kernel, scale), "recurrent_kernel")
    rh = body.add("MatMul", carry[-1], kernel)
    if cell.recurrent_bias is not None:
        rh = body.add("Add", rh, body.constant(cell.recurrent_bias, name="recurrent_bias"))
    return append_equations(body, cell, carry, xw, rh)


def scan_cell(
    graph: Graph,
    cell: ExportedCell,
    x: str,
    lengths: str | None,
    carry: tuple[str, ...] | None,
    *,
    reverse: bool,
    resets: Resets | None = None,
) -> tuple[str, tuple[str, ...]]:
    """Append one direction of a layer: its outputs ``[time, batch, hidden]`` and the parts of its final carry."""
    xw = input_projection(graph, cell, x)
    shape = graph.add("Shape", x)
    if carry is None:
        batch = graph.add("Gather", shape, graph.integers(1))
        zeros = graph.add("ConstantOfShape", graph.add("Concat", batch, graph.integers(cell.hidden), axis=0))
        carry = (zeros,) * len(cell.parts)
    sequences = [xw]
    if lengths is not None:
        sequences.append(valid_steps(graph, shape, lengths))
    if resets is not None:
        sequences.append(resets.steps)
    body = graph.loop_body()
    before = tuple(body.input(graph.new_name(f"{part}_before"), ["batch", cell.hidden]) for part in cell.parts)
    xw_t = body.input(graph.new_name("xw"), ["batch", cell.kernel.shape[1]])
    valid = body.input(graph.new_name("valid"), ["batch", 1], np.bool_) if lengths is not None else None
    start = before
    if resets is not None:
        reset = body.input(graph.new_name("reset"), ["batch", 1], np.bool_)
        firsts = [body.constant(0.0)] * len(carry) if resets.to_zeros else carry
        start = tuple(body.add("Where", reset, first, old) for first, old in zip(firsts, before))
    after, y = append_step(body, cell, start, xw_t)
    if valid is not None:
        after = tuple(body.add("Where", valid, new, old) for new, old in zip(after, before))
        y = body.add("Where", valid, y, body.constant(0.0))
    for part, value in zip(cell.parts, after):
        body.output(graph.new_name(f"{part}_after"), value, ["batch", cell.hidden])
    body.output(graph.new_name("y"), y, ["batch", cell.hidden])
    *last, outputs = graph.add_many(
        "Scan",
        [*carry, *sequences],
        len(cell.parts) + 1,
        body=body.finish_body(f"{cell.kind}_step"),
        num_scan_inputs=len(sequences),
        scan_input_directions=[int(reverse)] * len(sequences),
        scan_output_directions=[int(reverse)],
    )
    return outputs, tuple(last)


def valid_steps(graph: Graph, shape: str, lengths: str) -> str:
    """bool ``[time, batch, 1]``: which steps lie within each row's length."""
    steps = graph.add(
        "Range",
        graph.constant(0, np.int64),
        graph.add("Gather", shape, graph.constant(0, np.int64)),
        graph.constant(1, np.int64),
    )
    rows = graph.add("Unsqueeze", graph.add("Cast", lengths, to=7), graph.integers(0))  # 7: int64
    return graph.add(
        "Unsqueeze", graph.add("Less", graph.add("Unsqueeze", steps, graph.integers(1)), rows), graph.integers(2)
    )
