"""Weights from and to Keras."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxrnn import checks
from jaxrnn.cells import GRUCell, RecurrentCell
from jaxrnn.interop.cells import (
    assign,
    both_biases,
    keeps_biases_apart,
    known_cell,
    known_cells,
    numbers,
    places_of_biases,
)
from jaxrnn.layers import RNN, Bidirectional, StackedRNN

Layers = RecurrentCell | RNN | Bidirectional | StackedRNN


def load_keras_weights(layers: Layers, weights: Iterable[Any]) -> None:
    """Load the weights of Keras layers ``SimpleRNN``, ``LSTM`` or ``GRU``, as ``get_weights()`` returns them.

    Args:
      layers: one cell or an :class:`jaxrnn.RNN` for one Keras layer; a :class:`jaxrnn.Bidirectional` for a Keras
        ``Bidirectional``; a stack for a ``keras.Sequential`` of such layers, all of them bidirectional or none.
        A GRU's ``reset_after`` must be the same on both sides.
      weights: ``layer.get_weights()``, or of a stack ``model.get_weights()``: the arrays of one layer after the
        other, and within a bidirectional layer first those of the forward direction.

    Raises:
      ValueError: the number of arrays or a shape does not fit, or a cell or an option of the layers (skip
        connections, zoneout) has no counterpart. Nothing is loaded then.

    >>> import jaxrnn
    >>> from flax import nnx
    >>> cell = jaxrnn.GRUCell(3, 4, rngs=nnx.Rngs(0))
    >>> load_keras_weights(cell, keras_weights(jaxrnn.GRUCell(3, 4, rngs=nnx.Rngs(1))))
    """
    cells = _cells(layers)
    try:
        weights = list(weights)
    except TypeError:
        raise ValueError(
            f"weights must be a list of arrays, as get_weights() of a Keras layer returns it, not "
            f"{checks.shown(weights)}"
        ) from None
    expected = [array.shape for array in keras_weights(layers)]
    found = [np.shape(array) for array in weights]
    if found != expected:
        name = type(cells[0]).__name__ if len(cells) == 1 else type(layers).__name__
        hint = ": is reset_after the same?" if any(isinstance(cell, GRUCell) for cell in cells) else ""
        raise ValueError(f"the weights have the shapes {found}, but the {name} needs {expected}{hint}")
    values, rest = [], iter(weights)
    for cell in cells:
        arrays = [_swap_first_gates(cell, numbers("an array of the weights", next(rest))) for _ in _weights(cell)]
        kernel, recurrent_kernel, *biases = arrays
        values += [(cell.kernel, kernel), (cell.recurrent_kernel, recurrent_kernel)]
        for bias in biases:
            both = bias if keeps_biases_apart(cell) else (bias, np.zeros_like(bias))
            values += places_of_biases(cell, "Keras", *both)
    assign(values)


def keras_weights(layers: Layers) -> list[np.ndarray]:
    """The weights as ``set_weights()`` of the same Keras layer or model takes them.

    Raises:
      ValueError: a cell has no counterpart.

    >>> import jaxrnn
    >>> from flax import nnx
    >>> [array.shape for array in keras_weights(jaxrnn.GRUCell(3, 4, rngs=nnx.Rngs(0)))]
    [(3, 12), (4, 12), (2, 12)]
    """
    return [array for cell in _cells(layers) for array in _weights(cell)]


def _cells(layers: Any) -> list[RecurrentCell]:
    """The cells in the order of Keras's weights."""
    if isinstance(layers, Bidirectional):
        return [cell for rnn in (layers.forward_rnn, layers.backward_rnn) for cell in _cells(rnn)]
    if not isinstance(layers, StackedRNN):
        return [known_cell(layers.cell if isinstance(layers, RNN) else layers)]
    return [cell for of_layer in known_cells(layers, "Keras") for cell in of_layer]


def _weights(cell: RecurrentCell) -> list[np.ndarray]:
    weights = [np.array(cell.kernel[...]), np.array(cell.recurrent_kernel[...])]
    biases = both_biases(cell)
    if biases is not None:
        weights.append(np.stack(biases) if keeps_biases_apart(cell) else biases[0])
    return [_swap_first_gates(cell, array) for array in weights]


def _swap_first_gates(cell: RecurrentCell, array: np.ndarray) -> np.ndarray:
    """r z n to z r n and back, on the last axis; other cells have Keras's order already."""
    if not isinstance(cell, GRUCell):
        return array
    first, second, third = np.split(array, 3, axis=-1)
    return np.concatenate([second, first, third], axis=-1)
