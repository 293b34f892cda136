"""Weights from Flax Linen."""

from collections.abc import Mapping
from typing import Any

from jaxrnn import checks
from jaxrnn.cells import GRUCell, LSTMCell, RecurrentCell
from jaxrnn.interop.cells import fill, only_cell, side_by_side
from jaxrnn.layers import RNN


def load_linen_weights(cell: RecurrentCell | RNN, variables: Mapping[str, Any]) -> None:
    """Load a Linen ``OptimizedLSTMCell``, ``LSTMCell``, ``GRUCell`` or ``SimpleCell`` into a cell.

    Args:
      cell: with as many units. A GRU needs ``use_recurrent_bias="candidate"``, or a recurrent bias of all gates,
        of which the others become zero. The activation is not part of the parameters: choose the same one.
      variables: what ``init`` of the cell or of a ``linen.RNN`` with it returns, or the ``"params"`` in it.

    Raises:
      ValueError: a name is missing or unknown, a shape does not fit, or the cell has no counterpart.

    >>> import flax.linen as nn
    >>> import jax, jax.numpy as jnp
    >>> import jaxrnn
    >>> from flax import nnx
    >>> module, x = nn.RNN(nn.LSTMCell(4)), jnp.ones((2, 10, 3))
    >>> variables = module.init(jax.random.key(0), x)
    >>> layer = jaxrnn.RNN(jaxrnn.LSTMCell(3, 4, rngs=nnx.Rngs(0)))
    >>> load_linen_weights(layer, variables)
    >>> bool(jnp.allclose(layer(x), module.apply(variables, x), atol=1e-6))
    True
    """
    known = only_cell(cell)
    params = variables
    for name in ("params", "cell"):
        if isinstance(params, Mapping) and set(params) == {name}:
            params = params[name]
    if isinstance(known, LSTMCell):
        of_input, of_h = [f"i{gate}" for gate in "ifgo"], [f"h{gate}" for gate in "ifgo"]
        biased, candidate = of_h, None
    elif isinstance(known, GRUCell):
        if not known.reset_after:
            raise ValueError("Linen's GRU resets after the product: this cell has reset_after=False")
        of_input, of_h = [f"i{gate}" for gate in "rzn"], [f"h{gate}" for gate in "rzn"]
        biased, candidate = of_input, "hn"
    else:
        of_input, of_h, biased, candidate = ["i"], ["h"], ["i"], None
    names = [*of_input, *of_h]
    if not isinstance(params, Mapping) or sorted(params) != sorted(names):
        found = sorted(params) if isinstance(params, Mapping) else checks.shown(params)
        raise ValueError(f"a {type(known).__name__} needs the parameters {sorted(names)}, not {found}")
    has_bias = all("bias" in params[name] for name in biased)
    fill(
        known,
        "Linen",
        side_by_side("the input kernel", [params[name]["kernel"] for name in of_input]),
        side_by_side("the recurrent kernel", [params[name]["kernel"] for name in of_h]),
        side_by_side("the bias", [params[name]["bias"] for name in biased]) if has_bias else None,
        params[candidate].get("bias") if candidate is not None else None,
    )
