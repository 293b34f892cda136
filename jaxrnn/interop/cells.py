"""What the loaders of all libraries share: which cells have a counterpart, and how values are put into them."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrnn.cells import GRUCell, LSTMCell, RecurrentCell, SimpleRNNCell
from jaxrnn.checks import Cell
from jaxrnn.layers import RNN


def known_cell(cell: Cell) -> RecurrentCell:
    if not isinstance(cell, (SimpleRNNCell, LSTMCell, GRUCell)):
        raise ValueError(f"only SimpleRNNCell, LSTMCell and GRUCell have a counterpart, not {type(cell).__name__}")
    if cell.num_heads > 1:
        raise ValueError(f"the other library has no recurrent kernels with heads, but {cell.num_heads=}")
    for method in ("pointwise", "pure_pointwise", "carry_like", "input_projection", "recurrent_parameters"):
        if getattr(type(cell), method) is not getattr(kind_of(cell), method):
            raise ValueError(f"{type(cell).__name__} has a {method} of its own, and so no counterpart")
    return cell


def kind_of(cell: Cell) -> type[RecurrentCell]:
    """The built-in cell that it is, or is derived from."""
    return next(kind for kind in (SimpleRNNCell, LSTMCell, GRUCell) if isinstance(cell, kind))


def refuse_missing_bias(cell: RecurrentCell, library: str) -> None:
    """There is no place for the second bias of a GRU in a cell that has only the first, or only n's."""
    if not isinstance(cell, GRUCell) or not cell.reset_after or cell.bias is None:
        return
    if cell.recurrent_bias is None or cell.recurrent_bias.shape != cell.bias.shape:
        raise ValueError(f"{library}'s GRU has a recurrent bias: make the cells with use_recurrent_bias=True")


def only_cell(layer: Any) -> RecurrentCell:
    """The cell of an :class:`jaxrnn.RNN`, or the cell itself, if it has a counterpart."""
    return known_cell(layer.cell if isinstance(layer, RNN) else layer)


def checked(name: str, array: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array of this shape, or a ValueError that names it."""
    found = np.asarray(array)
    if found.shape != shape:
        raise ValueError(f"{name} has shape {found.shape}, but the cell needs {shape}")
    return found


def side_by_side(blocks: Sequence[Any]) -> np.ndarray:
    """The blocks of all gates on the last axis."""
    return np.concatenate([np.asarray(block) for block in blocks], axis=-1)


def fill(
    cell: RecurrentCell,
    library: str,
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any | None,
    candidate_bias: Any | None = None,
) -> None:
    """Put arrays that are in this library's layout into a cell, after a check of all their shapes.

    Args:
      cell: the cell to fill.
      library: the name of the other library, for messages.
      kernel, recurrent_kernel: ``[in, gates * hidden]`` and ``[hidden, gates * hidden]``.
      bias: ``[gates * hidden]``, the sum of all biases that are only added up; None without biases.
      candidate_bias: ``[hidden]``, of a GRU's candidate, which the reset gate multiplies.

    Raises:
      ValueError: a shape does not fit, or the cell has no place for a bias, or a place for one that is missing.
    """
    width = cell.num_gates * cell.hidden_features
    values: list[Any] = [
        (cell.kernel, checked("the input kernel", kernel, (cell.in_features, width))),
        (cell.recurrent_kernel, checked("the recurrent kernel", recurrent_kernel, (cell.hidden_features, width))),
    ]
    if (bias is None) != (cell.bias is None):
        has, needs = ("no bias", "use_bias=False") if bias is None else ("a bias", "use_bias=True")
        raise ValueError(f"the {library} cell has {has}: make this one with {needs}")
    if bias is not None:
        values.append((cell.bias, checked("the bias", bias, (width,))))
    if candidate_bias is not None:
        candidate = checked("the candidate's bias", candidate_bias, (cell.hidden_features,))
        if cell.recurrent_bias is None:
            raise ValueError(
                f"{library}'s GRU has a recurrent bias of the candidate: make this one with "
                f'use_recurrent_bias="candidate"'
            )
        if cell.recurrent_bias.shape != candidate.shape:
            candidate = np.concatenate([np.zeros(width - len(candidate), candidate.dtype), candidate])
        values.append((cell.recurrent_bias, candidate))
    elif cell.recurrent_bias is not None:
        values.append((cell.recurrent_bias, np.zeros(cell.recurrent_bias.shape)))
    assign(values)


def assign(values: Sequence[tuple[Any, np.ndarray]]) -> None:
    """All at the end, so that an error leaves the layers as they were."""
    for parameter, array in values:
        parameter[...] = jnp.asarray(array, parameter[...].dtype)
