"""Prepares a series for a network that corrects an average of simple one-step forecasts.

The network reads, at each step, what the average got wrong and what it forecasts next, and forecasts the error
of the next step. Everything is in units of the recent changes, or of the recent errors, of the series. So a
network that was trained where the series was small or calm also fits where it is large or restless::

    e_t        = x_t - average_t
    target_t   = (x_{t+1} - average_{t+1}) / scale_t
    scale_t    = running mean of |e| up to and including t
    features_t = e_t, the last change, the forecast change, the distance to the mean of the last steps, and with a
                 season the distance to the value of a season before the next step, and the place within the season
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrnn.data import Prepared
from jaxrnn.forecasting.combination import Combination

LARGEST = 1e30
"""Larger values are refused: they are too close to the largest float32, 3e38, to compute errors of them."""

_DECAY = 0.97
_LOWEST_SHARE = 0.2
_LARGEST_FEATURE = 8.0
_LARGEST_TARGET = 1e4
_LEVEL_STEPS = 12


@dataclass(frozen=True)
class Correction:
    """The averages of simple forecasts that a network corrects, and the numbers that scale its inputs.

    Attributes:
      season: steps per season, or None.
      early: the average fitted to the steps that the network is trained on, which it learns to correct.
      whole: the average fitted to the whole training part; it forecasts what comes after.
      error_scale, change_scale: the mean absolute error of ``early`` and the mean absolute change there.
      further_mean, further_std: mean and standard deviation of each further column.

    >>> values = np.sin(np.arange(100.0))[:, None]
    >>> correction = Correction.fit(values[:70], train=60)
    >>> prepared = correction.apply(values, test=70)
    >>> prepared.features.shape, prepared.baseline.shape, prepared.scale.shape
    ((100, 4), (100,), (100,))
    """

    season: int | None
    early: Combination
    whole: Combination
    error_scale: float
    change_scale: float
    further_mean: tuple[float, ...] = ()
    further_std: tuple[float, ...] = ()

    level_width = None
    """There is no moving average under the network, as :class:`jaxrnn.data.Preparation` may have."""

    @classmethod
    def fit(
        cls, values: np.ndarray, *, train: int, season: int | None = None, observed: np.ndarray | None = None
    ) -> "Correction":
        """Fit both averages and the scales to the training part.

        Args:
          values: the training part, ``[time, dims]``; the first column is the one to forecast.
          train: the network is trained on the values before this step.
          season: steps per season, or None.
          observed: bool ``[time]``, False where a value was missing and has been filled in.

        Raises:
          ValueError: the values are too large, there are too few, or the season is longer than the part before
            ``train``.
        """
        if not np.abs(values).max(initial=0) < LARGEST:
            raise ValueError(
                f"the absolute values must be below {LARGEST:.0e}, not {np.abs(values).max()}: rescale them"
            )
        x, further = values[:, 0], values[:train, 1:]
        if season is not None and season >= train:
            raise ValueError(
                f"{season=} (--season) must be shorter than the part that is trained on, which has {train} steps"
            )
        known = None if observed is None else observed[:train]
        early = Combination.fit(x[:train], season=season, observed=known)
        whole = Combination.fit(x, season=season, observed=observed)
        errors = np.abs(x[:train] - early.forecast(x[:train])[:-1])[1:]
        std = further.std(axis=0)
        return cls(
            season,
            early,
            whole,
            _positive(float(errors.mean())),
            _positive(float(np.abs(np.diff(x[:train])).mean())),
            tuple(map(float, further.mean(axis=0))),
            tuple(float(s) if s > 0 else 1.0 for s in std),
        )

    @property
    def first(self) -> int:
        """The first step whose features are like those of later steps."""
        return max(1, self.early.lookback)

    def apply(self, values: np.ndarray, test: int) -> Prepared:
        """Features, targets, baseline and scale of ``values [time, dims]``.

        Args:
          values: a series, which may extend past the training part.
          test: the values from this step on are forecast by ``whole``, the earlier ones by ``early``.

        Raises:
          ValueError: the number of columns differs from the fitted one.
        """
        x, further = values[:, 0], values[:, 1:]
        if further.shape[1] != len(self.further_mean):
            raise ValueError(
                f"the series has {further.shape[1]} further columns, but {len(self.further_mean)} were fitted"
            )
        early = self.early.forecast(x)
        errors = x - early[:-1]
        scale = _running(np.abs(errors), self.error_scale)
        changes = np.diff(x, prepend=x[0])
        unit = _running(np.abs(changes), self.change_scale)
        columns = [
            errors / scale,
            changes / unit,
            (early[1:] - x) / unit,
            (x - _running_mean(x, 1 / _LEVEL_STEPS, x[0])) / unit,
        ]
        if self.season is not None:
            before = np.concatenate([np.full(self.season, np.nan), x])[1 : len(x) + 1]
            columns.append(np.where(np.isnan(before), 0, before - x) / unit)
            angle = 2 * np.pi * (np.arange(len(x)) + 1) / self.season
            columns += [np.sin(angle), np.cos(angle)]
        columns += list(((further - np.array(self.further_mean)) / np.array(self.further_std)).T)
        features = np.clip(np.stack(columns, axis=1), -_LARGEST_FEATURE, _LARGEST_FEATURE)
        targets = np.zeros((len(x), 1))
        targets[:-1, 0] = np.clip(errors[1:] / scale[:-1], -_LARGEST_TARGET, _LARGEST_TARGET)
        baseline = early[1:].copy()
        baseline[test - 1 :] = self.whole.forecast(x)[test:]
        return Prepared(features.astype(np.float32), targets.astype(np.float32), baseline, scale, self.first)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "early": self.early.to_json(), "whole": self.whole.to_json()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Correction":
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
        both = {name: Combination.from_json(record[name]) for name in ("early", "whole")}
        return cls(**{**fields, **both})


def _running(sizes: np.ndarray, usual: float) -> np.ndarray:
    """The running mean of ``sizes [time]``, which begins with the usual size and never falls far below it."""
    mean = _running_mean(sizes, 1 - _DECAY, usual)
    return np.maximum(mean, _LOWEST_SHARE * usual)


def _running_mean(values: np.ndarray, share: float, first: float) -> np.ndarray:
    """At every step, this ``share`` of the value and the rest of the mean before it, which begins as ``first``."""
    means = itertools.accumulate(values.tolist(), lambda mean, value: mean + share * (value - mean), initial=first)
    return np.array(list(means)[1:])


def _positive(scale: float) -> float:
    return scale if scale > 0 else 1.0
