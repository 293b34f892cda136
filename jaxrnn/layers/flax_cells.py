"""Runs Flax's own cells on the engine, if they have the equations of one of this library's cells.

====================== ====================== ======================== ======================================
Flax                   on the engine          gates                    bias
====================== ====================== ======================== ======================================
nnx.SimpleCell         the simple RNN         one                      of the input
nnx.GRUCell            the GRU, reset after   r z n                    of the input (its docstring shows a
                                                                       recurrent bias of n, its code has none)
nnx.LSTMCell           the LSTM               i f g o, one by one      of h
nnx.OptimizedLSTMCell  the LSTM               i f g o, side by side    of h
====================== ====================== ======================== ======================================

This was checked with flax 0.12.8 and 0.12.12. Cells that differ from it are scanned instead, which is slower but
always gives Flax's numbers. These are subclasses, cells with ``residual`` or with other gate or activation
functions, cells whose ``Linear`` was replaced or has other options, half precision, and dtypes that differ between
inputs, parameters and carry.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import canonicalize_dtype, promote_dtype
from jax import Array, lax

from jaxrnn.cells.base import RecurrentCell
from jaxrnn.cells.linear import LinearRecurrentCell
from jaxrnn.checks import Cell
from jaxrnn.ops.activations import ACTIVATIONS
from jaxrnn.ops.pointwise import LSTMCarry, gru_pointwise, lstm_pointwise, simple_rnn_pointwise
from jaxrnn.ops.step import Carry, Pointwise, Projection, cast, hidden_state

FLAX_CELLS = (nnx.SimpleCell, nnx.GRUCell, nnx.LSTMCell, nnx.OptimizedLSTMCell)


def is_known(cell: Cell) -> bool:
    """Whether the shapes of the cell's inputs and carry are known, so that they can be checked."""
    return isinstance(cell, (RecurrentCell, LinearRecurrentCell)) or type(cell) in FLAX_CELLS


class TranslatedCell(NamedTuple):
    """The part of :class:`jaxrnn.RecurrentCell` that the engine uses, made from the parameters of a Flax cell."""

    pointwise: Pointwise
    kernel: Array
    recurrent_kernel: Array
    bias: Array

    def compute_dtype(self, inputs: Array) -> jnp.dtype:
        return self.kernel.dtype

    @property
    def output_is_hidden_state(self) -> bool:
        return True

    def lazy_projection(self, inputs: Array, batch_major: bool) -> Projection:
        return Projection(cast(inputs, self.kernel.dtype), self.kernel, self.bias, batch_major)

    def recurrent_parameters(self, dtype: jnp.dtype) -> tuple[Array, None]:
        return self.recurrent_kernel, None

    def pure_pointwise(self) -> tuple[Pointwise, tuple[()]]:
        return self.pointwise, ()


def translated(cell: Cell, inputs: Array, carry: Carry) -> TranslatedCell | None:
    """The cell in the form that the engine needs, or None if the engine might give other numbers."""
    pointwise = _pointwise_of(cell)
    if pointwise is None:
        return None
    if type(cell) is nnx.LSTMCell:
        of_input, of_h = [cell.ii, cell.if_, cell.ig, cell.io], [cell.hi, cell.hf, cell.hg, cell.ho]
    else:
        parts: Any = cell
        of_input, of_h = [parts.dense_i], [parts.dense_h]
    biased: list[Any]
    biased, unbiased = (of_h, of_input) if pointwise is lstm_pointwise else (of_input, of_h)
    if not all(_is_plain(part, bias=True) for part in biased):
        return None
    if not all(_is_plain(part, bias=False) for part in unbiased):
        return None
    h = hidden_state(carry)
    dtypes = {jnp.dtype(leaf.dtype) for leaf in jax.tree.leaves(carry)}
    dtypes |= {_dtype_of(part, inputs) for part in of_input} | {_dtype_of(part, h) for part in of_h}
    if len(dtypes) > 1 or not dtypes <= {jnp.dtype("float32"), jnp.dtype("float64")}:
        return None
    (dtype,) = dtypes

    def side_by_side(arrays: list[Array]) -> Array:
        return cast(jnp.concatenate(arrays, axis=-1) if len(arrays) > 1 else arrays[0], dtype)

    return TranslatedCell(
        pointwise,
        kernel=side_by_side([part.kernel[...] for part in of_input]),
        recurrent_kernel=side_by_side([part.kernel[...] for part in of_h]),
        bias=side_by_side([part.bias[...] for part in biased if part.bias is not None]),
    )


def carry_for_engine(carry: Carry) -> Carry:
    """An :class:`LSTMCarry` for the plain tuple of c and h that Flax's LSTMs use; other carries are unchanged."""
    return LSTMCarry(*carry) if isinstance(carry, tuple) else carry


def carry_for_flax(carry: Carry) -> Carry:
    return tuple(carry) if isinstance(carry, LSTMCarry) else carry


def _pointwise_of(cell: Any) -> Pointwise | None:
    if type(cell) is nnx.SimpleCell:
        # Other functions may have parameters, or may not be elementwise.
        known = any(cell.activation_fn is activation for activation in ACTIVATIONS.values())
        return simple_rnn_pointwise(cell.activation_fn) if known and not cell.residual else None
    if type(cell) not in FLAX_CELLS or cell.gate_fn is not nnx.sigmoid or cell.activation_fn is not nnx.tanh:
        return None
    return gru_pointwise if type(cell) is nnx.GRUCell else lstm_pointwise


def _is_plain(part: Any, *, bias: bool) -> bool:
    """Whether this is the ``Linear`` that the cell made, with its default options and not replaced."""
    return (
        type(part) is nnx.Linear
        and (part.bias is not None) == bias
        and part.dot_general is lax.dot_general
        and part.promote_dtype is promote_dtype
        and part.precision is None
        and part.preferred_element_type is None
    )


def _dtype_of(part: nnx.Linear, inputs: Array) -> jnp.dtype:
    """The dtype in which the layer multiplies these inputs."""
    bias = None if part.bias is None else part.bias[...]
    return jnp.dtype(canonicalize_dtype(inputs, part.kernel[...], bias, dtype=part.dtype))
