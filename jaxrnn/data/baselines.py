"""Baselines: one-step forecasts without a network, which any model should be compared with."""

import numpy as np


def naive_forecast(values: np.ndarray, start: int) -> np.ndarray:
    """Forecast each of ``values[start:]`` by the value before it.

    Raises:
      ValueError: ``start`` is not between 1 and ``len(values) - 1``.

    >>> naive_forecast(np.array([1.0, 2.0, 4.0]), 1)
    array([1., 2.])
    """
    _check_start(values, start)
    return np.asarray(values)[start - 1 : -1]


def moving_average_forecast(values: np.ndarray, start: int, width: int) -> np.ndarray:
    """Forecast each of ``values[start:]`` by the mean of the ``width`` values before it, or of all if fewer exist.

    Raises:
      ValueError: ``start`` is not between 1 and ``len(values) - 1``, or ``width`` is below 1.

    >>> moving_average_forecast(np.array([1.0, 2.0, 3.0, 4.0]), 2, 2)
    array([1.5, 2.5])
    """
    _check_start(values, start)
    if width < 1:
        raise ValueError(f"{width=} must be at least 1")
    values = np.asarray(values, np.float64)
    fewer = [values[:stop].mean() for stop in range(start, min(width, len(values)))]
    if width >= len(values):
        return np.array(fewer)
    windows = np.lib.stride_tricks.sliding_window_view(values, width)[max(start - width, 0) : -1]
    return np.concatenate([fewer, windows.mean(axis=1)])


def autoregressive_forecast(values: np.ndarray, start: int, order: int) -> np.ndarray:
    """Forecast each of ``values[start:]`` by a linear function of the ``order`` values before it and a constant.

    The coefficients are fitted to ``values[:start]`` by least squares.

    Raises:
      ValueError: ``start`` is below ``2 * order + 1``, so there are fewer equations than coefficients.

    >>> autoregressive_forecast(np.array([1.0, 2.0, 4.0, 8.0, 16.0]), 3, 1).round(6)
    array([ 8., 16.])
    """
    values = np.asarray(values, np.float64)
    if start < 2 * order + 1:
        raise ValueError(f"{order=} needs at least {2 * order + 1} steps before {start=}")
    lags = np.lib.stride_tricks.sliding_window_view(values, order)[:-1]
    design = np.concatenate([lags, np.ones((len(lags), 1))], axis=1)
    targets = values[order:]
    training = start - order
    coefficients, *_ = np.linalg.lstsq(design[:training], targets[:training], rcond=None)
    return design[training:] @ coefficients


def _check_start(values: np.ndarray, start: int) -> None:
    if not 1 <= start < len(values):
        raise ValueError(f"{start=} must be between 1 and {len(values) - 1}, for {len(values)} values")
