"""Distributions that networks are trained for by maximum likelihood, in place of quantiles.

A network then forecasts the parameters of a distribution for every step. Its quantiles go the same way as those of
a network that is trained for quantiles: the mean over the networks, calibration, paths. In units of the window::

    normal             location, scale
    student-t          location, scale, degrees of freedom, more than 2
    negative-binomial  mean and sigma, in the units of the series: variance = mean + sigma^2

Source: Salinas, Flunkert, Gasthaus (2017), DeepAR, arXiv:1704.04110, for the negative binomial distribution and
why a likelihood in the units of the series needs the scale of the window.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy import special, stats

from jaxrnn.forecasting.one_series import OneSeries, shown_time

LOCATION, LOG_SCALE, FREE = "location", "log of scale", "free"
"""What an output is: a change of the simple forecast, of the log of the window's noise, or of nothing."""

_LARGEST_LOG = 7.0
_LARGEST_SIZE = 1e6
_SHARPNESS = 8.0
_LEAST_MEAN = 1e-6


@dataclass(frozen=True)
class Distribution:
    """A family of distributions.

    Attributes:
      outputs: for every output of a network at a step, what it is and its first value.
      negative_log_likelihood: of outputs ``[batch, horizon, outputs]``, targets, anchors ``[batch, horizon]`` and
        scales ``[batch, 1]``: ``[batch, horizon]``. A value in the units of the series is anchor + scale * target.
      quantiles: of outputs ``[..., outputs]``, levels, anchors and scales ``[...]``: ``[..., levels]`` in units of
        the window; all in NumPy.
      counts: whether values must be whole numbers from 0 on. Their quantiles are whole numbers too.
    """

    outputs: tuple[tuple[str, float], ...]
    negative_log_likelihood: Callable[[Array, Array, Array, Array], Array]
    quantiles: Callable[[np.ndarray, Sequence[float], np.ndarray, np.ndarray], np.ndarray]
    counts: bool = False


def likelihood(distribution: Distribution, horizon: int) -> Callable[[Array, Array], Array]:
    """The loss of outputs ``[batch, horizon, outputs]`` and of what :func:`with_units` makes of targets.

    A target of NaN does not count. The last column is the weight of the row.
    """

    def loss(outputs: Array, targets: Array) -> Array:
        targets, anchors, scales, weight = jnp.split(targets, (horizon, 2 * horizon, 2 * horizon + 1), axis=1)
        known = jnp.isfinite(targets)
        surprise = distribution.negative_log_likelihood(outputs, jnp.where(known, targets, 0.0), anchors, scales)
        return weight * jnp.where(known, surprise, 0.0)

    return loss


def with_units(targets: np.ndarray, anchors: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Targets and anchors ``[steps, horizon]`` and scales ``[steps]`` side by side."""
    return np.concatenate([targets, anchors, scales[:, None]], axis=1)


def require_counts(panel: Sequence[OneSeries]) -> None:
    """Raise a ValueError that names series, time and value if one is negative or not a whole number."""
    for one in panel:
        wrong = one.observed & ((one.values < 0) | (one.values != np.round(one.values)))
        if wrong.any():
            place = int(np.argmax(wrong))
            raise ValueError(
                f"series {one.name!r} holds {one.values[place]:g} at {shown_time(one.times[place])}, but the "
                f"distribution negative-binomial is one of counts: whole numbers from 0 on. For other values "
                f"choose normal or student-t, or leave the distribution out"
            )


def _scale(output: Any, xp: Any = jnp) -> Any:
    return xp.exp(xp.clip(output, -_LARGEST_LOG, _LARGEST_LOG))


def _normal_loss(outputs: Array, targets: Array, anchors: Array, scales: Array) -> Array:
    return -stats.norm.logpdf(targets, outputs[..., 0], _scale(outputs[..., 1]))


def _normal_quantiles(
    outputs: np.ndarray, levels: Sequence[float], anchors: np.ndarray, scales: np.ndarray
) -> np.ndarray:
    from scipy.stats import norm  # slow to import; JAX itself needs SciPy

    return outputs[..., :1] + _scale(outputs[..., 1:2], np) * norm.ppf(levels)


def _degrees(output: Any, xp: Any = jnp) -> Any:
    return 2.0 + xp.logaddexp(output, 0.0)  # with a finite variance


def _student_loss(outputs: Array, targets: Array, anchors: Array, scales: Array) -> Array:
    return -stats.t.logpdf(targets, _degrees(outputs[..., 2]), outputs[..., 0], _scale(outputs[..., 1]))


def _student_quantiles(
    outputs: np.ndarray, levels: Sequence[float], anchors: np.ndarray, scales: np.ndarray
) -> np.ndarray:
    from scipy.stats import t

    places = t.ppf(np.asarray(levels), _degrees(outputs[..., 2:3], np))
    return outputs[..., :1] + _scale(outputs[..., 1:2], np) * places


def _mean_and_size(outputs: Any, anchors: Any, scales: Any, xp: Any = jnp) -> tuple[Any, Any]:
    """The mean, and the size r = (mean / sigma)^2, so that the variance is mean + mean^2 / r = mean + sigma^2."""
    place = anchors / scales + outputs[..., 0]
    # A smooth max(place, 0).
    mean = scales * xp.logaddexp(_SHARPNESS * place, 0.0) / _SHARPNESS + _LEAST_MEAN
    return mean, xp.clip((mean / (scales * _scale(outputs[..., 1], xp))) ** 2, 1 / _LARGEST_SIZE, _LARGEST_SIZE)


def _binomial_loss(outputs: Array, targets: Array, anchors: Array, scales: Array) -> Array:
    mean, size = _mean_and_size(outputs, anchors, scales)
    count = jnp.maximum(anchors + scales * targets, 0.0)
    return -_log_probability(count, mean, size)


def _log_probability(count: Array, mean: Array, size: Array) -> Array:
    """The log of the negative binomial probability, exact also in float32 at large counts.

    There, gamma functions of nearly equal numbers would be subtracted from each other. Source: Loader (2000), Fast
    and accurate computation of binomial probabilities.
    """
    some = jnp.maximum(count, 1.0)  # 0 is apart
    total, together = size + some, size + mean
    apart = some - mean
    of_size = total * size / together * _deviance(together / total, -apart / total)
    of_count = total * mean / together * _deviance(some / mean * (together / total), size / total * (apart / mean))
    errors = _stirling_error(total) - _stirling_error(size) - _stirling_error(some)
    roots = 0.5 * (jnp.log(size / total) - jnp.log(2 * jnp.pi * some))
    return jnp.where(count < 0.5, -size * jnp.log1p(mean / size), errors - of_size - of_count + roots)


def _deviance(ratio: Array, difference: Array) -> Array:
    """``ratio * log(ratio) - difference`` with ``difference = ratio - 1``."""
    near = jnp.abs(difference) < 0.5
    small = jnp.where(near, difference, 0.0)
    return jnp.where(
        near,
        (1 + small) * jnp.log1p(small) - small,
        special.xlogy(ratio, jnp.where(near, 1.0, ratio)) - difference,
    )


def _stirling_error(x: Array) -> Array:
    """``log(gamma(x + 1))`` without Stirling's formula, ``(x + 1/2) log(x) - x + log(2 pi) / 2``."""
    large = x > 10
    small, inverse = jnp.where(large, 1.0, x), 1 / jnp.where(large, x, 10.0)
    exact = special.gammaln(small + 1) - (small + 0.5) * jnp.log(small) + small - 0.5 * jnp.log(2 * jnp.pi)
    return jnp.where(large, inverse / 12 - inverse**3 / 360, exact)


def _binomial_quantiles(
    outputs: np.ndarray, levels: Sequence[float], anchors: np.ndarray, scales: np.ndarray
) -> np.ndarray:
    from scipy.stats import nbinom

    mean, size = (one[..., None] for one in _mean_and_size(outputs, anchors, scales, np))
    counts = nbinom.ppf(np.asarray(levels), size, size / (size + mean))
    return (counts - anchors[..., None]) / scales[..., None]


DISTRIBUTIONS = {
    "normal": Distribution(((LOCATION, 0.0), (LOG_SCALE, 0.0)), _normal_loss, _normal_quantiles),
    "student-t": Distribution(
        ((LOCATION, 0.0), (LOG_SCALE, -0.3), (FREE, 3.0)), _student_loss, _student_quantiles
    ),
    "negative-binomial": Distribution(
        ((LOCATION, 0.0), (LOG_SCALE, 0.0)), _binomial_loss, _binomial_quantiles, counts=True
    ),
}


def without_correction(outputs: Sequence[tuple[str, float]], middle: Array, unit: Array, spread: Array) -> Array:
    """What a network's corrections are added to, ``[batch, horizon, outputs]``.

    Args:
      outputs: as in :class:`Distribution`.
      middle: ``[batch, horizon]``, the simple forecast.
      unit: ``[batch, 1]``, the noise of the window.
      spread: ``[horizon, outputs]``, parameters that begin with the first values.
    """
    kinds = [kind for kind, _ in outputs]
    if all(kind == LOCATION for kind in kinds):
        return middle[..., None] + unit[..., None] * spread
    sizes = {
        LOCATION: lambda one: middle + unit * one,
        LOG_SCALE: lambda one: jnp.log(unit) + one,
        FREE: lambda one: jnp.broadcast_to(one, middle.shape),
    }
    return jnp.stack([sizes[kind](spread[:, number]) for number, kind in enumerate(kinds)], axis=-1)
