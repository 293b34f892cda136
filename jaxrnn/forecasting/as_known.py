"""Series as they were known at earlier times, for backtests.

Whether a value is absurdly far from all others depends on the others. The first values of a new level are far from
what came before them, and later ones show that they are none. So for each origin of a backtest, far values are
looked for among those that were known there. An origin with at most a season of values is forecast as a series of
that length is, which has no season yet.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxrnn.data import filled
from jaxrnn.forecasting.far_values import LARGEST, can_be_far, far_values
from jaxrnn.forecasting.one_series import OneSeries


class AsKnown(NamedTuple):
    """A series, and the origins at which its values so far were known as they are in it.

    Attributes:
      series: the series. It may end before that of the panel.
      places: int ``[origins]``, rising, the first step that is forecast from each origin.
    """

    series: OneSeries
    places: np.ndarray


def shortened(one: OneSeries, count: int) -> OneSeries:
    """The first ``count`` values of a series; what is known in advance stays known.

    Far values are looked for among these values alone. Missing values at the end become the last known one: they
    lay on a line to a value that came later.
    """
    values = _as_given(one)[:count]
    far = np.flatnonzero(_left_out(values))
    kept = values.copy()
    kept[far] = np.nan
    observed = np.isfinite(kept)
    return replace(
        one,
        values=filled(kept) if observed.any() else one.values[:count],
        observed=observed,
        times=one.times[:count],
        past={name: past[:count] for name, past in one.past.items()},
        repairs=one.repairs._replace(far=tuple((int(place), float(values[place])) for place in far)),
    )


def as_known(one: OneSeries, places: Sequence[int] | np.ndarray, season: int) -> list[AsKnown]:
    """A series as it was known at each of several origins.

    Args:
      one: the series.
      places: the first step that is forecast from each origin, rising.
      season: steps per season.

    Returns:
      The origins in their order. Those at which the same earlier values are left out share one series, so there is
      a single one unless some values are, or have been, far. Each with at most a season of values has its own.
    """
    places = np.asarray(places)
    early = int((places <= season).sum())
    parts = [
        AsKnown(shortened(one, int(place)), places[number, None]) for number, place in enumerate(places[:early])
    ]
    places, values = places[early:], _as_given(one)
    if not len(places):
        return parts
    if not can_be_far(values, int(places[0])):
        return [*parts, AsKnown(one, places)]
    far = [_left_out(values[:place]) for place in places]
    changes = [
        number for number in range(1, len(places)) if (far[number][: places[number - 1]] != far[number - 1]).any()
    ]
    groups: Iterable[np.ndarray] = np.split(places, changes)
    return parts + [AsKnown(shortened(one, int(group[-1])), group) for group in groups]


def _as_given(one: OneSeries) -> np.ndarray:
    """The values as they were given, also those that were left out; NaN where one is missing."""
    values = np.where(one.observed, one.values, np.nan)
    for place, value in one.repairs.far:
        values[place] = value
    return values


def _left_out(values: np.ndarray) -> np.ndarray:
    # A value that float32 cannot hold may not have enough others before it to be far.
    return far_values(values) | (np.abs(np.nan_to_num(values)) > LARGEST)
