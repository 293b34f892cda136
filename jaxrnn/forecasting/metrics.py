"""Errors of forecasts with intervals, as forecasting competitions and GluonTS define them.

All take arrays ``[series, horizon]``. NaN in the actual values marks steps that do not count.
"""

import warnings
from typing import Any

import numpy as np

_ROUNDING = 1e-12
"""Differences of so small a share of the values are the rounding of equal values."""


def mase(actual: np.ndarray, forecast: np.ndarray, scale: np.ndarray) -> float:
    """Mean absolute scaled error: the mean over the series of their mean absolute error in units of ``scale``.

    The scale, ``[series]``, is :func:`seasonal_error` of the training part. Source: Hyndman, Koehler (2006),
    doi:10.1016/j.ijforecast.2006.03.001.

    >>> mase(np.array([[1.0, 3.0]]), np.array([[2.0, 2.0]]), np.array([2.0]))
    0.5
    """
    return float(np.nanmean(np.nanmean(np.abs(actual - forecast), axis=1) / scale))


def smape(actual: np.ndarray, forecast: np.ndarray) -> float:
    """Symmetric mean absolute percentage error in percent, from 0 to 200; a step where both are 0 has no error.

    >>> round(smape(np.array([[1.0]]), np.array([[3.0]])), 1)
    100.0
    """
    size = (np.abs(actual) + np.abs(forecast)) / 2
    errors = np.where(size > 0, np.abs(actual - forecast) / np.where(size > 0, size, 1), 0)
    return float(100 * np.nanmean(np.where(np.isnan(actual), np.nan, errors)))


def wql(actual: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> float:
    """Weighted quantile loss: twice the pinball losses' sum divided by that of ``|actual|``, mean over the levels.

    Args:
      quantiles: ``[series, horizon, levels]``.
      levels: ``[levels]``, between 0 and 1.

    Returns:
      0 or more; NaN where all actual values are 0, so that there is nothing to divide by.

    >>> wql(np.array([[10.0]]), np.array([[[9.0]]]), np.array([0.5]))
    0.1
    """
    rest = actual[..., None] - quantiles
    losses = np.maximum(levels * rest, (levels - 1) * rest)
    total = np.nansum(np.abs(actual))
    return float(2 * np.nansum(losses, axis=(0, 1)).mean() / total) if total > 0 else float("nan")


def coverage(actual: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """The share of the values that lie within their interval.

    >>> coverage(np.array([[1.0, 5.0]]), np.array([[0.0, 0.0]]), np.array([[2.0, 2.0]]))
    0.5
    """
    inside = (low <= actual) & (actual <= high)
    return float(inside[np.isfinite(actual)].mean())


def seasonal_error(values: np.ndarray, season: int) -> float:
    """The mean absolute difference of values that are one season apart; the unit of :func:`mase`.

    A series that is constant, or repeats itself up to rounding, has the unit of its values, or 1.

    >>> seasonal_error(np.array([1.0, 2.0, 2.0, 4.0]), 2)
    1.5
    """
    season = season if season < len(values) else 1
    error = float(np.nanmean(np.abs(values[season:] - values[:-season]))) if len(values) > season else 0.0
    size = float(np.nanmean(np.abs(values)))
    return error if error > _ROUNDING * size else size or 1.0


def measure(
    actual: np.ndarray, quantiles: np.ndarray, scale: np.ndarray, levels: tuple[float, ...]
) -> dict[str, float]:
    """MASE, sMAPE, WQL over the tenths, and the coverage of the 80 % and the 95 % interval.

    Args:
      actual: ``[series, horizon]``.
      quantiles: ``[series, horizon, levels]``.
      scale: ``[series]``, see :func:`mase`.
      levels: must contain the tenths, 0.025 and 0.975.
    """
    place = {level: levels.index(level) for level in levels}
    tenths = [place[level] for level in levels if 0.05 < level < 0.95]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a series may have no value at a step
        return {
            "mase": mase(actual, quantiles[..., place[0.5]], scale),
            "smape": smape(actual, quantiles[..., place[0.5]]),
            "wql": wql(actual, quantiles[..., tenths], np.array(levels)[tenths]),
            "coverage_80": coverage(actual, quantiles[..., place[0.1]], quantiles[..., place[0.9]]),
            "coverage_95": coverage(actual, quantiles[..., place[0.025]], quantiles[..., place[0.975]]),
        }


def compare(
    forecasts: dict[str, np.ndarray], actual: np.ndarray, scale: np.ndarray, levels: tuple[float, ...]
) -> dict[str, Any]:
    """:func:`measure` of several forecasts, by name, and ``by_step``, a list over the horizon for each."""
    result: dict[str, Any] = {name: measure(actual, q, scale, levels) for name, q in forecasts.items()}
    steps = range(actual.shape[1])
    result["by_step"] = {
        name: [measure(actual[:, [step]], q[:, [step]], scale, levels) for step in steps]
        for name, q in forecasts.items()
    }
    return result
