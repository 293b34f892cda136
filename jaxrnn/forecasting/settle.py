"""What a forecaster finds in the series that it is trained on, where its arguments leave it open."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxrnn.forecasting.known import Known
from jaxrnn.forecasting.one_series import OneSeries, shown_time
from jaxrnn.forecasting.season import SeasonChoice, choose_season
from jaxrnn.forecasting.settings import Settings


class Settled(NamedTuple):
    """The settings with everything that was open, how the season was found if it was, and the covariates."""

    settings: Settings
    season: SeasonChoice | None
    known: Known


def settle(settings: Settings, panel: Sequence[OneSeries]) -> Settled:
    """Find season, window, and whether values can be negative, from the series to train on.

    Raises:
      ValueError: values must not be negative, but one is.
    """
    choice = choose_season(panel) if settings.season is None else None
    season = settings.season or (choice.season if choice else 1)
    known = Known.fit(panel, settings.columns, calendar=settings.calendar, season=season)
    window = settings.window or min(max(3 * season, settings.horizon, 12), max(200, season + 1))
    window = max(window, season)  # the seasons of the smoothings are those of the last season
    if known.covariates.past_size:
        window = max(window, settings.horizon)  # the steps of a window also hold what is known of those ahead
    negative = next((one for one in panel if (one.values < 0).any()), None)
    if settings.non_negative and negative is not None:
        place = int(np.argmax(negative.values < 0))
        raise ValueError(
            f"series {negative.name!r} holds {negative.values[place]:g} at {shown_time(negative.times[place])}, "
            f"but non_negative says that no value is negative"
        )
    non_negative = negative is None if settings.non_negative is None else settings.non_negative
    return Settled(replace(settings, season=season, window=window, non_negative=non_negative), choice, known)
