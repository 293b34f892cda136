"""The cells of the C++ library, and the recurrences that it can run."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn.ops.native.library import why_not_loaded
from jaxrnn.ops.pointwise import (
    LSTMCarry,
    gru_pointwise,
    gru_reset_before_pointwise,
    leaky_pointwise,
    lstm_pointwise,
    simple_rnn_pointwise,
)
from jaxrnn.ops.step import Pointwise, Recurrence, dtype_of, heads_of, recurrent_gates_of, units_of


class NativeCell(NamedTuple):
    """A cell of the library.

    Attributes:
      number: its number in ``enum class Cell`` of recurrence.h.
      gates: number of gates in xw.
      saved: how many values per unit and step the backward pass needs besides the outputs.
      has_c: whether the carry is that of an LSTM.
      recurrent_gates: number of gates in the recurrent kernel, if it differs from ``gates``.
      parameter_axes: 1 if the cell has a further parameter ``[hidden]``; 2 if that is a recurrent kernel; or 0.
    """

    number: int
    gates: int = 1
    saved: int = 0
    has_c: bool = False
    recurrent_gates: int | None = None
    parameter_axes: int = 0


CELLS: dict[Pointwise, NativeCell] = {
    simple_rnn_pointwise(jnp.tanh): NativeCell(0),
    simple_rnn_pointwise(jax.nn.relu): NativeCell(1),
    simple_rnn_pointwise(jax.nn.sigmoid): NativeCell(2),
    lstm_pointwise: NativeCell(3, gates=4, saved=5, has_c=True),
    gru_pointwise: NativeCell(4, gates=3, saved=4),
    leaky_pointwise: NativeCell(5, saved=1, parameter_axes=1),
    gru_reset_before_pointwise: NativeCell(6, gates=3, saved=3, recurrent_gates=2, parameter_axes=2),
}


SMALL_CELL, SMALL_STEP = 64, 512
"""Units of a head, and rows times units, up to which a built-in cell's own code is faster than its program, by up
to a fifth. Elsewhere the program is faster in most cases, by up to a half, and up to a tenth slower in a few:
benchmarks/README.md has a table."""


def has_own_code(pointwise: Pointwise, arrays: Recurrence) -> bool:
    """Whether the library runs these equations with code of their own, and not as a program."""
    if pointwise not in CELLS:
        return False
    units = units_of(arrays.recurrent_kernel) // heads_of(arrays.recurrent_kernel)
    is_small = units <= SMALL_CELL and math.prod(arrays.xw.shape[1:-1]) * units <= SMALL_STEP
    return is_small or CELLS[pointwise].parameter_axes == 2  # no program has a second product


def unable_to_call(arrays: Recurrence, platform: str) -> str | None:
    """The reason why the library cannot be called with these arrays, whatever the cell, or None if it can."""
    if platform != "cpu":
        return f"it runs on a cpu, not on a {platform}"
    every = {dtype_of(leaf) for leaf in jax.tree.leaves(arrays)}
    dtypes = sorted(str(dtype) for dtype in every if jnp.issubdtype(dtype, jnp.floating))
    if dtypes not in (["float32"], ["float64"]):
        return f"it computes in float32 or float64 throughout, and there is {' and '.join(dtypes)}"
    if any(axis == jax.sharding.AxisType.Explicit for axis in jax.sharding.get_abstract_mesh().axis_types):
        return "it does not support arrays on an explicit mesh"
    return why_not_loaded()


def unable(pointwise: Pointwise, arrays: Recurrence, platform: str) -> str | None:
    """The reason why the library cannot run this as a built-in cell, or None if it can."""
    if platform != "cpu":
        return unable_to_call(arrays, platform)
    if pointwise not in CELLS:
        return "it has SimpleRNN (tanh, relu, sigmoid), LSTM, both GRUs and LeakyCell, not this cell"
    cell = CELLS[pointwise]
    kernel = arrays.recurrent_kernel
    hidden = units_of(kernel)
    if (
        recurrent_gates_of(kernel) != (cell.recurrent_gates or cell.gates)
        or arrays.xw.shape[-1] != cell.gates * hidden
    ):
        return f"the widths of xw and recurrent_kernel do not fit a cell with {cell.gates} gates"
    if cell.has_c != isinstance(arrays.initial_carry, LSTMCarry) or (
        not cell.has_c and len(jax.tree.leaves(arrays.initial_carry)) != 1
    ):
        return "the carry does not have the structure of this cell's carry"
    blocks = (*kernel.shape[:-2], kernel.shape[-2], kernel.shape[-2])  # the candidate's recurrent kernel
    parameter_shapes = {0: [], 1: [(hidden,)], 2: [blocks]}[cell.parameter_axes]
    if [jnp.shape(leaf) for leaf in jax.tree.leaves(arrays.params)] != parameter_shapes:
        return "the parameters do not have the shapes of this cell's parameters"
    return unable_to_call(arrays, platform)


def cell_parameter(arrays: Recurrence, absent: Any) -> Any:
    """The cell's further parameter in the form that the library needs, or ``absent`` if it has none.

    A parameter with one axis is the leak of LeakyCell, which the library takes as a number between 0 and 1.
    """
    for parameter in jax.tree.leaves(arrays.params):
        return jax.nn.sigmoid(parameter) if parameter.ndim == 1 else parameter
    return absent
