"""The part of the network that reads what is known of the steps to forecast."""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn.forecasting.windows import FEATURES

_UNITS = 32


class KnownAhead(nnx.Module):
    """Corrections of the quantiles of each step by what is known of it::

        correction_h = relu(z_{t+h} @ columns + h_T @ state + bias) @ out      h_T: last hidden state of the layers

    ``out`` starts at zero.

    Args:
      past, future: how many numbers are known of each step of a window, and of each step to forecast. They stand
        after the other features, and those of step t + h stand at step t + h - horizon of the window.
      horizon, hidden, levels: steps to forecast, units of the last recurrent layer, quantiles.
      rngs: source of the initial parameters.
    """

    def __init__(self, past: int, future: int, horizon: int, hidden: int, levels: int, rngs: nnx.Rngs):
        self.past, self.future, self.horizon = past, future, horizon
        if future:
            zeros = nnx.initializers.zeros_init()
            self.columns = nnx.Linear(future, _UNITS, rngs=rngs)
            self.state = nnx.Linear(hidden, _UNITS, use_bias=False, rngs=rngs)
            self.out = nnx.Linear(_UNITS, levels, kernel_init=zeros, use_bias=False, rngs=rngs)

    def __call__(self, inputs: Array, hidden: Array) -> Array:
        """``[batch, horizon, levels]`` of windows ``[batch, window, features]`` and states ``[batch, hidden]``."""
        if not self.future:
            return jnp.zeros(())
        first = FEATURES + self.past
        ahead = inputs[:, -self.horizon :, first : first + self.future]
        return self.out(nnx.relu(self.columns(ahead) + self.state(hidden)[:, None, :]))
