"""Weights of sLSTM cells, layers and blocks of the PyTorch package ``xlstm`` (2.0), which need not be installed.

- ``recurrent_kernel [heads, units, 4 * units]`` is ``_recurrent_kernel_`` with its last two axes exchanged.
- ``bias [4 * hidden]`` is ``_bias_``, in the same order.
- ``kernel [in, 4 * hidden]`` does not exist in an ``sLSTMCell``, whose inputs are the gates. In an ``sLSTMLayer``
  it is block-diagonal: ``fgate``, ``igate``, ``zgate`` and ``ogate``, each ``[heads, units, units]``.

In version 2.0.6, ``sLSTMLayer`` feeds the input gate from the weights named ``fgate`` and the forget gate from
those named ``igate``. The weights are loaded as that layer computes with them. Its norms multiply by 1 + weight.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrnn import checks
from jaxrnn.cells import SLSTMCell
from jaxrnn.interop.cells import assign, numbers
from jaxrnn.models import SLSTMBlock

__all__ = ["load_xlstm_weights"]

_GATES = ("fgate", "igate", "zgate", "ogate")
"""The weights of the gates i f z o of ``sLSTMLayer``."""


def load_xlstm_weights(cell: SLSTMCell | SLSTMBlock, state: Mapping[str, Any]) -> None:
    """Load the ``state_dict()`` of an ``sLSTMCell``, ``sLSTMLayer`` or ``sLSTMBlock`` of the vanilla backend.

    Args:
      cell: an :class:`jaxrnn.SLSTMCell` with as many heads and units, a sigmoid forget gate and a bias, for a cell
        or a layer; a :class:`jaxrnn.models.SLSTMBlock` for a block. A state without the weights of the gates
        leaves a cell's ``kernel`` as it is.
      state: names to arrays, or to tensors on the CPU. Of an ``sLSTMLayer``, only one without a convolution
        (``conv1d_kernel_size=0``) computes what the cell does; its group norm is not part of the cell.

    Raises:
      ValueError: ``state`` is not a mapping, a name is missing or unknown, or a shape does not fit; or the cell
        has an exponential forget gate or no bias.

    >>> import jaxrnn
    >>> import numpy as np
    >>> from flax import nnx
    >>> cell = jaxrnn.SLSTMCell(3, 8, num_heads=2, rngs=nnx.Rngs(0))
    >>> load_xlstm_weights(cell, {"_recurrent_kernel_": np.ones((2, 16, 4)), "_bias_": np.arange(32.0)})
    >>> cell.bias[:3]
    Array([0., 1., 2.], dtype=float32)
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"state must be the state_dict() of a torch module, not {checks.shown(state)}")
    is_block = isinstance(cell, SLSTMBlock)
    if not isinstance(cell, (SLSTMCell, SLSTMBlock)) or cell.forget_gate != "sigmoid" or cell.bias is None:
        raise ValueError(
            f"xlstm's cells are SLSTMCells with a sigmoid forget gate and a bias, not {checks.shown(cell)}"
        )
    weights = _Weights(state)
    found = _of_block(cell, weights) if isinstance(cell, SLSTMBlock) else _of_cell(cell, weights)
    if weights.left:
        what = "block" if is_block else "cell"
        raise ValueError(f"the {what} has no place for {', '.join(sorted(weights.left))}")
    assign(found)


class _Weights:
    """The arrays of a state, each of which is taken once."""

    def __init__(self, state: Mapping[str, Any]):
        self._state, self.left = state, dict(state)

    def take(self, name: str, *shape: int) -> np.ndarray:
        if name not in self.left:
            raise ValueError(f"the state has no {name!r}; it has {', '.join(sorted(self._state))}")
        array = numbers(name, self.left.pop(name))
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, but the cell needs {shape}")
        return array

    def recurrent(self, prefix: str, heads: int, units: int) -> np.ndarray:
        kernel = np.swapaxes(self.take(f"{prefix}_recurrent_kernel_", heads, 4 * units, units), 1, 2)
        return kernel[0] if heads == 1 else kernel

    def gates(self, prefix: str, heads: int, units: int) -> np.ndarray:
        """``[gates, heads, in, out]``."""
        of_torch = [self.take(f"{prefix}{name}.weight", heads, units, units) for name in _GATES]
        return np.swapaxes(np.stack(of_torch), 2, 3)


def _of_cell(cell: SLSTMCell, weights: _Weights) -> list[tuple[Any, np.ndarray]]:
    heads, hidden = cell.num_heads, cell.hidden_features
    units = hidden // heads
    prefix = "slstm_cell." if any(name.startswith("slstm_cell.") for name in weights.left) else ""
    found = [
        (cell.recurrent_kernel, weights.recurrent(prefix, heads, units)),
        (cell.bias, weights.take(f"{prefix}_bias_", 4 * hidden)),
    ]
    if prefix:
        if cell.in_features != hidden:
            raise ValueError(f"an sLSTMLayer has as many inputs as units, but {cell.in_features=}, {hidden=}")
        gates = weights.gates("", heads, units)
        kernel = np.zeros((heads, units, 4, heads, units), gates.dtype)
        for head in range(heads):
            kernel[head, :, :, head] = np.swapaxes(gates[:, head], 0, 1)
        found.append((cell.kernel, kernel.reshape(hidden, 4 * hidden)))
        weights.left.pop("group_norm.weight", None)
    return found


def _of_block(block: SLSTMBlock, weights: _Weights) -> list[tuple[Any, np.ndarray]]:
    features, mlp = block.features, block.down.in_features
    _, heads, units, _ = block.gates[...].shape
    found = [
        (block.norm.scale, 1 + weights.take("xlstm_norm.weight", features)),
        (block.gates, weights.gates("xlstm.", heads, units)),
        (block.recurrent_kernel, weights.recurrent("xlstm.slstm_cell.", heads, units)),
        (block.bias, weights.take("xlstm.slstm_cell._bias_", 4 * features)),
        (block.head_scale, 1 + weights.take("xlstm.group_norm.weight", features)),
        (block.mlp_norm.scale, 1 + weights.take("ffn_norm.weight", features)),
        (block.up.kernel, weights.take("ffn.proj_up.weight", 2 * mlp, features).T),
        (block.down.kernel, weights.take("ffn.proj_down.weight", features, mlp).T),
    ]
    if block.conv is not None:
        kernel = weights.take("xlstm.conv1d.conv.weight", features, 1, block.conv_width)
        found.append((block.conv.kernel, kernel.transpose(2, 1, 0)))
        found.append((block.conv.bias, weights.take("xlstm.conv1d.conv.bias", features)))
    return found
