"""Weights from equinox."""

from typing import Any

from jaxrnn import checks
from jaxrnn.cells import GRUCell, LSTMCell, RecurrentCell
from jaxrnn.interop.cells import fill, numbers, only_cell
from jaxrnn.layers import RNN


def load_equinox_weights(cell: RecurrentCell | RNN, module: Any) -> None:
    """Load an ``equinox.nn.LSTMCell`` or ``GRUCell`` into a cell.

    Args:
      cell: an LSTM or GRU with as many units. A GRU needs ``use_recurrent_bias="candidate"``, or a recurrent
        bias of all gates, of which the others become zero.
      module: the equinox module.

    Raises:
      ValueError: the module is not such a cell, a shape does not fit, or the cell has no counterpart.

    >>> import jaxrnn
    >>> import numpy as np
    >>> from flax import nnx
    >>> from types import SimpleNamespace
    >>> module = SimpleNamespace(weight_ih=np.ones((16, 3)), weight_hh=np.ones((16, 4)), bias=np.arange(16.0))
    >>> cell = jaxrnn.LSTMCell(3, 4, rngs=nnx.Rngs(0))
    >>> load_equinox_weights(cell, module)                              # or equinox.nn.LSTMCell(3, 4, key=key)
    >>> cell.bias[:3].tolist()
    [0.0, 1.0, 2.0]
    """
    known = only_cell(cell)
    if not isinstance(known, (LSTMCell, GRUCell)):
        raise ValueError(f"equinox has LSTM and GRU cells, but no {type(known).__name__}")
    if isinstance(known, GRUCell) and not known.reset_after:
        raise ValueError("equinox's GRU resets after the product: this cell has reset_after=False")
    names = ["weight_ih", "weight_hh", "bias", *(["bias_n"] if isinstance(known, GRUCell) else [])]
    missing = [name for name in names if not hasattr(module, name)]
    if missing:
        raise ValueError(
            f"a {type(known).__name__} needs an equinox cell with {', '.join(names)}, not {checks.shown(module)}"
        )
    fill(
        known,
        "equinox",
        numbers("weight_ih", module.weight_ih).T,
        numbers("weight_hh", module.weight_hh).T,
        module.bias,
        getattr(module, "bias_n", None) if isinstance(known, GRUCell) else None,
    )
