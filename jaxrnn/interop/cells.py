"""What the loaders of all libraries share: which cells have a counterpart, and how values are put into them."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrnn import checks
from jaxrnn.cells import GRUCell, LSTMCell, RecurrentCell, SimpleRNNCell
from jaxrnn.cells.inference import QuantizedKernel
from jaxrnn.checks import Cell
from jaxrnn.layers import RNN, StackedRNN

_METHODS = ("__call__", "pointwise", "pure_pointwise", "carry_like", "input_projection", "recurrent_parameters")
"""What a cell computes: with another one of these, it is no longer the built-in cell."""


def known_cell(cell: Cell) -> RecurrentCell:
    if not isinstance(cell, (SimpleRNNCell, LSTMCell, GRUCell)):
        raise ValueError(f"only SimpleRNNCell, LSTMCell and GRUCell have a counterpart, not {type(cell).__name__}")
    if cell.num_heads > 1:
        raise ValueError(f"the other library has no recurrent kernels with heads, but {cell.num_heads=}")
    for method in _METHODS:
        if getattr(type(cell), method) is not getattr(kind_of(cell), method):
            raise ValueError(f"{type(cell).__name__} has a {method} of its own, and so no counterpart")
    return cell


def kind_of(cell: Cell) -> type[RecurrentCell]:
    """The built-in cell that it is, or is derived from."""
    return next(kind for kind in (SimpleRNNCell, LSTMCell, GRUCell) if isinstance(cell, kind))


def known_cells(layers: StackedRNN, library: str) -> list[tuple[RecurrentCell, ...]]:
    """The cells of every layer, forward first. A ValueError if a layer has none in the other library."""
    if layers.skip_connections:
        raise ValueError(f"{library} has no skip_connections")
    if layers.zoneout is not None:
        raise ValueError(
            f"{library} has no zoneout, which changes the outputs of these layers after eval() too: make "
            "the layers without it"
        )
    both = zip(layers.cells, layers.backward_cells) if layers.bidirectional else zip(layers.cells)
    return [tuple(known_cell(cell) for cell in of_layer) for of_layer in both]


def both_biases(cell: RecurrentCell) -> tuple[np.ndarray, np.ndarray] | None:
    """The biases of the inputs and of the recurrence, ``[gates * hidden]`` each; None for a cell without biases.

    If the cell has only one of them, the other one is zeros.
    """
    bias = None if cell.bias is None else np.array(cell.bias[...])
    recurrent_bias = cell.recurrent_parameters(cell.kernel[...].dtype)[1]
    if recurrent_bias is None:
        return None if bias is None else (bias, np.zeros_like(bias))
    recurrent_bias = np.array(recurrent_bias)
    return (np.zeros_like(recurrent_bias) if bias is None else bias), recurrent_bias


def keeps_biases_apart(cell: RecurrentCell) -> bool:
    """Whether the biases of the inputs and of the recurrence are not just added up."""
    return isinstance(cell, GRUCell) and cell.reset_after


def places_of_biases(
    cell: RecurrentCell, library: str, bias: np.ndarray, recurrent_bias: np.ndarray
) -> list[tuple[Any, np.ndarray]]:
    """The cell's parameters for two biases ``[gates * hidden]``, and their values, for :func:`assign`.

    Raises:
      ValueError: the cell has no place for one of them.
    """
    if not keeps_biases_apart(cell):
        return [(cell.bias, bias + recurrent_bias)]
    if cell.recurrent_bias is None or cell.recurrent_bias.shape != recurrent_bias.shape:
        raise ValueError(f"{library}'s GRU has a recurrent bias: make the cells with use_recurrent_bias=True")
    if cell.bias is not None:
        return [(cell.bias, bias), (cell.recurrent_bias, recurrent_bias)]
    if bias.any():
        raise ValueError(
            f"{library}'s GRU has a bias of the inputs, which is not zero: make the cells with use_bias=True"
        )
    return [(cell.recurrent_bias, recurrent_bias)]


def only_cell(layer: Any) -> RecurrentCell:
    """The cell of an :class:`jaxrnn.RNN`, or the cell itself, if it has a counterpart."""
    if isinstance(layer, StackedRNN):
        raise ValueError(
            f"this fills one cell, not a {type(layer).__name__} of {len(layer.cells)}: give it one of layer.cells "
            f"or a jaxrnn.RNN"
        )
    return known_cell(layer.cell if isinstance(layer, RNN) else layer)


def numbers(name: str, array: Any) -> np.ndarray:
    """An array, or a tensor of PyTorch on the CPU, as real numbers in NumPy; or a ValueError that names it."""
    if hasattr(array, "detach"):  # a tensor, which NumPy refuses if it wants gradients or is bfloat16
        array = array.detach()
        array = array.float() if str(array.dtype) == "torch.bfloat16" else array
    found = np.asarray(array)
    if not any(jnp.issubdtype(found.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
        raise ValueError(f"{name} must be an array of real numbers, not {checks.shown(array)}")
    # What a loader computes with the numbers, such as a sum of biases, is not to be rounded to half precision.
    return found.astype(np.float32) if jnp.issubdtype(found.dtype, jnp.floating) and found.itemsize < 4 else found


def checked(name: str, array: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array of this shape, or a ValueError that names it."""
    found = numbers(name, array)
    if found.shape != shape:
        raise ValueError(f"{name} has shape {found.shape}, but the cell needs {shape}")
    return found


def side_by_side(name: str, blocks: Sequence[Any]) -> np.ndarray:
    """The blocks of all gates on the last axis."""
    return np.concatenate([numbers(name, block) for block in blocks], axis=-1)


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
    """Write all arrays into their parameters, or none of them if one does not fit."""
    converted = []
    for parameter, array in values:
        if isinstance(parameter, QuantizedKernel):
            raise ValueError("the kernels are int8 already: load the weights first, then call quantize")
        if parameter.shape != array.shape:
            raise ValueError(f"an array has the shape {array.shape}, but its parameter has {parameter.shape}")
        converted.append((parameter, jnp.asarray(array, parameter[...].dtype)))
    for parameter, array in converted:
        parameter[...] = array
