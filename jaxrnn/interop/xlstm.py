"""Weights of sLSTM cells and layers of the PyTorch package ``xlstm`` (2.0), which need not be installed.

- ``recurrent_kernel [heads, units, 4 * units]`` is ``_recurrent_kernel_`` with its last two axes exchanged.
- ``bias [4 * hidden]`` is ``_bias_``, in the same order.
- ``kernel [in, 4 * hidden]`` does not exist in an ``sLSTMCell``, whose inputs are the gates. In an ``sLSTMLayer``
  it is block-diagonal: ``fgate``, ``igate``, ``zgate`` and ``ogate``, each ``[heads, units, units]``.

In version 2.0.6, ``sLSTMLayer`` feeds the input gate from the weights named ``fgate`` and the forget gate from
those named ``igate``. The weights are loaded as that layer computes with them.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrnn import checks
from jaxrnn.cells import SLSTMCell

__all__ = ["load_xlstm_weights"]

_GATES = ("fgate", "igate", "zgate", "ogate")
"""The weights of the gates i f z o of ``sLSTMLayer``."""


def load_xlstm_weights(cell: SLSTMCell, state: Mapping[str, Any]) -> None:
    """Load the ``state_dict()`` of an ``sLSTMCell`` or ``sLSTMLayer`` of the vanilla backend into a cell.

    Args:
      cell: with as many heads and units, a sigmoid forget gate and a bias. A state without the weights of the
        gates leaves its ``kernel`` as it is.
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
    if not isinstance(cell, SLSTMCell) or cell.forget_gate != "sigmoid" or cell.bias is None:
        raise ValueError(
            f"xlstm's cells are SLSTMCells with a sigmoid forget gate and a bias, not {checks.shown(cell)}"
        )
    heads, hidden = cell.num_heads, cell.hidden_features
    units, left = hidden // heads, dict(state)
    prefix = "slstm_cell." if any(name.startswith("slstm_cell.") for name in state) else ""

    def take(name: str, *shape: int) -> np.ndarray:
        if name not in left:
            raise ValueError(f"the state has no {name!r}; it has {', '.join(sorted(state))}")
        array = left.pop(name)
        array = np.asarray(array.detach().float() if hasattr(array, "detach") else array)
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, but the cell needs {shape}")
        return array

    recurrent_kernel = np.swapaxes(take(f"{prefix}_recurrent_kernel_", heads, 4 * units, units), 1, 2)
    bias = take(f"{prefix}_bias_", 4 * hidden)
    kernel = None
    if prefix:
        if cell.in_features != hidden:
            raise ValueError(f"an sLSTMLayer has as many inputs as units, but {cell.in_features=}, {hidden=}")
        kernel = np.zeros((heads, units, 4, heads, units), np.float32)
        for gate, name in enumerate(_GATES):
            weight = take(f"{name}.weight", heads, units, units)
            for head in range(heads):
                kernel[head, :, gate, head] = weight[head].T
        kernel = kernel.reshape(hidden, 4 * hidden)
        left.pop("group_norm.weight", None)
    if left:
        raise ValueError(f"the cell has no place for {', '.join(sorted(left))}")
    if heads == 1:
        recurrent_kernel = recurrent_kernel[0]
    for parameter, value in ((cell.kernel, kernel), (cell.recurrent_kernel, recurrent_kernel), (cell.bias, bias)):
        if value is not None:
            parameter[...] = jnp.asarray(value, parameter[...].dtype)
