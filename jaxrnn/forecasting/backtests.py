"""Forecasts of the past from rolling origins, and their errors beside those of simple forecasts."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from jaxrnn.checks import positive_integer
from jaxrnn.forecasting import metrics
from jaxrnn.forecasting.as_known import as_known, shortened
from jaxrnn.forecasting.one_series import OneSeries
from jaxrnn.forecasting.quantile_columns import LEVELS, forecast_columns
from jaxrnn.forecasting.settings import Settings
from jaxrnn.forecasting.simple import simple_forecasts
from jaxrnn.forecasting.windows import Windows

_FEWEST_BEFORE = 3


class Model(Protocol):
    """What a backtest needs of a forecaster."""

    settings: Settings

    @property
    def settled_season(self) -> int: ...

    def windows(self, panel: list[OneSeries], until: Sequence[int] | np.ndarray | None = None) -> Windows: ...

    def quantiles(self, windows: Windows, origins: np.ndarray) -> np.ndarray: ...


def judged(panel: Sequence[OneSeries], origins: int, horizon: int) -> tuple[list[OneSeries], int]:
    """The series that are long enough to be judged, and how many last values lie after their first origin.

    Raises:
      ValueError: there is none.
    """
    origins = positive_integer("origins", origins)
    cut = horizon + origins - 1
    long = [one for one in panel if len(one.values) >= cut + _FEWEST_BEFORE]
    known = [one for one in long if one.observed[:-cut].any()]
    if long and not known:
        raise ValueError(
            f"{origins=} and {horizon=} need values before the last {cut} steps, but no series of that length has "
            f"one there (series {long[0].name!r} has {len(long[0].values)} steps): give fewer, or longer series"
        )
    if not long:
        longest = max((len(one.values) for one in panel), default=0)
        raise ValueError(
            f"{origins=} and {horizon=} need series of at least {cut + _FEWEST_BEFORE} steps, but the longest has "
            f"{longest}"
        )
    return known, cut


def backtest(model: Model, panel: list[OneSeries], cut: int, origins: int) -> dict[str, Any]:
    """Forecast from each of the last origins; see :meth:`jaxrnn.forecasting.Forecaster.backtest`.

    Args:
      model: a fitted model.
      panel, cut: the results of :func:`judged`.
      origins: origins of each series, one step apart.
    """
    horizon, season = model.settings.horizon, model.settled_season
    first = np.array([len(one.values) - cut for one in panel])[:, None] + np.arange(origins)
    by_series = [as_known(one, places, season) for one, places in zip(panel, first)]
    parts = [part for one in by_series for part in one]
    until = np.repeat(first[:, 0], [len(one) for one in by_series])
    windows = model.windows([part.series for part in parts], until=until)
    zeros = windows.ends - windows.lengths + 1  # where each series begins
    values = model.quantiles(windows, np.concatenate([zero - 1 + part.places for zero, part in zip(zeros, parts)]))
    known = [np.where(one.observed, one.values, np.nan) for one in panel]
    given = np.concatenate([one[steps[:, None] + np.arange(horizon)] for one, steps in zip(known, first)])
    # An origin without a value would be judged with a value that came later: the missing one lies on a line to it.
    at_origin = np.concatenate([part.series.observed[part.places - 1] for part in parts])
    actual = np.where(at_origin[:, None], given, np.nan)
    unit = [mase_unit(shortened(one, len(one.values) - cut), season) for one in panel]
    simple = simple_forecasts(parts, horizon, season)
    all_forecasts = {"model": values, **{name: repeated(forecast) for name, forecast in simple.items()}}
    measured = metrics.compare(all_forecasts, actual, np.repeat(unit, origins), LEVELS)
    last = first.ravel() - 1
    rows = {
        "unique_id": np.repeat([one.name for one in panel], origins * horizon),
        "origin": np.repeat(last, horizon),
        "step": np.tile(np.arange(1, horizon + 1), len(last)),
        "y": given.ravel(),
        "judged": np.isfinite(actual).ravel(),
        **forecast_columns(values, model.settings.quantiles, model.settings.possible),
    }
    errors = np.abs(actual - values[..., LEVELS.index(0.5)]).reshape(len(panel), -1)
    with np.errstate(invalid="ignore"):
        known = np.isfinite(errors)
        mase = np.where(known, errors, 0).sum(axis=1) / known.sum(axis=1) / unit
    return {
        "metrics": measured,
        "rows": rows,
        "by_series": dict(zip([one.name for one in panel], mase.tolist())),
        "model": model,
    }


def mase_unit(one: OneSeries, season: int) -> float:
    """The unit of MASE of a series: :func:`metrics.seasonal_error` of its known values.

    If no two of these are a season apart, what stands in for missing ones counts, too.
    """
    known = np.where(one.observed, one.values, np.nan)
    apart = season if season < len(known) else 1
    pairs = np.isfinite(known[apart:] - known[:-apart])
    return metrics.seasonal_error(known if pairs.any() else one.values, season)


def repeated(forecast: np.ndarray) -> np.ndarray:
    """Quantiles of a forecast without intervals: all are the same."""
    return np.repeat(forecast[..., None], len(LEVELS), axis=-1)
