"""What a forecast must be compared with: one-step forecasts that need no network."""

import numpy as np


def naive_forecast(values: np.ndarray, start: int) -> np.ndarray:
    """The last value: forecasts of ``values[start:]``.

    >>> naive_forecast(np.array([1.0, 2.0, 4.0]), 1)
    array([1., 2.])
    """
    _check_start(values, start)
    return np.asarray(values)[start - 1 : -1]


def moving_average_forecast(values: np.ndarray, start: int, width: int) -> np.ndarray:
    """The mean of the last ``width`` values (of all there are, at the very beginning).

    >>> moving_average_forecast(np.array([1.0, 2.0, 3.0, 4.0]), 2, 2)
    array([1.5, 2.5])
    """
    _check_start(values, start)
    if width < 1:
        raise ValueError(f"{width=} must be at least 1")
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    stop = np.arange(start, len(values))
    first = np.maximum(stop - width, 0)
    return (total[stop] - total[first]) / (stop - first)


def autoregressive_forecast(values: np.ndarray, start: int, order: int) -> np.ndarray:
    """A linear model of the last ``order`` values and a constant, fitted by least squares to ``values[:start]``.

    Raises:
      ValueError: fewer than ``order + 1`` equations, which would not determine the model.
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
        raise ValueError(f"{start=} must have a value before it and lie within the {len(values)} values")
