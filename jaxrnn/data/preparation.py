"""Turns a series into features and targets for a network. Everything is fitted on the training part only.

With raw values, the network reads the values and forecasts the next one. With differencing, a simple baseline
forecast is subtracted, and the network forecasts only the rest, in units of the series' noise::

    d_u        = x_u - seasonal_u                           seasonal_u: median of the same days of earlier years
    level_u    = mean of d_{u-width} .. d_{u-1}
    baseline_u = seasonal_u + level_u
    target_u   = (x_u - baseline_u) / scale

``seasonal_u`` and ``level_u`` are known at step u - 1, so a forecast never uses later values.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

LARGEST = 1e30
"""Larger values are refused: they are too close to the largest float32, 3e38, to compute errors of them."""


class Prepared(NamedTuple):
    """A series as arrays for training.

    Attributes:
      features: float32 ``[time, dims]``, the network's inputs at each step.
      targets: float32 ``[time, 1]``; ``targets[t]`` is to be forecast from the features up to and including t.
        Zero at the last step, whose successor is not known.
      baseline: float64 ``[time]``; the forecast of ``values[t + 1]`` is ``baseline[t] + scale * output``.
      scale: the unit of the targets, in units of the values; one number, or float64 ``[time]``.
      first: the first step with complete features and baseline.
    """

    features: np.ndarray
    targets: np.ndarray
    baseline: np.ndarray
    scale: Any
    first: int


@dataclass(frozen=True)
class Preparation:
    """The settings of the preparation, and the numbers that :meth:`fit` finds in the training part.

    Attributes:
      level_width: the number of steps over which the level is averaged; None uses raw values.
      season: steps per season; the median of the same time in earlier seasons is subtracted. None does not.
      season_width: the number of steps around that time that the median includes, an odd number.
      calendar: a period in steps; adds the sine and cosine of the time within it as features. None does not.
      scale: the unit of the targets; fitted.
      drift: how much the series rises per season; fitted.
      further_mean, further_std: mean and standard deviation of each further column; fitted.

    >>> values = np.arange(40.0)[:, None]
    >>> prepared = Preparation(level_width=4).fit(values[:30]).apply(values)
    >>> prepared.features.shape, prepared.baseline[10].item()
    ((40, 1), 8.5)
    """

    level_width: int | None = None
    season: int | None = None
    season_width: int = 7
    calendar: int | None = None
    scale: float = 1.0
    drift: float = 0.0
    further_mean: tuple[float, ...] = ()
    further_std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.level_width is not None and self.level_width < 1:
            raise ValueError(f"level_width must be at least 1, or None for raw values, not {self.level_width}")
        if self.season is not None and self.season <= self.season_width // 2:
            raise ValueError(f"season={self.season} must be more than half of season_width={self.season_width}")
        if self.season_width < 1 or self.season_width % 2 == 0:
            raise ValueError(f"season_width must be odd, not {self.season_width}")

    @property
    def first(self) -> int:
        """The first step with complete features and baseline."""
        if self.level_width is None:
            return 0
        season = 0 if self.season is None else self.season + self.season_width // 2
        return season + self.level_width - 1

    def fit(self, values: np.ndarray) -> "Preparation":
        """A copy with the scale, the drift, and the statistics of the further columns of the training part.

        Args:
          values: the training part, ``[time, dims]``; the first column is the one to forecast.

        Raises:
          ValueError: the values are too large, there are too few, or the first column is constant.
        """
        if not np.abs(values).max(initial=0) < LARGEST:
            raise ValueError(
                f"the absolute values must be below {LARGEST:.0e}, not {np.abs(values).max()}: rescale them"
            )
        further = values[:, 1:]
        std = further.std(axis=0)
        fitted = replace(
            self,
            further_mean=tuple(map(float, further.mean(axis=0))),
            further_std=tuple(float(s) if s > 0 else 1.0 for s in std),
        )
        if self.level_width is None:
            return fitted
        if len(values) < self.first + 3:
            raise ValueError(
                f"the training part has {len(values)} steps, but season={self.season} and "
                f"level_width={self.level_width} need at least {self.first + 3}: choose a smaller level_width "
                f"(--level-width), or raw values (--recipe course)"
            )
        x = values[:, 0]
        if self.season is not None:
            fitted = replace(fitted, drift=float(np.mean(x[self.season :] - x[: -self.season])))
        # Differencing cancels slow changes and doubles the variance of the noise.
        noise = np.diff(x - fitted._seasonal(x, len(x)))
        rounding = 1e-12 * float(np.abs(x).max())  # a smaller scale is only rounding error of a constant
        for scale in (float(np.nanstd(noise)) / np.sqrt(2), float(x.std())):
            if scale > rounding:
                return replace(fitted, scale=float(scale))
        raise ValueError(f"all values of the training part are {x[0]}: there is nothing to learn")

    def apply(self, values: np.ndarray) -> Prepared:
        """Features, targets and baseline of ``values [time, dims]``, which may extend past the training part.

        Raises:
          ValueError: there are too few steps, or the number of columns differs from the fitted one.
        """
        if len(values) < self.first + 2:
            raise ValueError(f"the series has {len(values)} steps, but at least {self.first + 2} are needed")
        x, further = values[:, 0], values[:, 1:]
        if further.shape[1] != len(self.further_mean):
            raise ValueError(
                f"the series has {further.shape[1]} further columns, but {len(self.further_mean)} were fitted"
            )
        columns = []
        if self.level_width is None:
            columns.append(x)
            baseline = np.zeros(len(x))
        else:
            seasonal = self._seasonal(x, len(x) + 1)  # known one step ahead
            d = x - seasonal[:-1]
            level = np.full(len(x), np.nan)
            width = self.level_width
            level[width - 1 :] = np.lib.stride_tricks.sliding_window_view(d, width).mean(axis=1)
            baseline = seasonal[1:] + level
            columns.append((d - level) / self.scale)
        if self.calendar is not None:
            angle = 2 * np.pi * (np.arange(len(x)) + 1) / self.calendar
            columns += [np.sin(angle), np.cos(angle)]
        columns += list(((further - np.array(self.further_mean)) / np.array(self.further_std)).T)
        targets = np.zeros((len(x), 1))
        targets[:-1, 0] = (x[1:] - baseline[:-1]) / self.scale
        features = np.stack(columns, axis=1)
        features[: self.first] = 0
        targets[: self.first] = 0
        return Prepared(features.astype(np.float32), targets.astype(np.float32), baseline, self.scale, self.first)

    def _seasonal(self, x: np.ndarray, length: int) -> np.ndarray:
        """For steps 0 .. length - 1, the median of the same time in all earlier seasons, with the drift added."""
        if self.season is None:
            return np.zeros(length)
        half = self.season_width // 2
        seasonal = np.full(length, np.nan)
        offsets = np.arange(-half, half + 1)
        for step in range(self.season + half, length):
            earlier = np.arange(1, (step - half) // self.season + 1)
            around = x[step - earlier[:, None] * self.season + offsets]
            seasonal[step] = np.median(around + (earlier[:, None] - 1) * self.drift)
        return seasonal

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Preparation":
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
        return cls(**fields)
