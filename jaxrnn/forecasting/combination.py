"""An average of simple one-step forecasts, weighted by how well each did on held-out steps.

No single simple method is good for every series: a random walk wants its last value, a noisy one an average, a
seasonal one the value of a season ago. A choice of one of them on few held-out steps is often wrong, and
averages of several are more often right (Bates, Granger 1969, doi:10.1057/jors.1969.103). The weights are ::

    weight_i ~ exp(-sharpness * sqrt(held-out steps) * (error_i / lowest error - 1))

where an error is the mean absolute error over the second half of the training part. It is cut into folds; each
method is fitted to what comes before a fold. So methods that differ by less than chance share the weight, and
on a long series the better one gets nearly all of it.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrnn.forecasting.autoregression import Autoregression
from jaxrnn.forecasting.smoothing import Smoothing

Model = Autoregression | Smoothing

SHARPNESS = 1.5
FOLDS = 5
AR_ORDER = 30
LEAST_WEIGHT = 0.02
"""Methods of a smaller weight are left out."""

_LARGEST_JUMP = 3.0
_OUTLIER = 30.0
"""A change is an outlier if it is so many times larger than all but five percent of the changes."""

_NEAR_LAGS = 6
_FEWEST = 4


@dataclass(frozen=True)
class Method:
    """One of the methods that were tried.

    Attributes:
      name: what it is, in words.
      error: its mean absolute error over the held-out steps.
      weight: its weight in the average; 0 if it is left out.
      model: the fitted method.
    """

    name: str
    error: float
    weight: float
    model: Model


@dataclass(frozen=True)
class Combination:
    """A weighted average of one-step forecasts.

    Attributes:
      methods: those that were tried, the best first.
      held_out: how many steps of the training part decided the weights.
      error: the mean absolute error of the average over these steps.
      outlier: a change from step to step that is larger than this counts as an outlier, and the methods read a
        value that is moved to within this distance of the one before.
      reach: a forecast is moved to within this distance of the last value, three times the largest change in the
        training part, because a fitted method may explode on unusual values.

    >>> values = 10 + np.sin(np.arange(200) / 5) + 0.1 * np.random.RandomState(0).randn(200)
    >>> average = Combination.fit(values[:150])
    >>> forecasts = average.forecast(values)  # forecasts[t] reads values[:t]
    >>> naive = np.abs(np.diff(values[149:])).mean()
    >>> forecasts.shape, bool(np.abs(forecasts[150:-1] - values[150:]).mean() < 0.8 * naive)
    ((201,), True)
    """

    methods: tuple[Method, ...]
    held_out: int
    error: float
    outlier: float
    reach: float

    @classmethod
    def fit(
        cls, values: np.ndarray, *, season: int | None = None, observed: np.ndarray | None = None
    ) -> "Combination":
        """Fit all methods to a training part and weigh them on its second half.

        Args:
          values: ``[time]``, finite; missing values filled in.
          season: steps per season, or None.
          observed: bool ``[time]``; errors at the other steps, whose values were filled in, do not count.

        Raises:
          ValueError: there are fewer than four steps, or the season is longer than the values.
        """
        values = np.asarray(values, np.float64)
        if len(values) < _FEWEST:
            raise ValueError(f"the training part has {len(values)} steps, but at least {_FEWEST} are needed")
        if season is not None and not 1 <= season < len(values):
            raise ValueError(f"{season=} must be shorter than the training part, which has {len(values)} steps")
        season = None if season == 1 else season
        observed = np.ones(len(values), bool) if observed is None else observed
        changes = np.abs(np.diff(values))
        usual = float(np.quantile(changes, 0.95))
        outlier = _OUTLIER * usual if usual > 0 else float(changes.max())
        reach = _LARGEST_JUMP * min(float(changes.max()), outlier)
        wanted, values = values, _without_outliers(values, outlier)
        makers = _makers(values, season)
        fitted = {name: make(values) for name, make in makers.items()}
        fitted = {name: model for name, model in fitted.items() if model is not None}
        begin = min(max(len(values) // 2, min(len(values) - 10, 20)), len(values) - 1)
        edges = np.unique(np.linspace(begin, len(values), FOLDS + 1).astype(int))
        held = np.full((len(fitted), len(values)), np.nan)
        for start, stop in itertools.pairwise(edges):
            for place, name in enumerate(fitted):
                model = makers[name](values[:start])
                if model is not None:
                    forecasts = model.forecast(values[:stop])[:-1]
                    held[place, start:stop] = _near(forecasts, values[:stop], reach)[start:stop]
        counted = np.flatnonzero(observed[begin:]) + begin
        if not len(counted):
            counted = np.arange(begin, len(values))
        held, wanted = held[:, counted], wanted[counted]
        known = np.isfinite(held)
        # No method forecasts an outlier. Its error would hide how the methods differ.
        distances = np.minimum(np.abs(held - wanted), reach)
        errors = np.where(known, distances, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        errors = np.where(known.mean(axis=1) < 0.5, np.inf, errors)
        weights = _weights(errors, len(counted))
        average = _averaged(held, weights, held[0])
        order = np.lexsort((errors, -weights))
        names = list(fitted)
        methods = tuple(
            Method(names[i], float(errors[i]), float(weights[i]), fitted[names[i]])
            for i in order
            if errors[i] < np.inf
        )
        return cls(methods, len(counted), float(np.abs(average - wanted).mean()), outlier, reach)

    def forecast(self, values: np.ndarray) -> np.ndarray:
        """One-step forecasts of every step of ``values [time]`` and of the step after it: float64 ``[time + 1]``.

        A forecast reads earlier values only. That of the first step, which has none, is the first value.
        """
        values = np.asarray(values, np.float64)
        used = [method for method in self.methods if method.weight]
        values = _without_outliers(values, self.outlier)
        forecasts = np.stack([_near(method.model.forecast(values), values, self.reach) for method in used])
        naive = np.concatenate([values[:1], values])
        return _averaged(forecasts, np.array([method.weight for method in used]), naive)

    @property
    def lookback(self) -> int:
        """How many steps back the methods read before all of them give a forecast."""
        reaches = [0]
        for method in self.methods:
            if isinstance(method.model, Autoregression) and method.weight:
                reaches.append(max((*method.model.lags, 0)) + sum(method.model.differences))
        return max(reaches)

    def to_json(self) -> dict[str, Any]:
        methods = [
            {**vars(method), "kind": type(method.model).__name__, "model": method.model.to_json()}
            for method in self.methods
        ]
        return {**vars(self), "methods": methods}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Combination":
        kinds = {kind.__name__: kind for kind in (Autoregression, Smoothing)}
        methods = []
        for one in record["methods"]:
            fields = {name: value for name, value in one.items() if name != "kind"}
            methods.append(Method(**{**fields, "model": kinds[one["kind"]].from_json(one["model"])}))
        return cls(**{**record, "methods": tuple(methods)})


def _without_outliers(values: np.ndarray, outlier: float) -> np.ndarray:
    """The values, each moved to within this distance of the one before."""
    if not (np.abs(np.diff(values)) > outlier).any():
        return values
    moved, last = values.copy(), values[0]
    for step, value in enumerate(values):
        moved[step] = last = min(max(value, last - outlier), last + outlier)
    return moved


def _weights(errors: np.ndarray, count: int) -> np.ndarray:
    lowest = errors.min()
    if not lowest > 0:  # a constant series, or one that a method knows exactly
        weights = (errors == lowest).astype(float)
    else:
        weights = np.exp(-SHARPNESS * np.sqrt(count) * (errors / lowest - 1))
    weights /= weights.sum()
    weights[weights < min(LEAST_WEIGHT, weights.max())] = 0
    return weights / weights.sum()


def _averaged(forecasts: np.ndarray, weights: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """The weighted average over the methods that have a forecast at a step; ``otherwise`` where none has one."""
    known = np.isfinite(forecasts) & (weights > 0)[:, None]
    total = weights @ known
    sums = weights @ np.where(known, forecasts, 0)
    return np.where(total > 0, sums / np.maximum(total, 1e-300), otherwise)


def _near(forecasts: np.ndarray, values: np.ndarray, reach: float) -> np.ndarray:
    """The forecasts, moved to within this distance of the value before."""
    before = np.concatenate([values[:1], values])[: len(forecasts)]
    return np.clip(forecasts, before - reach, before + reach)


def _makers(values: np.ndarray, season: int | None) -> dict[str, Callable[[np.ndarray], Model | None]]:
    """The methods to try, by name: functions from a training part to a fitted method, or to None."""
    count = len(values)
    near = min(AR_ORDER, max(2, count // 4))
    few = min(_NEAR_LAGS, near)
    seasonal = () if season is None else (season - 1, season, season + 1, 2 * season)
    far = {lag for lag in seasonal if 0 < lag < count // 3}

    def lags(most: int) -> tuple[int, ...]:
        return tuple(sorted({*range(1, most + 1), *far}))

    makers: dict[str, Callable[[np.ndarray], Model | None]] = {
        "naive": lambda x: Autoregression((1,), (1.0,), 0.0),
        "median": lambda x: Autoregression((), (), float(np.median(x))),
        "exponential smoothing": lambda x: Smoothing.fit(x),
        "exponential smoothing with trend": lambda x: Smoothing.fit(x, trend=True),
        f"least-squares AR({AR_ORDER})": _least_squares,
    }
    if season is not None:
        makers["seasonal naive"] = lambda x: Autoregression((season,), (1.0,), 0.0)
        makers["exponential smoothing with season"] = lambda x: Smoothing.fit(x, season=season)
        makers["exponential smoothing with trend and season"] = lambda x: Smoothing.fit(
            x, trend=True, season=season
        )
    spread = np.log(values.max() / values.min()) if values.min() > 0 else 0.0
    for log in (False, True) if spread > 0.1 else (False,):
        kinds: dict[tuple[int, ...], tuple[tuple[int, ...], ...]] = {
            (): (lags(near), lags(few)),
            (1,): (lags(near), lags(few)),
        }
        if season is not None and count > 3 * season + 10:
            kinds[(season,)] = (lags(near),)
            kinds[(1, season)] = (lags(min(near, season + 1) if season < 20 else few),)
        for differences, tried in kinds.items():
            for which in tried:
                makers[_named(which, differences, log)] = _autoregression(which, differences, log)
    return makers


def _named(lags: tuple[int, ...], differences: tuple[int, ...], log: bool) -> str:
    of = f"{'logarithms' if log else 'values'}"
    if differences:
        of = f"differences {' and '.join(map(str, differences))} of {of}"
    return f"robust AR of {of}, {len(lags)} lags"


def _autoregression(lags: tuple[int, ...], differences: tuple[int, ...], log: bool):
    def make(values: np.ndarray) -> Autoregression | None:
        return Autoregression.fit(values, lags=lags, differences=differences, log=log)

    return make


def _least_squares(values: np.ndarray) -> Autoregression | None:
    """The plain least-squares autoregression of :func:`jaxrnn.data.autoregressive_forecast`."""
    if len(values) < 2 * AR_ORDER + 1:
        return None
    rows = np.lib.stride_tricks.sliding_window_view(values, AR_ORDER)[:-1]
    design = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    solution, *_ = np.linalg.lstsq(design, values[AR_ORDER:], rcond=None)
    # The last column of a window is the newest value, which is lag 1.
    return Autoregression(tuple(range(1, AR_ORDER + 1)), tuple(solution[-2::-1].tolist()), float(solution[-1]))
