"""Cells whose state enters linearly, as equations of one step: ONNX has no operator for linear recurrences."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.cells.linear import LinearRecurrentCell


class LinearEquations(NamedTuple):
    """What an export needs of a linear cell, in NumPy's float32.

    Attributes:
      pointwise: ``(params, h, xw, rh) -> (h, y)``, as of other cells; ``rh`` is empty.
      kernel: ``[in_features, blocks * hidden]``: the gates, and an identity if the equations read the inputs too.
      bias: ``[blocks * hidden]``, or None.
    """

    pointwise: Any
    kernel: np.ndarray
    bias: np.ndarray | None


def linear_equations(cell: LinearRecurrentCell) -> LinearEquations:
    """The equations of a cell, or a ValueError that names it."""
    kind, gates, hidden = type(cell).__name__, cell.num_gates, cell.hidden_features
    if cell.complex_state:
        raise ValueError(
            f"a {kind} cannot be exported to ONNX, which has no complex numbers: its state is complex. "
            "jaxrnn.export.to_stablehlo exports it"
        )
    if cell.state_features != hidden:
        raise ValueError(
            f"a {kind} with state_features={cell.state_features} cannot be exported to ONNX: its outputs have "
            f"another size, {hidden}"
        )

    def step(h: Any, xw: tuple[Any, ...], inputs: Any) -> tuple[Any, Any]:
        a, b = cell.coefficients(xw, inputs)
        h = a * h + b
        return h, cell.outputs(h, inputs)

    def pointwise(params: Any, h: Any, xw: tuple[Any, ...], rh: Any) -> tuple[Any, Any]:
        x = xw[gates:]  # what the identity copies
        inputs = jnp.concatenate(x, axis=-1)[:, : cell.in_features] if x else jnp.zeros((len(h), cell.in_features))
        return step(h, xw[:gates], inputs)

    state, x = (jax.ShapeDtypeStruct((2, size), jnp.float32) for size in (hidden, cell.in_features))
    traced = jax.make_jaxpr(step)(state, (state,) * gates, x).jaxpr
    read = {id(variable) for equation in traced.eqns for variable in equation.invars}
    kernel = np.asarray(cell.kernel[...], np.float32)
    bias = None if cell.bias is None else np.asarray(cell.bias[...], np.float32)
    if id(traced.invars[-1]) in read or traced.invars[-1] in traced.outvars:
        blocks = -(-cell.in_features // hidden)
        identity = np.eye(cell.in_features, blocks * hidden, dtype=np.float32)
        kernel = np.concatenate([kernel, identity], axis=1)
        bias = None if bias is None else np.concatenate([bias, np.zeros(blocks * hidden, np.float32)])
    return LinearEquations(pointwise, kernel, bias)
