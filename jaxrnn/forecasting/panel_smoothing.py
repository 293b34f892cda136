"""Several exponential smoothings of every series of a panel at once, and what they forecast from each step.

With a level l, a damped trend b and a season s, in the steps after the first season::

    e_t = x_t - l_{t-1} - damping * b_{t-1} - s_{t-m}
    l_t = l_{t-1} + damping * b_{t-1} + level_rate * e_t
    b_t = damping * b_{t-1} + level_rate * trend_rate * e_t
    s_t = s_{t-m} + max(season_rate, 1 / (seasons so far + 1)) * (1 - level_rate) * e_t

    forecast_{t+h} = l_t + (damping + damping^2 + ... + damping^h) * b_t + s_{t+h-m}

In the first season the level is the mean so far; at its end the season is what is left. The rates are fixed, so
nothing is fitted to a series, and a step depends only on the values up to it. Their median is a robust forecast
that a network corrects. Source: Hyndman, Koehler, Ord, Snyder (2008), doi:10.1007/978-3-540-71918-2.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

RATES = (
    (0.1, 0.03, 0.98, 0.3),
    (0.3, 0.03, 0.98, 0.3),
    (0.3, 0.0, 0.0, 0.3),
    (0.1, 0.1, 0.9, 0.6),
    (0.6, 0.1, 0.9, 0.3),
    (0.05, 0.0, 0.0, 0.1),
)
"""Level rate, trend rate, damping and season rate of each smoothing."""

COUNT = len(RATES)


def smoothing_states(series: list[np.ndarray], season: int) -> list[np.ndarray]:
    """Levels, trends and seasons of each smoothing at every step of each series, float32 ``[time, 3 * COUNT]``.

    Args:
      series: each float ``[time]``.
      season: steps per season.
    """
    longest = max(map(len, series))
    padded = np.zeros((_rounded(longest), _rounded(len(series))), np.float32)
    for place, values in enumerate(series):
        padded[: len(values), place] = values
    levels, trends, seasons = (np.asarray(array) for array in _run(padded, season=season))
    result = []
    for place, values in enumerate(series):
        count = len(values)
        seasonal = seasons[:count, place].copy()
        # The season of the first steps is known when they are over.
        first = values[:season] - values[:season].mean() if 1 < season <= count else np.zeros(min(season, count))
        seasonal[: len(first)] = first[:, None]
        result.append(np.concatenate([levels[:count, place], trends[:count, place], seasonal], axis=1))
    return result


def smoothing_forecasts(states: Array, horizon: int, season: int) -> Array:
    """Forecasts ``[batch, horizon, COUNT]`` after windows of states ``[batch, window, 3 * COUNT]``.

    A window must not be shorter than a season.
    """
    levels, trends, _ = jnp.split(states[:, -1], 3, axis=-1)
    ahead = np.arange(1, horizon + 1)
    damping = np.array(RATES)[:, 2]
    sums = np.cumsum(damping ** ahead[:, None], axis=0).astype(np.float32)
    places = states.shape[1] - 1 + ahead - season * -(-ahead // season)
    return levels[:, None] + sums * trends[:, None] + states[:, places, 2 * COUNT :]


@partial(jax.jit, static_argnames="season")
def _run(values: Array, *, season: int) -> tuple[Array, Array, Array]:
    """States of ``values [time, series]``, each ``[time, series, COUNT]``."""
    level_rate, trend_rate, damping, season_rate = jnp.asarray(np.array(RATES).T, jnp.float32)

    def step(carry, inputs):
        level, trend, seasonal = carry
        time, value = inputs
        value, place = value[:, None], time % season
        is_first = time < season
        before = jnp.where(is_first, 0.0, seasonal[place])
        ahead = level + damping * trend
        error = value - ahead - before
        rate = jnp.where(is_first, 1 / (time + 1), level_rate)
        level = ahead + rate * error
        trend = jnp.where(is_first, 0.0, damping * trend + level_rate * trend_rate * error)
        faster = jnp.maximum(season_rate, 1 / (time // season + 1)) * (season > 1)
        after = before + faster * (1 - level_rate) * error
        # The first season keeps its values until its mean is known.
        seasonal = seasonal.at[place].set(jnp.where(is_first, jnp.broadcast_to(value, level.shape), after))
        seasonal = jnp.where(time == season - 1, (seasonal - level) * (season > 1), seasonal)
        return (level, trend, seasonal), (level, trend, jnp.where(is_first, 0.0, after))

    zeros = jnp.zeros((values.shape[1], COUNT), jnp.float32)
    carry = zeros, zeros, jnp.zeros((season, *zeros.shape), jnp.float32)
    return jax.lax.scan(step, carry, (jnp.arange(len(values)), values))[1]


def _rounded(count: int) -> int:
    """At least the count, so that few programs are compiled for many sizes: 1, 2, 3, 4, 6, 8, 12, 16, 24, ..."""
    power = 1 << max(0, (count - 1).bit_length() - 1)
    return count if count <= 2 else next(size for size in (power, 3 * power // 2, 2 * power) if size >= count)
