"""Paths through a forecast: values of all steps together, for what depends on more than one step, as their sum.

Quantiles say how sure each step is by itself. A sum over the horizon also depends on whether the errors of its
steps go together. Here each path is drawn by a Gaussian copula (Pinson, Madsen, Nielsen, Papaefthymiou, Klöckl
2009, doi:10.1002/we.284)::

    scores_h = the normal quantile of the level at which the value of step h lies in its forecast
    correlation = that of the scores of held-out origins
    path_h = the quantile of step h at the level of z_h        z ~ N(0, correlation)

so every step keeps its quantiles. Between the levels, quantiles are those of
:func:`jaxrnn.forecasting.quantile_columns.quantiles_at`.
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

_MOST = 4.0
"""Scores lie between minus and plus this."""

_USUAL = 0.9
"""The correlation of neighbouring steps where no origin was held out."""


def normal_scores(values: np.ndarray, quantiles: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Where the values lie in their forecasts, as quantiles of a normal distribution.

    Args:
      values: ``[...]``; NaN where one is not known, whose score is NaN.
      quantiles: ``[..., levels]``, sorted.

    >>> normal = NormalDist(10, 2)
    >>> levels = (0.1, 0.5, 0.9)
    >>> quantiles = np.array([normal.inv_cdf(level) for level in levels])
    >>> normal_scores(np.array(13.0), quantiles, levels).round(6)
    np.float64(1.5)
    """
    places = np.array([NormalDist().inv_cdf(level) for level in levels])
    widths = np.diff(quantiles, axis=-1)
    rest = values[..., None] - quantiles[..., :-1]
    # How far each gap between two quantiles is passed; the lines of the outermost go on.
    lowest, highest = np.zeros(len(places) - 1), np.ones(len(places) - 1)
    lowest[0], highest[-1] = -np.inf, np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        passed = np.where(widths > 0, rest / widths, np.where(rest > 0, highest, np.where(rest < 0, lowest, 0.5)))
    scores = places[0] + (np.clip(passed, lowest, highest) * np.diff(places)).sum(axis=-1)
    return np.where(np.isfinite(values), np.clip(scores, -_MOST, _MOST), np.nan)


def correlation_of(scores: np.ndarray, periods: float = np.inf) -> np.ndarray:
    """The correlation of the steps of a horizon, ``[horizon, horizon]``, from scores ``[origins, horizon]``.

    The fewer periods of time the origins are spread over, the more it is the mean of all pairs of steps that lie
    as far apart.
    """
    horizon = scores.shape[1]
    apart = np.abs(np.subtract.outer(np.arange(horizon), np.arange(horizon)))
    known = np.isfinite(scores)
    if known.all(axis=1).sum() < 2:
        return _USUAL**apart
    filled, count = np.where(known, scores, 0.0), known.astype(np.float64)
    products = filled.T @ filled / np.maximum(count.T @ count, 1)
    sizes = np.sqrt(np.maximum(np.diag(products), 1e-12))
    found = products / np.outer(sizes, sizes)
    by_distance = np.array([found[apart == distance].mean() for distance in range(horizon)])
    share = periods / (periods + horizon) if np.isfinite(periods) else 1.0
    mixed = share * found + (1 - share) * by_distance[apart]
    # The nearest matrix that is a correlation: without negative eigenvalues, and with ones on its diagonal.
    values, vectors = np.linalg.eigh((mixed + mixed.T) / 2)
    mixed = (vectors * np.maximum(values, 1e-6)) @ vectors.T
    sizes = np.sqrt(np.diag(mixed))
    return mixed / np.outer(sizes, sizes)


def sample_paths(
    quantiles: np.ndarray,
    correlation: np.ndarray,
    levels: Sequence[float],
    count: int,
    random: np.random.Generator,
) -> np.ndarray:
    """Paths ``[series, count, horizon]`` through quantiles ``[series, horizon, levels]``, sorted.

    >>> levels = (0.1, 0.5, 0.9)
    >>> quantiles = np.array([[NormalDist(step, 2).inv_cdf(level) for level in levels] for step in range(3)])
    >>> paths = sample_paths(quantiles[None], np.eye(3), levels, 40_000, np.random.default_rng(0))
    >>> paths.shape, paths.std(axis=1).round(1).tolist()
    ((1, 40000, 3), [[2.0, 2.0, 2.0]])
    """
    places = np.array([NormalDist().inv_cdf(level) for level in levels])
    series, horizon, _ = quantiles.shape
    scores = random.standard_normal((series, count, horizon)) @ np.linalg.cholesky(correlation).T
    left = np.clip(np.searchsorted(places, scores) - 1, 0, len(places) - 2)
    slopes = np.diff(quantiles, axis=-1) / np.diff(places)
    # value = quantile + slope * (score - place) of the gap that the score lies in
    starts = (quantiles[..., :-1] - slopes * places[:-1]).reshape(-1)
    rows = (np.arange(series)[:, None, None] * horizon + np.arange(horizon)) * (len(places) - 1)
    where = rows + left
    return starts[where] + slopes.reshape(-1)[where] * scores
