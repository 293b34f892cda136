"""Robust linear autoregressions of a series, of its logarithm, and of its differences.

The forecast of the next value is linear in earlier ones::

    z_t      = x_t, or log x_t
    base_t   = 0, z_{t-1}, z_{t-m}, or z_{t-1} + z_{t-m} - z_{t-m-1}       m: the season
    w_t      = z_t - base_t
    z_t      ~ base_t + intercept + sum over the lags l of coefficient_l * w_{t-l}

The coefficients minimise squared errors plus a ridge penalty. The strength of the penalty is the one with the
lowest mean absolute error when each row is left out once, which has a closed form (Golub, Heath, Wahba 1979,
doi:10.1080/00401706.1979.10489751). Then a few rounds of reweighting turn the squared errors into Huber's loss
(Huber 1964, doi:10.1214/aoms/1177703732), so that single outliers do not decide the coefficients.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

ROWS = 10_000
"""Coefficients are fitted to at most this many rows, the newest: more would cost time and change little."""

_PENALTIES = (1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 10.0)
_ROUNDS = 6
_OUTLIER = 6.0
"""A target is an outlier if it is so many times as far from the median as all but a tenth of them."""

_FEWEST_ROWS = 8


@dataclass(frozen=True)
class Autoregression:
    """A fitted autoregression.

    Attributes:
      lags: the earlier steps of ``w`` that are read, in steps back from the one to forecast.
      coefficients: one for each lag.
      intercept: what is added.
      log: whether the logarithm is forecast.
      differences: the lags of the differences that are taken one after the other: (), (1,), (season,), or both.

    >>> values = np.cumsum(np.ones(50))
    >>> model = Autoregression.fit(values, lags=(1,), differences=(1,))
    >>> model.forecast(values)[-1].round(3).item()  # the value after the last
    51.0
    """

    lags: tuple[int, ...]
    coefficients: tuple[float, ...]
    intercept: float
    log: bool = False
    differences: tuple[int, ...] = ()

    @classmethod
    def fit(
        cls, values: np.ndarray, *, lags: tuple[int, ...], differences: tuple[int, ...] = (), log: bool = False
    ) -> "Autoregression | None":
        """Fit the coefficients to ``values [time]``. None if there are too few steps for these lags."""
        z = _transformed(values, log)
        w = z - _base(z, differences)[:-1]
        rows, targets = lagged(w, lags)[:-1], w
        whole = np.flatnonzero(np.isfinite(rows).all(axis=1) & np.isfinite(targets))[-ROWS:]
        if len(whole) < _FEWEST_ROWS:
            return None
        coefficients, intercept = robust_ridge(rows[whole], targets[whole])
        return cls(tuple(lags), tuple(coefficients.tolist()), float(intercept), log, tuple(differences))

    def forecast(self, values: np.ndarray) -> np.ndarray:
        """One-step forecasts of every step of ``values [time]`` and of the step after it, ``[time + 1]``.

        NaN where a lag lies before the first value, or the logarithm of a value that it reads does not exist.
        """
        z = _transformed(values, self.log)
        base = _base(z, self.differences)
        forecasts = base + lagged(z - base[:-1], self.lags) @ np.array(self.coefficients) + self.intercept
        with np.errstate(over="ignore"):
            return np.exp(forecasts) if self.log else forecasts

    def to_json(self) -> dict[str, Any]:
        return vars(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Autoregression":
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
        return cls(**fields)


def _transformed(values: np.ndarray, log: bool) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return np.log(np.where(values > 0, values, np.nan)) if log else values


def _base(z: np.ndarray, differences: tuple[int, ...]) -> np.ndarray:
    """What the differences are taken from, at each step and at the one after the last: ``[time + 1]``."""
    base = np.zeros(len(z) + 1)
    if differences:
        base = lagged(z, (differences[0],))[:, 0]
    if len(differences) == 2:
        first, second = differences
        base = base + (lagged(z, (second,)) - lagged(z, (first + second,)))[:, 0]
    return base


def lagged(values: np.ndarray, lags: tuple[int, ...]) -> np.ndarray:
    """Row t holds the values that many steps before t, NaN before the first: ``[time + 1, lags]``.

    >>> lagged(np.array([1.0, 2.0]), (1, 2))
    array([[nan, nan],
           [ 1., nan],
           [ 2.,  1.]])
    """
    rows = np.full((len(values) + 1, len(lags)), np.nan)
    for place, lag in enumerate(lags):
        rows[lag:, place] = values[: max(len(values) + 1 - lag, 0)]
    return rows


def robust_ridge(rows: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients ``[columns]`` and intercept of a ridge regression of ``targets [rows]`` with Huber's loss."""
    # Before the weights are known, outliers are moved nearer, so that they do not decide the penalty.
    middle = np.median(targets)
    usual = _OUTLIER * np.quantile(np.abs(targets - middle), 0.9)
    near = np.clip(targets, middle - usual, middle + usual) if usual > 0 else targets
    mean, target_mean = rows.mean(axis=0), near.mean()
    centred, wanted = rows - mean, near - target_mean
    # The smallest penalty is far above the rounding errors of a product of the rows with themselves.
    squares, vectors = np.linalg.eigh(centred.T @ centred)
    if not len(squares) or not squares[-1] > 0:
        return np.zeros(rows.shape[1]), float(np.median(targets))
    turned = centred @ vectors
    projected = turned.T @ wanted
    penalties = squares[-1] * np.array(_PENALTIES)
    shares = 1 / (np.maximum(squares, 0)[:, None] + penalties)
    leverages = np.minimum(turned**2 @ shares + 1 / len(rows), 0.999)
    errors = np.abs((wanted[:, None] - turned @ (shares * projected[:, None])) / (1 - leverages)).mean(axis=0)
    best = int(np.argmin(errors))
    penalty = penalties[best]
    coefficients = vectors @ (shares[:, best] * projected)
    intercept = target_mean - mean @ coefficients
    for _ in range(_ROUNDS):
        residuals = np.abs(targets - rows @ coefficients - intercept)
        scale = 1.4826 * np.median(residuals)
        if not scale > 1e-12 * np.abs(targets).max():
            break
        weights = 1 / np.maximum(residuals / scale, 1.0)
        weights /= weights.mean()
        mean, target_mean = weights @ rows / len(rows), weights @ targets / len(rows)
        centred = rows - mean
        gram = centred.T @ (weights[:, None] * centred) + penalty * np.eye(rows.shape[1])
        coefficients = np.linalg.solve(gram, centred.T @ (weights * (targets - target_mean)))
        intercept = target_mean - mean @ coefficients
    return coefficients, float(intercept)
