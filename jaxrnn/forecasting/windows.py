"""Windows over many series, and what a network reads and forecasts in each, in the window's own unit.

At the origin t of a window, with the season m::

    center_t  = mean of the last season                  noise_t = mean of |x_s - x_{s-m}| over the window
    scale_t   = a fifth of the mean of |x| over the last two seasons, but from noise_t / 4 to 5 noise_t
    target_th = (x_{t+h} - x_t) / scale_t

Where a window holds zeros only, it has the noise before them. Where all values so far are zeros, nothing tells
their unit: forecasts have that of the training, and nothing is learned or judged there.

The scale is that of the level, because series of one kind grow and vary in proportion to their size; but what
varies little beside its level, as a temperature in Kelvin, is measured by how much it varies.

All series lie one after the other in one array, each behind as many empty steps as a window needs, so a batch of
windows is one gather, and a series that is shorter than a window is masked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxrnn.forecasting.one_series import OneSeries
from jaxrnn.forecasting.panel_smoothing import COUNT, smoothing_states

FEATURES = 6 + 3 * COUNT
"""Value, difference to a season ago, whether it is observed, center, scale, noise, states of the smoothings.

Values, center and states are differences to the first value of the series."""

MANY_SERIES = 30
"""Of so many series, some show how good the forecasts of all are."""

_PARTS = 3
_LEAST_SHARE = 1e-8
"""The noise is at least this share of the level, so that a constant series has a scale."""

_ENOUGH_CHANGES = 3
"""From so few differences the noise is partly that which is usual for a series of this size."""

_MOST_SCALES = 1000.0
"""Of the largest scale of a series to that of an origin that is judged."""

_LEVEL_SHARE = 0.2
_LEAST_NOISES, _MOST_NOISES = 0.25, 5.0


@dataclass(frozen=True)
class Windows:
    """Arrays of all series, one after the other.

    Attributes:
      features: float32 ``[steps, FEATURES]``.
      base: float64 ``[steps, horizon]``, the seasonal naive forecasts at each origin.
      last: float64 ``[steps]``, the value at each origin.
      scale, noise: float64 ``[steps]``.
      targets: float32 ``[steps, horizon]``; NaN where the value is not known, or that at the origin is not.
      ends: int ``[series]``, the place of the last value of each series.
      lengths: int ``[series]``.
      measured: bool ``[steps]``, whether the values so far tell the unit of the series.
      offset: float64 ``[steps, horizon]``, what is known to be added to the values after each origin, which base
        and targets leave out; None for nothing.
    """

    features: np.ndarray
    base: np.ndarray
    last: np.ndarray
    scale: np.ndarray
    noise: np.ndarray
    targets: np.ndarray
    measured: np.ndarray
    ends: np.ndarray
    lengths: np.ndarray
    offset: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        panel: list[OneSeries],
        *,
        window: int,
        horizon: int,
        season: int,
        usual_noise: float = 0.0,
        usual_size: float = 0.0,
    ) -> "Windows":
        """Put the series of a panel one after the other.

        ``usual_noise`` and ``usual_size`` are what the functions of these names found in the series that the
        model is trained on.
        """
        usual = usual_noise, usual_size
        states = smoothing_states([one.values - one.values[0] for one in panel], season)
        parts = [_prepared(one, state, window, horizon, season, usual) for one, state in zip(panel, states)]
        lengths = np.array([len(one.values) for one in panel])
        joined = [np.concatenate(arrays) for arrays in zip(*parts)]
        ends = np.cumsum(lengths + window - 1) - 1
        return cls(*joined, ends=ends, lengths=lengths)

    @property
    def anchors(self) -> np.ndarray:
        """What a target is the difference to, in the units of the series, float64 ``[steps, horizon]``."""
        anchors = np.broadcast_to(self.last[:, None], self.base.shape)
        return anchors if self.offset is None else anchors + self.offset

    def held_out(self, season: int, number: int, networks: int) -> np.ndarray:
        """Which steps of each series one of several networks does not learn to forecast, int ``[series, 2]``.

        They begin with the first number and end before the second. Of many series, each network leaves out the
        ends of a part of them. Of few, each leaves out another block of time, so that all networks together are
        judged on most of the series. Of a short series no step is left out.
        """
        horizon, lengths = self.base.shape[1], self.lengths
        enough = lengths >= max(3 * horizon, horizon + season + 4)
        if len(lengths) >= MANY_SERIES:
            enough &= np.arange(len(lengths)) % max(networks, _PARTS) == number
            return np.stack([np.where(enough, lengths - horizon, lengths), lengths], axis=1)
        first = np.maximum(lengths // 4, min(season, 200) + 4)
        block = (lengths - first) // max(networks, _PARTS)
        last = lengths - block * (networks - 1 - number)
        blocks = np.stack([last - block, last], axis=1)
        ends = np.stack([lengths - horizon, lengths], axis=1)
        held = np.where((block >= horizon + 2)[:, None], blocks, ends)
        return np.where(enough[:, None], held, lengths[:, None])

    def periods(self, origins: int) -> float:
        """How many periods as long as the horizon so many held-out origins are spread over."""
        many = len(self.lengths) >= MANY_SERIES
        return 1.0 if many else origins / len(self.lengths) / self.base.shape[1]

    def starts(self, season: int, window: int) -> np.ndarray:
        """The first steps of the windows to train on."""
        places = []
        for end, length in zip(self.ends, self.lengths):
            # The first windows have no season behind them, if the series is longer than that.
            first = season if length > 2 * season + 2 else season - 1 if length > season else 0
            places.append(np.arange(first, length - 1) + end - length + 1)
        return np.concatenate(places) - window + 1

    def judged(self, held: np.ndarray) -> np.ndarray:
        """The origins after which the whole horizon is held out.

        Without those whose scale is nearly nothing beside the largest, as where a pattern of zeros and ones
        has repeated itself exactly: in such a unit, one error is as large as all others together.
        """
        horizon, zeros = self.base.shape[1], self.ends - self.lengths + 1
        origins = []
        for zero, end, (begin, stop) in zip(zeros, self.ends, held):
            places = np.arange(begin - 1, stop - horizon) + zero
            largest = self.scale[zero : end + 1].max(where=self.measured[zero : end + 1], initial=0)
            fit = self.measured[places] & (self.scale[places] >= largest / _MOST_SCALES)
            origins.append(places[fit])
        return np.concatenate(origins)

    def without(self, held: np.ndarray) -> np.ndarray:
        """The targets, with NaN for every value that is held out."""
        targets = self.targets.copy()
        for end, length, (begin, stop) in zip(self.ends, self.lengths, held):
            zero = end - length + 1
            for step in range(targets.shape[1]) if stop > begin else ():
                targets[zero + max(begin - step - 1, 0) : zero + max(stop - step - 1, 0), step] = np.nan
        return targets


def usual_noise(panel: Sequence[OneSeries], season: int) -> float:
    """The median, over all series, of the mean absolute difference to a season ago divided by the mean size."""
    shares = []
    for one in panel:
        lag = season if season < len(one.values) else 1
        size = np.abs(one.values).mean()
        if len(one.values) >= lag + _ENOUGH_CHANGES and size > 0:
            shares.append(np.abs(one.values[lag:] - one.values[:-lag]).mean() / size)
    return float(np.median(shares)) if shares else 0.0


def usual_size(panel: Sequence[OneSeries]) -> float:
    """The median, over all series that have other values than 0, of their mean size; 0 if none has."""
    sizes = [float(np.abs(one.values).mean()) for one in panel]
    return float(np.median([size for size in sizes if size > 0] or [0.0]))


def _prepared(
    one: OneSeries, states: np.ndarray, window: int, horizon: int, season: int, usual: tuple[float, float]
):
    x, count = one.values, len(one.values)
    lag = season if season < count else 1
    before = np.concatenate([np.full(lag, np.nan), x])[:count]
    difference = x - before
    center = _rolling(x, lag if lag > 1 else min(4, window))
    size = _rolling(np.abs(x), 2 * max(lag, 4))
    noise = _rolling(np.abs(difference), window)
    changes = np.minimum(np.cumsum(np.isfinite(difference)), _ENOUGH_CHANGES) / _ENOUGH_CHANGES
    noise = changes * np.where(np.isnan(noise), 0, noise) + (1 - changes) * usual[0] * size
    noise = np.maximum(noise, _LEAST_SHARE * _rolling(np.abs(x), window))
    latest = np.maximum.accumulate(np.where(noise > 0, np.arange(count), -1))
    unknown = max(usual[0], _LEAST_SHARE) * usual[1] or 1.0
    noise = np.where(latest >= 0, noise[latest], unknown)
    scale = np.clip(_LEVEL_SHARE * size, _LEAST_NOISES * noise, _MOST_NOISES * noise)
    ahead = np.arange(1, horizon + 1)
    places = np.arange(count)[:, None] + ahead - lag * -(-ahead // lag)
    base = np.where(places >= 0, x[np.maximum(places, 0)], x[:, None])
    future = np.concatenate([np.where(one.observed, x, np.nan), np.full(horizon, np.nan)])
    targets = (future[np.arange(count)[:, None] + ahead] - x[:, None]) / scale[:, None]
    # A missing value lies on a line to a later one, so nothing is learned or judged from there.
    targets[~one.observed] = np.nan
    measured = (latest >= 0) | ~x.any()  # a series of nothing but zeros is 0 in any unit
    targets[~measured] = np.nan
    columns = x - x[0], np.where(np.isnan(difference), 0, difference), one.observed, center - x[0], scale, noise
    features = np.concatenate([np.stack(columns, axis=1), states], axis=1)
    empty = window - 1
    return (
        np.pad(features, ((empty, 0), (0, 0))).astype(np.float32),
        np.pad(base, ((empty, 0), (0, 0))),
        np.pad(x, (empty, 0)),
        np.pad(scale, (empty, 0), constant_values=1.0),
        np.pad(noise, (empty, 0), constant_values=1.0),
        np.pad(targets, ((empty, 0), (0, 0)), constant_values=np.nan).astype(np.float32),
        np.pad(measured, (empty, 0)),
    )


def _rolling(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of the last ``width`` values, or of as many as there are; NaN values do not count."""
    known = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - width, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (total[stop] - total[start]) / (counts[stop] - counts[start])
