"""The parts of a series, what is fitted to them before training, and how much of the network is used."""

import math
from dataclasses import dataclass

import numpy as np

from experiments.common.recipes import Config
from jaxrnn.data import Preparation, Prepared, Series
from jaxrnn.forecasting import Correction

FEWEST_STEPS = 8
"""Steps that training needs."""

LONGEST_WINDOW = 30
"""Steps that the network reads on a CSV file, if the file is long enough."""
SHARES = (0.25, 0.5, 0.75, 1.0)
LEAST_GAIN = 0.5
"""The network's corrections are used if they lower the error by this many standard errors of the difference."""
DOUBT = 2.0
"""The best share is multiplied by z^2 / (z^2 + DOUBT), where z is the gain in standard errors."""
FEW_STEPS = 20
"""It is also multiplied by n / (n + FEW_STEPS), where n is the number of monitored steps."""


@dataclass(frozen=True)
class Choice:
    """How much of the network's corrections is used, and why.

    The errors are mean absolute errors over the monitored part.

    Attributes:
      share: the factor on the corrections, from 0 to 1.
      average: the error of the average of simple forecasts alone.
      network: the error of the average with all of the corrections.
      chosen: the error with this share of them.
    """

    share: float
    average: float
    network: float
    chosen: float


@dataclass(frozen=True)
class Parts:
    """The parts of a series. A part is evaluated by the forecasts of the values in it.

    Attributes:
      train: training uses the values before this step.
      monitor: (begin, end); the values from begin to end - 1 decide which epoch is best.
      test: forecasts are evaluated on the values from this step on.
    """

    train: int
    monitor: tuple[int, int]
    test: int


def divide(series: Series, config: Config) -> Parts:
    """The recipe's parts. The best epoch is chosen on the end of the training part or, as in the lesson, on the
    test part itself."""
    if config.holdout:
        train = series.split - round(series.split * config.holdout)
        return Parts(train, (train, series.split), series.split)
    # The lesson cuts its validation windows from the test part alone, so the first window is only input.
    return Parts(series.split, (series.split + config.window, len(series.values)), series.split)


def prepare(
    config: Config, series: Series, parts: Parts, fitted: Preparation | Correction | None
) -> tuple[Preparation | Correction, Prepared]:
    """Fit the preparation to the training part, unless it is that of an earlier run, and apply it."""
    values = series.values
    if fitted is None and config.combination:
        if parts.train < FEWEST_STEPS:
            raise ValueError(
                f"{series.name} has {len(values)} steps, of which {parts.train} are for training; at least "
                f"{FEWEST_STEPS} are needed. Give more rows, or a later --split"
            )
        fitted = Correction.fit(
            values[: parts.test],
            train=parts.train,
            season=config.season,
            observed=None if series.observed is None else series.observed[: parts.test],
        )
    elif fitted is None:
        unfitted = Preparation(level_width=config.level_width, season=config.season, calendar=config.calendar)
        fitted = unfitted.fit(values[: parts.train])
    if isinstance(fitted, Correction):
        prepared = fitted.apply(values, parts.test)
        # On a short series some simple forecasts do not exist yet at the first steps, which are used nevertheless.
        return fitted, prepared._replace(first=min(prepared.first, parts.train // 2))
    return fitted, fitted.apply(values)


def choose(rests: np.ndarray, corrections: np.ndarray) -> Choice:
    """Decide which share of the network's corrections to use.

    The best share on few steps is partly chance, the more so as the same steps chose the best epoch. So the share
    shrinks with the number of standard errors by which it lowers the error, down to none.

    Args:
      rests: ``[steps]``, the values minus the average of simple forecasts. Without steps, none is used.
      corrections: ``[steps]``, what the network adds to the average.
    """
    if not len(rests):
        return Choice(0.0, math.nan, math.nan, math.nan)
    without = np.abs(rests)
    errors = {share: np.abs(rests - share * corrections) for share in SHARES}
    best = min(errors, key=lambda share: errors[share].mean())
    gains = without - errors[best]
    deviation = gains.std() / np.sqrt(len(gains))
    z = float(gains.mean() / deviation) if deviation > 0 else 0.0
    share = best * z**2 / (z**2 + DOUBT) * len(gains) / (len(gains) + FEW_STEPS) if z > LEAST_GAIN else 0.0
    chosen = np.abs(rests - share * corrections).mean()
    return Choice(share, float(without.mean()), float(errors[1.0].mean()), float(chosen))
