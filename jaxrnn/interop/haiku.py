"""Weights from Haiku."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrnn import checks
from jaxrnn.cells import GRUCell, LSTMCell, RecurrentCell
from jaxrnn.interop.cells import fill, numbers, only_cell
from jaxrnn.layers import RNN


def load_haiku_weights(cell: RecurrentCell | RNN, params: Mapping[str, Any]) -> None:
    """Load the parameters of a Haiku ``LSTM``, ``GRU`` or ``VanillaRNN`` into a cell.

    Haiku's ``LSTM`` adds 1 to the forget gate, which becomes part of the bias here. Its ``GRU`` is the variant
    with ``reset_after=False``, and its update gate is 1 - z, so the weights of z change their sign. Its
    ``VanillaRNN`` uses ReLU: make the cell with ``activation_fn=jax.nn.relu``.

    Args:
      cell: with as many units.
      params: what ``init`` of a transformed function with this core alone returns, or the part of it that belongs
        to the core.

    Raises:
      ValueError: the parameters are not those of such a core, a shape does not fit, or the cell has no
        counterpart.

    >>> import jaxrnn
    >>> import numpy as np
    >>> from flax import nnx
    >>> cell = jaxrnn.LSTMCell(3, 4, rngs=nnx.Rngs(0))
    >>> load_haiku_weights(cell, {"lstm/linear": {"w": np.ones((7, 16)), "b": np.zeros(16)}})
    >>> cell.bias[...].tolist()                                         # of i, f, g and o
    [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    known = only_cell(cell)
    if isinstance(known, GRUCell) and known.reset_after:
        raise ValueError("Haiku's GRU resets before the product: make this cell with reset_after=False")
    parts = _parts(params)
    if isinstance(known, LSTMCell):
        (part,) = _with_names(known, parts, params, [{"w", "b"}])
        weights, bias = numbers("w", part["w"]), numbers("b", part["b"])
        kernel, recurrent = weights[: known.in_features], weights[known.in_features :]
        kernel, recurrent, bias = (_in_our_order(array) for array in (kernel, recurrent, bias))
        size = known.hidden_features
        bias[size : 2 * size] += 1
    elif isinstance(known, GRUCell):
        (part,) = _with_names(known, parts, params, [{"w_i", "w_h", "b"}])
        kernel, recurrent, bias = (_with_our_z(numbers(name, part[name])) for name in ("w_i", "w_h", "b"))
    else:
        biased = len(parts) == 2 and "b" in parts[1]
        of_x, of_h = _with_names(known, parts, params, [{"w", "b"}, {"w", "b"} if biased else {"w"}])
        kernel, recurrent = numbers("w", of_x["w"]), numbers("w", of_h["w"])
        bias = numbers("b", of_x["b"]) + (numbers("b", of_h["b"]) if biased else 0)
    fill(known, "Haiku", kernel, recurrent, bias)


def _parts(params: Any) -> list[Mapping[str, Any]]:
    """The parameters of every module, in the order of their names."""
    if not isinstance(params, Mapping):
        raise ValueError(f"params must be a mapping of parameters, not {checks.shown(params)}")
    if any(isinstance(value, Mapping) for value in params.values()):
        return [params[name] for name in sorted(params)]
    return [params]


def _with_names(
    cell: RecurrentCell, parts: list[Mapping[str, Any]], params: Any, names: list[set[str]]
) -> list[Mapping[str, Any]]:
    if [set(part) for part in parts] != names:
        wanted = " and ".join(", ".join(sorted(of_module)) for of_module in names)
        raise ValueError(f"a {type(cell).__name__} needs the parameters {wanted}, not {checks.shown(params)}")
    return parts


def _in_our_order(array: np.ndarray) -> np.ndarray:
    """i g f o to i f g o, on the last axis; a copy."""
    i, g, f, o = np.split(array, 4, axis=-1)
    return np.concatenate([i, f, g, o], axis=-1)


def _with_our_z(array: np.ndarray) -> np.ndarray:
    """z r a to r z n, on the last axis. 1 - sigmoid(v) is sigmoid(-v)."""
    z, r, a = np.split(array, 3, axis=-1)
    return np.concatenate([r, -z, a], axis=-1)
