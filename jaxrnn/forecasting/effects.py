"""What columns that are known in advance add to a series, estimated by regression and taken out of it.

With u_t the mean size of the values before t, z_t the columns, and m the season::

    effect_t                 = u_t * (z_t @ b_i)                                   b_i of series i
    (x_t - x_{t-m}) / u_t    = (z_t - z_{t-m} u_{t-m} / u_t) @ b_i + noise

The differences remove level and season, so a column that tells them has no effect here. The coefficients b of all
series together minimise Huber's loss; those of a series are drawn to them by a ridge penalty, so a series with few
rows has those of all, and so has a new one. Networks forecast what is left, and the effect of the steps ahead is
added. Regression with errors that another model forecasts: Hyndman, Athanasopoulos (2021), Forecasting: principles
and practice, chapter 10, https://otexts.com/fpp3/dynamic.html.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrnn.forecasting.one_series import OneSeries

_BLOCKS = 5
_ROUNDS = 4
_HUBER = 1.5
_APART = 0.5
_LEAST_APART = 0.05
"""A series' coefficients may differ from those of all by about half of them, or by 5 % of the values."""


@dataclass(frozen=True)
class Effects:
    """The coefficients of all series.

    Attributes:
      coefficients: ``[columns]``, in units of the mean size of a series' values.
      season: the distance of the values that are compared.
      error, error_without: the mean absolute error of the differences, in units of a series' noise, in blocks of
        time that the coefficients were not fitted to, and without coefficients. Without an improvement, the
        effects are not used.
    """

    coefficients: np.ndarray
    season: int
    error: float = float("nan")
    error_without: float = float("nan")

    @property
    def used(self) -> bool:
        return self.error < self.error_without

    @classmethod
    def fit(cls, panel: Sequence[OneSeries], columns: Sequence[np.ndarray], season: int) -> "Effects":
        """Fit the coefficients of all series to their values.

        Args:
          panel: the series.
          columns: of each, float64 ``[time or more, columns]``.
          season: steps per season.
        """
        size = columns[0].shape[1]
        rows = [_rows(one, z, season) for one, z in zip(panel, columns)]
        rows = [one for one in rows if len(one[1]) > 1]
        nothing = cls(np.zeros(size), season)
        if not size or not rows:
            return nothing
        wrong, wrong_without, count = 0.0, 0.0, 0
        blocks = [np.arange(len(y)) * _BLOCKS // len(y) for _, y in rows]
        for block in range(_BLOCKS):
            kept = [(x[b != block], y[b != block]) for (x, y), b in zip(rows, blocks)]
            kept_rows = [one for one in kept if len(one[1])]
            if not kept_rows:
                return nothing
            together = _together(kept_rows)
            for (x, y), (x_kept, y_kept), b in zip(rows, kept, blocks):
                out = b == block
                rest = y[out] - x[out] @ _of_series(x_kept, y_kept, together)
                unit = _noise(y)
                wrong += float(np.minimum(np.abs(rest) / unit, 10).sum())
                wrong_without += float(np.minimum(np.abs(y[out]) / unit, 10).sum())
                count += int(out.sum())
        return cls(_together(rows), season, wrong / max(count, 1), wrong_without / max(count, 1))

    def of(self, one: OneSeries, columns: np.ndarray, until: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The two factors of the effects on a series and on the steps after it.

        Args:
          one: the series.
          columns: ``[rows, columns]``, where the rows may go on after the last value.
          until: the first step whose value the coefficients of the series must not depend on. The sizes at later
            steps depend on the values up to these.

        Returns:
          The size u_t at each step and at the one after the last, ``[time + 1]``, and z_t @ b, ``[rows]``.
        """
        x, y = _rows(one, columns, self.season, until)
        return _unit(one, self.season, until), columns @ _of_series(x, y, self.coefficients)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "coefficients": self.coefficients.tolist()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Effects":
        return cls(**{**record, "coefficients": np.array(record["coefficients"])})


def _unit(one: OneSeries, season: int, until: int | None = None) -> np.ndarray:
    """The mean size of the values before each step, and before the step after the last, ``[time + 1]``.

    Those of the steps up to ``until`` depend on the values before it. Of nothing but zeros it is 0.
    """
    width = max(2 * season, 14)
    sizes = np.abs(np.where(one.observed, one.values, 0))
    count = len(sizes) if until is None else until
    median, mean = _usual_sizes(sizes, count)
    sizes = np.minimum(sizes, 10 * median[1:])  # an outlier is not the size of a series
    total = np.concatenate([[0.0], np.cumsum(sizes)])
    known = np.concatenate([[0], np.cumsum(one.observed)])
    stop = np.arange(len(sizes) + 1)
    start = np.maximum(stop - width, 0)
    stop = np.maximum(stop, min(4, count))  # the first steps have the mean of the first four
    unit = (total[stop] - total[start]) / np.maximum(known[stop] - known[start], 1)
    return np.where(unit > 0, unit, mean * 1e-3)


def _usual_sizes(sizes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Median and mean, without zeros, of the sizes before each step, ``[time + 1]``, but of at least ``count``."""
    first = sizes[:count][sizes[:count] > 0]
    some, mean = np.sort(first).tolist(), float(np.mean(first)) if len(first) else 0.0
    found = []
    for size in (0.0, *sizes[count:].tolist()):
        if size > 0:
            bisect.insort(some, size)
            mean += (size - mean) / len(some)
        middle = some[(len(some) - 1) // 2 : len(some) // 2 + 1]
        found.append((sum(middle) / len(middle) if some else 0.0, mean))
    medians, means = np.array([found[0]] * count + found).T
    return medians, means


def _rows(
    one: OneSeries, columns: np.ndarray, season: int, until: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the regression, ``[rows, columns]`` and ``[rows]``."""
    count = len(one.values) if until is None else until
    lag = season if season < count else 1
    z, x, observed = columns[:count], one.values[:count], one.observed[:count]
    unit = _unit(one, season, until)[:count]
    unit = np.where(unit > 0, unit, 1.0)  # zeros are 0 in any unit
    both = observed[lag:] & observed[:-lag]
    now, before = unit[lag:][both], unit[:-lag][both]
    rows = z[lag:][both] - z[:-lag][both] * (before / now)[:, None]
    return rows, (x[lag:] - x[:-lag])[both] / now


def _noise(y: np.ndarray) -> float:
    typical = float(np.median(np.abs(y))) if len(y) else 0.0
    return 1.5 * typical or float(np.mean(np.abs(y)) if len(y) else 0.0) or 1.0


def _together(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The coefficients of all series, ``[columns]``, by iteratively reweighted least squares."""
    x = np.concatenate([one / _noise(y) for one, y in rows])
    y = np.concatenate([y / _noise(y) for _, y in rows])
    weights, solution = np.ones(len(y)), np.zeros(x.shape[1])
    for _ in range(_ROUNDS):
        weighted = x * weights[:, None]
        solution = np.linalg.solve(weighted.T @ x + np.eye(x.shape[1]), weighted.T @ y)
        rest = np.abs(y - x @ solution)
        limit = _HUBER * 1.5 * np.median(rest)
        weights = np.minimum(1.0, limit / np.maximum(rest, 1e-12)) if limit > 0 else weights
    return solution


def _of_series(x: np.ndarray, y: np.ndarray, together: np.ndarray) -> np.ndarray:
    """The coefficients of one series, drawn to those of all."""
    if not len(y):
        return together
    noise = _noise(y - x @ together)
    weights = np.minimum(1.0, _HUBER * noise / np.maximum(np.abs(y - x @ together), 1e-12))
    weighted = x * (weights / noise**2)[:, None]
    penalty = np.diag(1 / (_APART * np.abs(together) + _LEAST_APART) ** 2)
    return np.linalg.solve(weighted.T @ x + penalty, weighted.T @ y + penalty @ together)
