"""Learns everything that a forecaster forecasts with, from the series that it is trained on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrnn.forecasting.calibration import Calibration
from jaxrnn.forecasting.ensemble import Ensemble
from jaxrnn.forecasting.known import Known
from jaxrnn.forecasting.one_series import OneSeries
from jaxrnn.forecasting.quantile_columns import LEVELS
from jaxrnn.forecasting.season import SeasonChoice
from jaxrnn.forecasting.settings import Settings
from jaxrnn.forecasting.settle import settle
from jaxrnn.forecasting.train import Training
from jaxrnn.forecasting.watch import Watch
from jaxrnn.forecasting.windows import Windows


class Learned(NamedTuple):
    """What was learned.

    Attributes:
      settings: the arguments, with everything that they left open.
      season_choice: how the season was found; None if it was given.
      known: the covariates and their effects.
      networks: the trained networks.
      calibration: shares and intervals, from what each network left out.
      stopped: the signal that ended the training, or None.
    """

    settings: Settings
    season_choice: SeasonChoice | None
    known: Known
    networks: Ensemble
    calibration: Calibration
    stopped: str | None


def learn(given: Settings, panel: Sequence[OneSeries], watch: Watch) -> Learned:
    """Train the networks on a panel, and judge each on the values that it has not learned from.

    Raises:
      ValueError: no series is longer than one step, or values must not be negative, but one is.
    """
    settings, season_choice, known = settle(given, panel)
    networks = Ensemble(settings, known)
    windows = windows_for(networks, known, panel)
    if windows.offset is not None:
        until = np.maximum(windows.lengths - settings.horizon, 1)
        windows = windows_for(networks, known, panel, until=until)
    starts = windows.starts(networks.season, networks.window)
    if not len(starts):
        raise ValueError("no series is long enough to learn from: the longest has one step, but two are needed")
    training = Training(
        settings, networks.make, windows, starts, networks.window, networks.season, watch.of(settings, panel)
    )
    judged_parts = []
    for number in range(settings.seeds):
        held = windows.held_out(networks.season, number, settings.seeds)
        networks.params.append(training.train(number, windows.without(held)))
        origins = windows.judged(held)
        judged_parts.append((origins, *networks.quantiles(windows, origins, networks.params[-1:])))
        if training.stopped:
            break
    origins, quantiles, simple = (np.concatenate(parts) for parts in zip(*judged_parts))
    calibration = Calibration.of(
        quantiles,
        simple,
        windows.targets[origins].astype(np.float64),
        LEVELS,
        units=windows.scale[origins] / windows.noise[origins],
        periods=windows.periods(len(origins)),
    )
    return Learned(settings, season_choice, known, networks, calibration, training.stopped)


def windows_for(
    networks: Ensemble, known: Known, panel: Sequence[OneSeries], until: Sequence[int] | np.ndarray | None = None
) -> Windows:
    """The windows of a panel that these networks read.

    ``until`` is, for each series, the first step whose value the effects of its columns must not depend on.
    """
    return known.windows(
        panel, window=networks.window, horizon=networks.horizon, season=networks.season, until=until
    )
