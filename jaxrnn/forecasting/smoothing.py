"""Exponential smoothing: a level, a damped trend and a season, each corrected by a share of every error.

::

    forecast_t = level + damping * trend + season_{t-m}
    e_t        = x_t - forecast_t
    level      = level + damping * trend + level_rate * e_t
    trend      = damping * trend + level_rate * trend_rate * e_t
    season_t   = season_{t-m} + season_rate * (1 - level_rate) * e_t

Source: Hyndman, Koehler, Ord, Snyder (2008), Forecasting with exponential smoothing,
doi:10.1007/978-3-540-71918-2.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

STEPS = 3_000
"""The rates are chosen on at most this many steps, the newest."""

_LEVEL_RATES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
_TREND_RATES = (0.01, 0.05, 0.2)
_SEASON_RATES = (0.02, 0.1, 0.3, 0.6)
_DAMPING = 0.95


@dataclass(frozen=True)
class Smoothing:
    """Exponential smoothing with fitted rates.

    Attributes:
      level_rate, trend_rate, season_rate: the share of an error that corrects each part.
      trend: whether there is a trend.
      season: steps per season; 1 has none.

    >>> model = Smoothing.fit(np.array([3.0, 5.0] * 20), season=2)
    >>> model.forecast(np.array([3.0, 5.0] * 20))[-2:].round(2)
    array([5., 3.])
    """

    level_rate: float
    trend_rate: float = 0.0
    season_rate: float = 0.0
    trend: bool = False
    season: int = 1

    @classmethod
    def fit(cls, values: np.ndarray, *, trend: bool = False, season: int = 1) -> "Smoothing | None":
        """Choose the rates with the lowest mean absolute one-step error. None if there are too few steps."""
        values = values[-max(STEPS, 6 * season) :]
        if len(values) < 2 * season + 6:
            return None
        rates = itertools.product(
            _LEVEL_RATES, _TREND_RATES if trend else (0.0,), _SEASON_RATES if season > 1 else (0.0,)
        )
        tried = np.array(list(rates)).T
        forecasts = _run(values, *tried, trend=trend, season=season)[:-1]
        warm = min(len(values) // 3, 2 * season + 5)
        errors = np.abs(forecasts[warm:] - values[warm:, None]).mean(axis=0)
        level, slope, seasonal = tried[:, int(np.argmin(errors))].tolist()
        return cls(level, slope, seasonal, trend, season)

    def forecast(self, values: np.ndarray) -> np.ndarray:
        """One-step forecasts of every step of ``values [time]`` and of the step after it, ``[time + 1]``."""
        rates = (np.array([rate]) for rate in (self.level_rate, self.trend_rate, self.season_rate))
        return _run(np.asarray(values, np.float64), *rates, trend=self.trend, season=self.season)[:, 0]

    def to_json(self) -> dict[str, Any]:
        return vars(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Smoothing":
        return cls(**record)


def _run(
    values: np.ndarray, level_rate: np.ndarray, trend_rate: np.ndarray, season_rate: np.ndarray, *, trend, season
) -> np.ndarray:
    """One-step forecasts with each of several rates: ``[time + 1, rates]``."""
    count, damping = len(level_rate), _DAMPING if trend else 0.0
    level, slope, seasonal = _first_states(values, season, count)
    slope_rate, seasonal_rate = level_rate * trend_rate, season_rate * (1 - level_rate)
    forecasts = np.empty((len(values) + 1, count))
    for step, value in enumerate(values):
        ahead, at = level + slope, step % season
        forecasts[step] = ahead + seasonal[at]
        error = value - forecasts[step]
        level = ahead + level_rate * error
        slope = damping * (slope + slope_rate * error)  # damped here, for the next step
        seasonal[at] += seasonal_rate * error
    forecasts[-1] = level + slope + seasonal[len(values) % season]
    return forecasts


def _first_states(values: np.ndarray, season: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The level, trend and season to begin with: means over the first steps, or the first seasons."""
    slope = np.zeros(count)
    if season == 1 or len(values) < season:
        return np.full(count, values[:5].mean()), slope, np.zeros((season, count))
    seasons = min(len(values) // season, 3)
    first = values[: seasons * season].reshape(seasons, season)
    pattern = (first - first.mean(axis=1, keepdims=True)).mean(axis=0)
    return np.full(count, first[0].mean()), slope, np.repeat(pattern[:, None], count, axis=1)
