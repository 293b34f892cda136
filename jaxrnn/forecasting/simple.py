"""Simple forecasts of many steps, which a model is compared with: naive, seasonal naive, an autoregression."""

from collections.abc import Sequence

import numpy as np

from jaxrnn.forecasting.as_known import AsKnown
from jaxrnn.forecasting.autoregression import Autoregression

MOST_LAGS = 30


def simple_forecasts(parts: Sequence[AsKnown], horizon: int, season: int) -> dict[str, np.ndarray]:
    """The forecasts from the origins of each part of a panel, by name, each ``[origins of all parts, horizon]``.

    ``seasonal_naive`` repeats the last season, ``naive`` the last value, and ``ar`` is
    a linear autoregression with up to 30 lags, fitted to what lies before the first origin of the part, whose
    forecasts are read as values by the next steps.

    Args:
      parts: the series and their origins.
      horizon: steps from each origin.
      season: steps per season.
    """
    found: dict[str, list[np.ndarray]] = {"seasonal_naive": [], "naive": [], "ar": []}
    for one, places in parts:
        found["seasonal_naive"].append(seasonal_naive(one.values, places, horizon, season))
        found["naive"].append(seasonal_naive(one.values, places, horizon, 1))
        found["ar"].append(autoregression_from(one.values, places, horizon))
    return {name: np.concatenate(arrays) for name, arrays in found.items()}


def seasonal_naive(values: np.ndarray, places: np.ndarray, horizon: int, season: int) -> np.ndarray:
    """The last season again, or the last value before a whole season: forecasts ``[origins, horizon]``.

    Args:
      values: ``[time]``.
      places: int ``[origins]``, rising, the first step that is forecast from each origin.
      horizon, season: in steps.
    """
    season = season if season < places[0] else 1
    ahead = np.arange(horizon)
    return values[places[:, None] - season + ahead % season]


def autoregression_from(values: np.ndarray, places: np.ndarray, horizon: int) -> np.ndarray:
    """Forecasts ``[origins, horizon]`` of ``values[place]`` and the steps after it, from an autoregression.

    It is fitted to what lies before the first of the places. One that is too short has the last value.
    """
    before = values[: places[0]]
    last = np.repeat(values[places - 1][:, None], horizon, axis=1)
    lags = min(MOST_LAGS, len(before) // 3)
    model = Autoregression.fit(before, lags=tuple(range(1, lags + 1))) if lags else None
    if model is None:
        return last
    coefficients = np.array(model.coefficients)
    window = np.stack([values[place - lags : place][::-1] for place in places])  # the newest first
    steps = []
    low, high = before.min() - np.ptp(before), before.max() + np.ptp(before)
    for _ in range(horizon):
        # An autoregression of few rows can explode.
        after = np.clip(model.intercept + window @ coefficients, low, high)
        steps.append(after)
        window = np.concatenate([after[:, None], window[:, :-1]], axis=1)
    return np.stack(steps, axis=1)
