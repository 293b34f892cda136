"""The leaky, continuous-time cell, as in models of neurons and in reservoir computing."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from jaxrnn import checks
from jaxrnn.cells.base import RecurrentCell
from jaxrnn.ops.pointwise import leaky_pointwise
from jaxrnn.ops.step import Params, Pointwise


class LeakyCell(RecurrentCell):
    """A leaky, continuous-time recurrent cell, in which each unit learns how fast it forgets.

        a   = sigmoid(leak)
        h_t = (1 - a) * h_{t-1} + a * tanh(x_t @ kernel + bias + h_{t-1} @ recurrent_kernel)

    This is the Euler discretisation of tau dh/dt = -h + tanh(...) with a = dt / tau, where a is learned for every
    unit. The carry is h, ``[*batch, hidden]``, and so is the output. Source: Jaeger, Lukosevicius, Popovici,
    Siewert (2007), doi:10.1016/j.neunet.2007.04.016.

    Args:
      in_features, hidden_features, rngs and further keyword arguments: as in :class:`jaxrnn.RecurrentCell`.
      initial_leak: the initial value of a, between 0 (h never changes) and 1 (the simple RNN), exclusive; one
        number, or one per unit.

    Raises:
      ValueError: an argument is invalid, or the inputs or the carry do not fit; the message shows the value.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> cell = LeakyCell(3, 4, initial_leak=0.2, rngs=nnx.Rngs(0))
    >>> carry, y = cell(cell.initialize_carry((2, 3)), jnp.ones((2, 3)))
    >>> y.shape
    (2, 4)
    """

    output_is_hidden_state = True

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        initial_leak: ArrayLike = 0.5,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        super().__init__(in_features, hidden_features, rngs=rngs, **options)
        try:
            a = np.asarray(initial_leak, np.float64)
        except (TypeError, ValueError):
            a = np.full((), np.nan)  # whatever it is, it lies between no numbers
        if a.shape not in ((), (self.hidden_features,)) or not ((a > 0) & (a < 1)).all():
            raise ValueError(
                "initial_leak must be one number between 0 and 1, or one per unit, not "
                f"{checks.shown(initial_leak)}"
            )
        self.leak = nnx.Param(jnp.broadcast_to(np.log(a / (1 - a)), self.hidden_features).astype(self.param_dtype))

    def pure_pointwise(self) -> tuple[Pointwise, Params]:
        return leaky_pointwise, self.leak[...]

    def pointwise(self, carry: Array, xw: tuple[Array, ...], rh: tuple[Array, ...]) -> tuple[Array, Array]:
        return leaky_pointwise(self.leak[...], carry, xw, rh)
