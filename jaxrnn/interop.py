"""Weights from and to PyTorch and Keras; neither library needs to be installed.

=========== ================================= ================================== =========================
cell        here                              PyTorch                            Keras
=========== ================================= ================================== =========================
kernels     ``[in, gates * hidden]``          ``[gates * hidden, in]``           as here
LSTM gates  i f g o                           i f g o                            i f c o (c is g)
GRU gates   r z n                             r z n                              z r h (h is n)
biases      one; GRU ``reset_after``: two     two everywhere: added up, but for  one; GRU ``reset_after``:
                                              the GRU                            two, as rows of one array
=========== ================================= ================================== =========================
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrnn import checks
from jaxrnn.cells import GRUCell, LSTMCell, RecurrentCell, SimpleRNNCell
from jaxrnn.checks import Cell
from jaxrnn.layers import RNN, StackedRNN
from jaxrnn.layers.rnn import concatenate_features

__all__ = ["keras_weights", "load_keras_weights", "load_torch_weights", "torch_weights"]


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
                _refuse_missing_bias(cell, "PyTorch")
                values.append((cell.bias, bias + other))
        loaded += values
    unknown = sorted(set(state) - used)
    if unknown:
        raise ValueError(f"the layers have no place for {', '.join(unknown)}")
    _assign(loaded)


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
            second = cell.recurrent_bias
            state[f"bias_ih_{suffix}"] = bias
            state[f"bias_hh_{suffix}"] = np.zeros_like(bias) if second is None else np.array(second[...])
    return state


def load_keras_weights(cell: RecurrentCell | RNN, weights: Sequence[Any]) -> None:
    """Load ``layer.get_weights()`` of a Keras ``SimpleRNN``, ``LSTM`` or ``GRU`` into one cell.

    Of a Keras ``Bidirectional``, the first half of the weights is the forward cell's. A GRU's ``reset_after`` must
    be the same on both sides.

    Raises:
      ValueError: the number of arrays or a shape does not fit, or the cell has no counterpart.

    >>> import jaxrnn
    >>> from flax import nnx
    >>> cell = jaxrnn.GRUCell(3, 4, rngs=nnx.Rngs(0))
    >>> load_keras_weights(cell, keras_weights(jaxrnn.GRUCell(3, 4, rngs=nnx.Rngs(1))))
    """
    cell = _known(cell.cell if isinstance(cell, RNN) else cell)
    _refuse_missing_bias(cell, "Keras")
    expected = [np.shape(array) for array in keras_weights(cell)]
    found = [np.shape(array) for array in weights]
    if found != expected:
        hint = ": is reset_after the same?" if isinstance(cell, GRUCell) else ""
        raise ValueError(
            f"the weights have the shapes {found}, but the {type(cell).__name__} needs {expected}{hint}"
        )
    arrays = [_swap_first_gates(cell, np.asarray(array)) for array in weights]
    values = [(cell.kernel, arrays[0]), (cell.recurrent_kernel, arrays[1])]
    if cell.recurrent_bias is not None:
        values += [(cell.bias, arrays[2][0]), (cell.recurrent_bias, arrays[2][1])]
    elif cell.bias is not None:
        values.append((cell.bias, arrays[2]))
    _assign(values)


def keras_weights(cell: RecurrentCell | RNN) -> list[np.ndarray]:
    """The weights of one cell as ``layer.set_weights()`` of the same Keras layer takes them.

    Raises:
      ValueError: the cell has no counterpart.

    >>> import jaxrnn
    >>> from flax import nnx
    >>> [array.shape for array in keras_weights(jaxrnn.GRUCell(3, 4, rngs=nnx.Rngs(0)))]
    [(3, 12), (4, 12), (2, 12)]
    """
    cell = _known(cell.cell if isinstance(cell, RNN) else cell)
    weights = [np.array(cell.kernel[...]), np.array(cell.recurrent_kernel[...])]
    if cell.bias is not None:
        bias = np.array(cell.bias[...])
        second = np.zeros_like(bias) if cell.recurrent_bias is None else np.array(cell.recurrent_bias[...])
        two = isinstance(cell, GRUCell) and cell.reset_after
        weights.append(np.stack([bias, second]) if two else bias)
    return [_swap_first_gates(cell, array) for array in weights]


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
        f"{_kind(cell).__name__} of {cell.hidden_features}"
        for cell in map(_known, [*layers.cells, *layers.backward_cells])
    }
    if len(kinds) > 1:
        raise ValueError(f"PyTorch's layers have one kind of cell and one size, these {', '.join(sorted(kinds))}")
    for number in range(layers.num_layers):
        yield f"l{number}", _torch_cell(layers.cells[number])
        if layers.bidirectional:
            yield f"l{number}_reverse", _torch_cell(layers.backward_cells[number])


def _torch_cell(cell: Cell) -> RecurrentCell:
    known = _known(cell)
    if isinstance(known, GRUCell) and not known.reset_after:
        raise ValueError("PyTorch's GRU resets after the product: this cell has reset_after=False")
    return known


def _known(cell: Cell) -> RecurrentCell:
    if not isinstance(cell, (SimpleRNNCell, LSTMCell, GRUCell)):
        raise ValueError(f"only SimpleRNNCell, LSTMCell and GRUCell have a counterpart, not {type(cell).__name__}")
    if cell.num_heads > 1:
        raise ValueError(f"neither PyTorch nor Keras has recurrent kernels with heads, but {cell.num_heads=}")
    for method in ("pointwise", "pure_pointwise", "carry_like", "input_projection", "recurrent_parameters"):
        if getattr(type(cell), method) is not getattr(_kind(cell), method):
            raise ValueError(f"{type(cell).__name__} has a {method} of its own, and so no counterpart")
    return cell


def _kind(cell: Cell) -> type[RecurrentCell]:
    """The built-in cell that it is, or is derived from."""
    return next(kind for kind in (SimpleRNNCell, LSTMCell, GRUCell) if isinstance(cell, kind))


def _refuse_missing_bias(cell: RecurrentCell, library: str) -> None:
    """There is no place for the second bias of a GRU in a cell that has only the first."""
    if isinstance(cell, GRUCell) and cell.reset_after and cell.bias is not None and cell.recurrent_bias is None:
        raise ValueError(f"{library}'s GRU has a recurrent bias: make the cells with use_recurrent_bias=True")


def _swap_first_gates(cell: RecurrentCell, array: np.ndarray) -> np.ndarray:
    """r z n to z r n and back, on the last axis; other cells have Keras's order already."""
    if not isinstance(cell, GRUCell):
        return array
    first, second, third = np.split(array, 3, axis=-1)
    return np.concatenate([second, first, third], axis=-1)


def _assign(values: Sequence[tuple[Any, np.ndarray]]) -> None:
    """All at the end, so that an error leaves the layers as they were."""
    for parameter, array in values:
        parameter[...] = jnp.asarray(array, parameter[...].dtype)
