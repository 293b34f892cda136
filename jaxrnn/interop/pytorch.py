"""Weights from and to PyTorch."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxrnn import checks
from jaxrnn.cells import GRUCell, RecurrentCell
from jaxrnn.checks import Cell
from jaxrnn.interop.cells import assign, kind_of, known_cell, refuse_missing_bias
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
        layers do what no PyTorch module does: skip connections, ``merge`` other than ``"concat"``, layers that
        differ in their cell or size, equations of their own.

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
        array: Any = state[name]
        if hasattr(array, "detach"):  # a tensor, which NumPy refuses if it wants gradients or is bfloat16
            array = array.detach()
            array = array.float() if str(array.dtype) == "torch.bfloat16" else array
        array = np.asarray(array)
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, but the layers need {shape}")
        return array

    loaded = []
    for suffix, cell in _torch_cells(layers):
        kernel, recurrent = cell.kernel[...], cell.recurrent_kernel[...]
        values = [
            (cell.kernel, take(f"weight_ih_{suffix}", kernel.shape[::-1]).T),
            (cell.recurrent_kernel, take(f"weight_hh_{suffix}", recurrent.shape[::-1]).T),
        ]
        if cell.bias is not None:
            width = (kernel.shape[1],)
            bias, other = take(f"bias_ih_{suffix}", width), take(f"bias_hh_{suffix}", width)
            if cell.recurrent_bias is not None:
                values += [(cell.bias, bias), (cell.recurrent_bias, other)]
            else:
                refuse_missing_bias(cell, "PyTorch")
                values.append((cell.bias, bias + other))
        loaded += values
    unknown = sorted(set(state) - used)
    if unknown:
        raise ValueError(f"the layers have no place for {', '.join(unknown)}")
    assign(loaded)


def torch_weights(layers: StackedRNN | RNN) -> dict[str, np.ndarray]:
    """The weights of layers as the ``state_dict`` of the same ``torch.nn`` module, in NumPy arrays.

    Wrap each in ``torch.from_numpy`` for ``load_state_dict``. Where PyTorch has two biases that are only ever
    added up, the second one is zero.

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
        if cell.bias is not None:
            bias = np.array(cell.bias[...])
            second = cell.recurrent_parameters(cell.kernel[...].dtype)[1]
            state[f"bias_ih_{suffix}"] = bias
            state[f"bias_hh_{suffix}"] = np.zeros_like(bias) if second is None else np.array(second[...])
    return state


def _torch_cells(layers: StackedRNN | RNN) -> Iterator[tuple[str, RecurrentCell]]:
    """Every cell with the end of its names in PyTorch."""
    if isinstance(layers, RNN):
        yield "l0", _torch_cell(layers.cell)
        return
    if not isinstance(layers, StackedRNN):
        raise ValueError(f"only RNN, SimpleRNN, LSTM, GRU and StackedRNN have a counterpart, not {layers!r}")
    if layers.skip_connections:
        raise ValueError("no PyTorch module has skip_connections")
    if layers.bidirectional and layers.merge_fn is not concatenate_features:
        name = getattr(layers.merge_fn, "__name__", layers.merge_fn)
        raise ValueError(f'PyTorch concatenates both directions, merge="concat"; these layers merge with {name}')
    kinds = {
        f"{kind_of(cell).__name__} of {cell.hidden_features}"
        for cell in map(known_cell, [*layers.cells, *layers.backward_cells])
    }
    if len(kinds) > 1:
        raise ValueError(f"PyTorch's layers have one kind of cell and one size, these {', '.join(sorted(kinds))}")
    for number in range(layers.num_layers):
        yield f"l{number}", _torch_cell(layers.cells[number])
        if layers.bidirectional:
            yield f"l{number}_reverse", _torch_cell(layers.backward_cells[number])


def _torch_cell(cell: Cell) -> RecurrentCell:
    known = known_cell(cell)
    if isinstance(known, GRUCell) and not known.reset_after:
        raise ValueError("PyTorch's GRU resets after the product: this cell has reset_after=False")
    return known
