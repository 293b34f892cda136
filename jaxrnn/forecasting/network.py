"""A network that forecasts all steps of a horizon at once, each with several quantiles.

In units of the window (see :mod:`jaxrnn.forecasting.windows`)::

    quantile_hq = window @ linear[:, h] + spread_hq + (h_T @ head)_hq          h_T: last hidden state of the layers

The head starts at zero, so training starts from the linear path, which is fitted by ridge regression.
"""

from statistics import NormalDist
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxrnn.data import take_windows
from jaxrnn.forecasting.known_ahead import KnownAhead
from jaxrnn.layers import GRU, LSTM

_LARGEST = 20.0
_ROWS = 30_000
_FAR = 10.0
_PENALTY = 1e-3
KINDS = {"gru": GRU, "lstm": LSTM}


class QuantileNetwork(nnx.Module):
    """Recurrent layers and a linear path from a window to the quantiles of every step of the horizon.

    Args:
      window, horizon: steps that are read, and steps that are forecast.
      levels: the quantile levels.
      hidden: units of each recurrent layer.
      cell: ``"gru"`` or ``"lstm"``.
      past, future: how many numbers of each step, and of each step to forecast, are known beside the values.
      rngs: source of the initial parameters.

    >>> network = QuantileNetwork(12, 6, (0.1, 0.5, 0.9), hidden=(8,), rngs=nnx.Rngs(0))
    >>> network(jnp.ones((4, 12, 5))).shape
    (4, 6, 3)
    """

    def __init__(
        self,
        window: int,
        horizon: int,
        levels: tuple[float, ...],
        *,
        hidden: tuple[int, ...],
        cell: str = "gru",
        past: int = 0,
        future: int = 0,
        rngs: nnx.Rngs,
    ):
        self.horizon, self.levels = horizon, levels
        self.known = KnownAhead(past, future, horizon, hidden[-1], len(levels), rngs) if past else None
        self.layers = KINDS[cell](
            5 + past, list(hidden), num_layers=len(hidden), return_sequences=False, rngs=rngs
        )
        zeros = nnx.initializers.zeros_init()
        self.linear = nnx.Linear(2 * window, horizon, kernel_init=zeros, rngs=rngs)
        self.head = nnx.Linear(hidden[-1], horizon * len(levels), kernel_init=zeros, rngs=rngs)
        spread = [1.25 * NormalDist().inv_cdf(level) for level in levels]
        self.spread = nnx.Param(jnp.asarray(np.tile(spread, (horizon, 1)), jnp.float32))

    def __call__(self, inputs: Array) -> Array:
        """Quantiles ``[batch, horizon, levels]`` of windows ``[batch, window, 5]``, in the unit of each window."""
        observed = inputs[..., 2]
        center, scale = inputs[:, -1:, 3], inputs[:, -1:, 4]
        linear = linear_inputs(inputs)
        values, differences = jnp.split(linear, 2, axis=1)
        # How large the noise is beside the level, and how the scale changes along the window.
        noise = jnp.broadcast_to(jnp.log1p(jnp.abs(center) / scale), values.shape) / 3
        change = jnp.log1p(inputs[..., 4] / scale)
        read = jnp.stack([jnp.arcsinh(values), jnp.arcsinh(differences), observed, noise, change], axis=-1)
        if self.known is not None:
            read = jnp.concatenate([read, inputs[..., 5 : 5 + self.known.past]], axis=-1)
        hidden = self.layers(read)
        corrections = self.head(hidden).reshape(-1, self.horizon, len(self.levels))
        if self.known is not None:
            corrections += self.known(inputs, hidden)
        return self.linear(linear)[..., None] + self.spread[...] + corrections


def linear_inputs(inputs: Array) -> Array:
    """What the linear path reads: values and differences in units of the window, ``[batch, 2 window]``."""
    center, scale = inputs[:, -1:, 3], inputs[:, -1:, 4]
    values = (inputs[..., 0] - center) / scale
    both = jnp.clip(jnp.stack([values, inputs[..., 1] / scale], axis=1), -_LARGEST, _LARGEST)
    return (both * inputs[:, None, :, 2]).reshape(len(inputs), -1)


def pinball(levels: tuple[float, ...]):
    """The pinball loss of quantiles ``[batch, horizon, levels]`` and targets ``[batch, horizon]``.

    A target of NaN does not count.

    Source: Koenker, Bassett (1978), Regression quantiles, doi:10.2307/1913643.
    """
    levels_array = jnp.asarray(levels, jnp.float32)

    def loss(quantiles: Array, targets: Array) -> Array:
        known = jnp.isfinite(targets)[..., None]
        rest = jnp.where(known, jnp.nan_to_num(targets)[..., None] - quantiles, 0.0)
        return 2 * jnp.maximum(levels_array * rest, (levels_array - 1) * rest)

    return loss


def with_linear_path(
    params: Any, features: np.ndarray, targets: np.ndarray, starts: np.ndarray, window: int
) -> Any:
    """The parameters with a linear path that is fitted by ridge regression, so that training starts from there."""
    some = np.random.RandomState(0).permutation(starts)[:_ROWS]
    inputs = take_windows(jnp.asarray(features), some, window)
    rows = np.asarray(linear_inputs(inputs), np.float64)
    wanted = np.clip(targets[some + window - 1], -_FAR, _FAR).astype(np.float64)
    known = np.isfinite(wanted)
    wanted = np.where(known, wanted, 0)
    design = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    penalty = _PENALTY * np.eye(design.shape[1])
    whole = known.all(axis=1)
    used = whole if whole.sum() > 2 * design.shape[1] else known.any(axis=1)
    if used.sum() < 10:
        return params
    gram = design[used].T @ design[used]
    solution = np.linalg.solve(gram + penalty * np.trace(gram) / len(gram), design[used].T @ wanted[used])
    params.linear.kernel[...] = jnp.asarray(solution[:-1], jnp.float32)
    params.linear.bias[...] = jnp.asarray(solution[-1], jnp.float32)
    return params
