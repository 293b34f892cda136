"""Windows over many series, and what a network reads and forecasts in each, in the window's own unit.

At the origin t of a window, with the season m::

    center_t = mean of the last season                       scale_t = mean of |x_s - x_{s-m}| over the window
    base_th  = x_{t+h-m}, the last known value of that place in the season          (seasonal naive)
    target_th = (x_{t+h} - base_th) / scale_t

All series lie one after the other in one array, each behind as many empty steps as a window needs, so a batch of
windows is one gather, and a series that is shorter than a window is masked.
"""

from dataclasses import dataclass

import numpy as np

from jaxrnn.forecasting.panel import OneSeries

FEATURES = 5
"""Value, difference to a season ago, whether it is observed, center, scale."""

MANY_SERIES = 30
"""Of so many series, some show how good the forecasts of all are."""

_LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Windows:
    """Arrays of all series, one after the other.

    Attributes:
      features: float32 ``[steps, 5]``.
      base: float64 ``[steps, horizon]``, the seasonal naive forecasts at each origin.
      scale: float64 ``[steps]``.
      targets: float32 ``[steps, horizon]``; NaN where the value is not known.
      ends: int ``[series]``, the place of the last value of each series.
      lengths: int ``[series]``.
      offset: float64 ``[steps, horizon]``, what is known to be added to the values after each origin, which base
        and targets leave out; None for nothing.
    """

    features: np.ndarray
    base: np.ndarray
    scale: np.ndarray
    targets: np.ndarray
    ends: np.ndarray
    lengths: np.ndarray
    offset: np.ndarray | None = None

    @classmethod
    def of(cls, panel: list[OneSeries], *, window: int, horizon: int, season: int) -> "Windows":
        """Put the series of a panel one after the other."""
        parts = [_prepared(one, window, horizon, season) for one in panel]
        lengths = np.array([len(one.values) for one in panel])
        joined = [np.concatenate(arrays) for arrays in zip(*parts)]
        ends = np.cumsum(lengths + window - 1) - 1
        return cls(*joined, ends=ends, lengths=lengths)

    def actual(self, origins: np.ndarray) -> np.ndarray:
        """The values after these origins in the units of the series, ``[*origins, horizon]``; NaN if not known."""
        values = self.base[origins] + self.scale[origins][..., None] * self.targets[origins].astype(np.float64)
        return values if self.offset is None else values + self.offset[origins]

    def held_out(self, season: int) -> np.ndarray:
        """How many last steps of each series are held out of training: none of a short one, int ``[series]``.

        Of many series, the ends of a third are enough, and the others are learned from up to their ends.
        """
        horizon, lengths = self.base.shape[1], self.lengths
        many = len(lengths) >= MANY_SERIES
        wanted = np.maximum(horizon, np.minimum(lengths // 5, horizon if many else 3 * horizon))
        chosen = np.arange(len(lengths)) % 3 == 0 if many else np.ones(len(lengths), bool)
        return np.where(chosen & (lengths >= max(3 * horizon, horizon + season + 4)), wanted, 0)

    def split(self, held: np.ndarray, season: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        """The first steps of the windows to train on, and the origins of the held-out forecasts."""
        horizon = self.base.shape[1]
        starts, origins = [], [np.zeros(0, np.int64)]
        for end, length, count in zip(self.ends, self.lengths, held):
            # The first windows have no season behind them, if the series is longer than that.
            first = end - length + 1 + (season if length > 2 * season + 2 else 0)
            starts.append(np.arange(first, end - count))
            if count:
                origins.append(np.arange(end - count, end - horizon + 1))
        return np.concatenate(starts) - window + 1, np.concatenate(origins)

    def without(self, held: np.ndarray) -> np.ndarray:
        """The targets, with NaN for every value that is held out."""
        targets = self.targets.copy()
        for end, length, count in zip(self.ends, self.lengths, held):
            for step in range(targets.shape[1]) if count else ():
                targets[max(end - count - step, end - length + 1) : end + 1, step] = np.nan
        return targets


def _prepared(one: OneSeries, window: int, horizon: int, season: int):
    x, count = one.values, len(one.values)
    lag = season if season < count else 1
    before = np.concatenate([np.full(lag, np.nan), x])[:count]
    difference = x - before
    center = _rolling(x, lag if lag > 1 else min(4, window))
    scale = _rolling(np.abs(difference), window)
    scale = np.maximum(np.where(np.isnan(scale), 0, scale), _LEAST_SHARE * _rolling(np.abs(x), window))
    scale = np.where(scale > 0, scale, 1.0)
    ahead = np.arange(1, horizon + 1)
    places = np.arange(count)[:, None] + ahead - lag * -(-ahead // lag)
    base = np.where(places >= 0, x[np.maximum(places, 0)], x[:, None])
    future = np.concatenate([np.where(one.observed, x, np.nan), np.full(horizon, np.nan)])
    targets = (future[np.arange(count)[:, None] + ahead] - base) / scale[:, None]
    features = np.stack([x, np.where(np.isnan(difference), 0, difference), one.observed, center, scale], axis=1)
    empty = window - 1
    return (
        np.pad(features, ((empty, 0), (0, 0))).astype(np.float32),
        np.pad(base, ((empty, 0), (0, 0))),
        np.pad(scale, (empty, 0), constant_values=1.0),
        np.pad(targets, ((empty, 0), (0, 0)), constant_values=np.nan).astype(np.float32),
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
