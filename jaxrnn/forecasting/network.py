"""A network that forecasts all steps of a horizon at once, each with several quantiles.

In units of the window (see :mod:`jaxrnn.forecasting.windows`)::

    quantile_hq = smooth_h + window @ linear[:, h] + noise * spread_hq + correction_hq
    correction_h = tanh(h_T @ state + lags_h @ lag + place_h) @ out

``smooth_h`` is the median of several exponential smoothings, ``h_T`` the last hidden state of recurrent layers
that read the window, and ``lags_h`` the values one, two and three seasons before the step, with their neighbours.
The linear path is fitted by regression before the training, and stays. ``out`` starts at zero, so the network
starts as good as the linear path, and learns what that misses. Quantiles of all steps at once: Wen and others
(2017), arXiv:1711.11053.
"""

from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxrnn.forecasting.distributions import LOCATION, Distribution, without_correction
from jaxrnn.forecasting.known_ahead import KnownAhead
from jaxrnn.forecasting.panel_smoothing import COUNT, smoothing_forecasts
from jaxrnn.forecasting.windows import FEATURES
from jaxrnn.layers import GRU, LSTM

LARGEST = 20.0
"""Of what the linear path reads, in units of the window."""

_READ = 5
_SEASONS = 3
_UNITS = 40
KINDS = {"gru": GRU, "lstm": LSTM}


class QuantileNetwork(nnx.Module):
    """Smoothings, a linear path and recurrent layers from a window to the quantiles of every step of the horizon.

    Args:
      window, horizon: steps that are read, and steps that are forecast. The window is at least a season.
      season: steps per season.
      levels: the quantile levels.
      distribution: whose parameters are forecast in place of quantiles, or None.
      hidden: units of each recurrent layer.
      cell: ``"gru"`` or ``"lstm"``.
      past, future: how many numbers of each step, and of each step to forecast, are known beside the values.
      rngs: source of the initial parameters.

    >>> network = QuantileNetwork(12, 6, 4, (0.1, 0.5, 0.9), hidden=(8,), rngs=nnx.Rngs(0))
    >>> network(jnp.ones((4, 12, FEATURES))).shape
    (4, 6, 3)
    """

    def __init__(
        self,
        window: int,
        horizon: int,
        season: int,
        levels: tuple[float, ...],
        *,
        hidden: tuple[int, ...],
        cell: str = "gru",
        past: int = 0,
        future: int = 0,
        distribution: Distribution | None = None,
        rngs: nnx.Rngs,
    ):
        self.window, self.horizon, self.season = window, horizon, season
        self.num_features = FEATURES + past + future
        outputs = tuple((LOCATION, NormalDist().inv_cdf(level)) for level in levels)
        self.outputs = outputs if distribution is None else distribution.outputs
        self.known = KnownAhead(past, future, horizon, hidden[-1], len(self.outputs), rngs) if past else None
        self.layers = KINDS[cell](
            _READ + past, list(hidden), num_layers=len(hidden), return_sequences=False, rngs=rngs
        )
        zeros = nnx.initializers.zeros_init()
        self.linear = nnx.Linear(2 * window, horizon, kernel_init=zeros, rngs=rngs)
        lags = lag_places(window, horizon, season).shape[1]
        self.state = nnx.Linear(hidden[-1], _UNITS, rngs=rngs)
        self.lag = nnx.Linear(2 * lags + 2, _UNITS, use_bias=False, rngs=rngs)
        self.place = nnx.Param(0.3 * jax.random.normal(rngs.params(), (horizon, _UNITS)))
        self.out = nnx.Linear(_UNITS, len(self.outputs), kernel_init=zeros, rngs=rngs)
        spread = [first for _, first in self.outputs]
        self.spread = nnx.Param(jnp.asarray(np.tile(spread, (horizon, 1)), jnp.float32))

    def __call__(self, inputs: Array) -> Array:
        """Quantiles ``[batch, horizon, levels]`` of windows ``[batch, window, FEATURES]``, in their units.

        With a distribution, its outputs ``[batch, horizon, outputs]``.
        """
        observed, center, scale, noise = inputs[..., 2], inputs[:, -1:, 3], inputs[:, -1:, 4], inputs[:, -1:, 5]
        linear = linear_inputs(inputs)
        values, differences = (jnp.arcsinh(one) for one in jnp.split(linear, 2, axis=1))
        ratio = jnp.broadcast_to(jnp.log(noise / scale), values.shape) / 3
        change = jnp.log(jnp.maximum(inputs[..., 5], 1e-3 * noise) / noise)
        read = jnp.stack([values, differences, observed, ratio, change], axis=-1)
        if self.known is not None:
            read = jnp.concatenate([read, inputs[..., FEATURES : FEATURES + self.known.past]], axis=-1)
        hidden = self.layers(read)
        smooth, apart = smooth_forecast(inputs, self.horizon, self.season)
        level = jnp.arcsinh(smooth + (inputs[:, -1:, 0] - center) / scale)
        exists = (inputs[..., 4] > 0).astype(values.dtype)
        places = lag_places(self.window, self.horizon, self.season)
        lags = [values[:, places], exists[:, places], level[..., None], jnp.log1p(apart)[..., None]]
        units = self.state(hidden)[:, None] + self.lag(jnp.concatenate(lags, axis=-1)) + self.place[...]
        corrections = self.out(jnp.tanh(units))
        if self.known is not None:
            corrections += self.known(inputs, hidden)
        middle = smooth + jax.lax.stop_gradient(self.linear(linear))
        return without_correction(self.outputs, middle, noise / scale, self.spread[...]) + corrections


def smooth_forecast(inputs: Array, horizon: int, season: int) -> tuple[Array, Array]:
    """The median of the smoothings and how far they lie apart, ``[batch, horizon]``, in units of the window."""
    states, last, scale = inputs[..., 6:FEATURES], inputs[:, -1, 0], inputs[:, -1, 4]
    # The first season is known when it is over, so a window that holds less than a season has none.
    whole = inputs[:, -season, None, None, 4] > 0
    states = jnp.where(whole | (np.arange(3 * COUNT) < 2 * COUNT), states, 0.0)
    forecasts = (smoothing_forecasts(states, horizon, season) - last[:, None, None]) / scale[:, None, None]
    return jnp.median(forecasts, axis=-1), forecasts.std(axis=-1)


def linear_inputs(inputs: Array) -> Array:
    """What the linear path reads: values and differences in units of the window, ``[batch, 2 window]``."""
    center, scale = inputs[:, -1:, 3], inputs[:, -1:, 4]
    values = (inputs[..., 0] - center) / scale
    both = jnp.clip(jnp.stack([values, inputs[..., 1] / scale], axis=1), -LARGEST, LARGEST)
    # Steps before the first value of a series have no scale.
    both = both * (inputs[:, None, :, 2] * (inputs[:, None, :, 4] > 0))
    return both.reshape(inputs.shape[0], 2 * inputs.shape[1])  # also of no windows, if the series are very short


def pinball(levels: tuple[float, ...]):
    """The pinball loss of quantiles ``[batch, horizon, levels]`` and targets ``[batch, horizon + 1]``.

    A target of NaN does not count. The last column is the weight of the row.

    Source: Koenker, Bassett (1978), Regression quantiles, doi:10.2307/1913643.
    """
    levels_array = jnp.asarray(levels, jnp.float32)

    def loss(quantiles: Array, targets: Array) -> Array:
        targets, weight = targets[:, :-1], targets[:, -1, None, None]
        known = jnp.isfinite(targets)[..., None]
        rest = jnp.where(known, jnp.nan_to_num(targets)[..., None] - quantiles, 0.0)
        return 2 * weight * jnp.maximum(levels_array * rest, (levels_array - 1) * rest)

    return loss


def lag_places(window: int, horizon: int, season: int) -> np.ndarray:
    """Where in a window the values lie one or more seasons before each step, and beside these."""
    ahead = np.arange(1, horizon + 1)
    first = window - 1 + ahead - season * -(-ahead // season)
    seasons = range(min(_SEASONS, window // season))
    places = [first - season * before + beside for before in seasons for beside in (-1, 0, 1)]
    return np.clip(np.stack(places, axis=1), 0, window - 1)
