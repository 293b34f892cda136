"""Weights from and to PyTorch."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrnn import checks
from jaxrnn.cells import GRUCell, RecurrentCell
from jaxrnn.checks import Cell
from jaxrnn.interop.cells import (
    assign,
    both_biases,
    kind_of,
    known_cell,
    known_cells,
    numbers,
    places_of_biases,
)
from jaxrnn.layers import RNN, StackedRNN
from jaxrnn.layers.rnn import concatenate_features


def load_torch_weights(layers: StackedRNN | RNN, state: Mapping[str, Any]) -> None:
    """Load the ``state_dict()`` of a ``torch.nn.RNN``, ``LSTM`` or ``GRU`` into layers of the same shape.

    Args:
      layers: as many layers, directions and units as the module; GRUs with ``reset_after=True``. The activation
        (``nonlinearity``) is not part of a state dict: choose the same one.
      state: names to arrays, or to tensors on the CPU (bfloat16 too). A module without biases loads into cells
        without.

    Raises:
      ValueError: ``state`` is not a mapping, a name is missing or unknown, or a shape does not fit; or the
        layers do what no PyTorch module does: skip connections, zoneout, ``merge`` other than ``"concat"``, layers
        that differ in their cell or size, equations of their own. Nothing is loaded then.

    >>> import jaxrnn
    >>> from flax import nnx
    >>> layers = jaxrnn.LSTM(3, 16, num_layers=2, rngs=nnx.Rngs(0))
    >>> state = torch_weights(jaxrnn.LSTM(3, 16, num_layers=2, rngs=nnx.Rngs(1)))   # or module.state_dict()
    >>> load_torch_weights(layers, state)
    >>> bool((layers.cells[0].kernel[...] == state["weight_ih_l0"].T).all())
    True
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"state must be the state_dict() of a torch module, not {checks.shown(state)}")
    used = set()

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in state:
            raise ValueError(f"the state has no {name!r}; it has {', '.join(sorted(state)) or 'none at all'}")
        used.add(name)
        array = numbers(name, state[name])
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, but the layers need {shape}")
        return array

    loaded = []
    for suffix, cell in _torch_cells(layers):
        kernel, recurrent = cell.kernel[...], cell.recurrent_kernel[...]
        loaded += [
            (cell.kernel, take(f"weight_ih_{suffix}", kernel.shape[::-1]).T),
            (cell.recurrent_kernel, take(f"weight_hh_{suffix}", recurrent.shape[::-1]).T),
        ]
        if both_biases(cell) is not None:
            biases = [take(f"bias_{name}_{suffix}", kernel.shape[1:]) for name in ("ih", "hh")]
            loaded += places_of_biases(cell, "PyTorch", *biases)
    unknown = sorted(set(state) - used)
    if unknown:
        raise ValueError(f"the layers have no place for {', '.join(unknown)}")
    assign(loaded)


def torch_weights(layers: StackedRNN | RNN) -> dict[str, np.ndarray]:
    """The weights of layers as the ``state_dict`` of the same ``torch.nn`` module, in NumPy arrays.

    Wrap each in ``torch.from_numpy`` for ``load_state_dict``. Where PyTorch has two biases and the cell has one,
    the other one is zero. Parameters of bfloat16 become float32, because NumPy has no bfloat16 that PyTorch reads.

    Raises:
      ValueError: there is no such module, as in :func:`load_torch_weights`.

    >>> import jaxrnn
    >>> from flax import nnx
    >>> sorted(torch_weights(jaxrnn.GRU(3, 4, rngs=nnx.Rngs(0))))
    ['bias_hh_l0', 'bias_ih_l0', 'weight_hh_l0', 'weight_ih_l0']
    """
    state = {}
    for suffix, cell in _torch_cells(layers):
        state[f"weight_ih_{suffix}"] = np.array(cell.kernel[...]).T.copy()
        state[f"weight_hh_{suffix}"] = np.array(cell.recurrent_kernel[...]).T.copy()
        biases = both_biases(cell)
        if biases is not None:
            state[f"bias_ih_{suffix}"], state[f"bias_hh_{suffix}"] = biases
    return {name: a.astype(np.float32) if a.dtype == jnp.bfloat16 else a for name, a in state.items()}


def _torch_cells(layers: StackedRNN | RNN) -> Iterator[tuple[str, RecurrentCell]]:
    """Every cell with the end of its names in PyTorch."""
    if isinstance(layers, RNN):
        yield "l0", _torch_cell(layers.cell)
        return
    if not isinstance(layers, StackedRNN):
        raise ValueError(
            f"only RNN, SimpleRNN, LSTM, GRU and StackedRNN have a counterpart, not {type(layers).__name__}: put "
            f"a cell into jaxrnn.RNN, and for both directions make a layer with bidirectional=True"
        )
    cells = known_cells(layers, "PyTorch")
    if layers.bidirectional and layers.merge_fn is not concatenate_features:
        name = getattr(layers.merge_fn, "__name__", layers.merge_fn)
        raise ValueError(f'PyTorch concatenates both directions, merge="concat"; these layers merge with {name}')
    kinds = {f"{kind_of(cell).__name__} of {cell.hidden_features}" for of_layer in cells for cell in of_layer}
    if len(kinds) > 1:
        raise ValueError(f"PyTorch's layers have one kind of cell and one size, these {', '.join(sorted(kinds))}")
    for number, of_layer in enumerate(cells):
        for cell, direction in zip(of_layer, ("", "_reverse")):
            yield f"l{number}{direction}", _torch_cell(cell)


def _torch_cell(cell: Cell) -> RecurrentCell:
    known = known_cell(cell)
    if isinstance(known, GRUCell) and not known.reset_after:
        raise ValueError("PyTorch's GRU resets after the product: this cell has reset_after=False")
    return known
