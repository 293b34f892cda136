"""How many steps make a season, found from the values and the step of their dates.

After a moving average over m steps is subtracted, with D_h the mean of |x_t - x_{t-h}|::

    ratio_m = D_m / mean of D_1 ... D_m

It is near 1 for noise and random walks of any kind, and lower the more the values repeat after m steps.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrnn.data import Step
from jaxrnn.forecasting.one_series import OneSeries

_HIGHEST = 0.92
"""The highest ratio of a season in very long series."""

_UNSURE_DATED, _UNSURE = 0.3, 0.65
"""How much lower the ratio must be in shorter ones, divided by the root of the number of their seasons: where the
calendar suggests a season, and where it does not.

Of 150 random walks of 140 steps without dates, 3 have a season with 0.5 and none with 0.65. In noise, a wave of 7
steps that is 1.5 times as high as the noise's deviation is found in 145 of 150."""

_WITHOUT_DATES = (4, 5, 7, 12, 24, 48, 52)
_BETTER = 0.9
_DAY = 86_400
_MOST_SERIES = 500


@dataclass(frozen=True)
class SeasonChoice:
    """The season that was found.

    Attributes:
      season: steps per season; 1 for none.
      ratios: of each season that was tried, see above.
    """

    season: int
    ratios: dict[int, float]

    def to_json(self) -> dict[str, Any]:
        return {"season": self.season, "ratios": {str(m): ratio for m, ratio in self.ratios.items()}}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "SeasonChoice":
        return cls(record["season"], {int(m): ratio for m, ratio in record["ratios"].items()})


def choose_season(panel: Sequence[OneSeries]) -> SeasonChoice:
    """The season of the series of a panel that have its most frequent step.

    >>> from jaxrnn.forecasting import read_panel
    >>> days = np.datetime64("2024-01-01") + np.arange(70)
    >>> choose_season(read_panel({"ds": days, "y": np.arange(70) % 7 + 0.1 * np.arange(70)})).season
    7
    """
    step = _usual_step(panel)
    panel = [one for one in panel if _same(one.step, step)]
    dated = step.unit != "steps"
    candidates = calendar_seasons(step) if dated else _WITHOUT_DATES
    unsure = _UNSURE_DATED if dated else _UNSURE
    some = panel[:: max(1, len(panel) // _MOST_SERIES)]
    ratios: dict[int, float] = {}
    good = []
    for season in candidates:
        least = 2 * season + max(4, season // 2) if dated else 5 * season
        long = [one.values for one in some if len(one.values) >= least]
        found = [ratio for ratio in (_ratio(values, season) for values in long) if np.isfinite(ratio)]
        if not found or 2 * len(found) < len(some):
            continue
        ratios[season] = float(np.mean(found))
        seasons = sum(len(values) for values in long) / season
        if ratios[season] < _HIGHEST - unsure / np.sqrt(seasons):
            good.append(season)
    chosen = 1
    for season in good:
        if chosen == 1 or ratios[season] < _BETTER * ratios[chosen]:
            chosen = season
    return SeasonChoice(chosen, ratios)


def _usual_step(panel: Sequence[OneSeries]) -> Step:
    """The step of most series; of two that are as frequent, that of more values, and else the shorter one."""
    counts: Counter[Step] = Counter()
    values: Counter[Step] = Counter()
    for one in panel:
        step = next((other for other in counts if _same(other, one.step)), one.step)
        counts[step] += 1
        values[step] += len(one.values)
    return max(counts, key=lambda step: (counts[step], values[step], -step.length, step.unit))


def _same(one: Step, other: Step) -> bool:
    """Whether the calendar suggests the same seasons for both: numbered rows have no calendar."""
    return one.unit == other.unit and (one.size == other.size or one.unit == "steps")


def calendar_seasons(step: Step) -> tuple[int, ...]:
    """The seasons that a step between dates suggests: a day, a week, a year.

    >>> calendar_seasons(Step("seconds", 3600)), calendar_seasons(Step("months", 1))
    ((24, 168), (12,))
    """
    if step.unit == "months":
        return (12 // step.size,) if 12 % step.size == 0 and step.size < 12 else ()
    if step.unit == "weekdays":
        return (5,)
    if step.unit == "steps":
        return ()
    if step.size == 7 * _DAY:
        return (52,)
    spans = (_DAY, 7 * _DAY)
    return tuple(span // step.size for span in spans if span % step.size == 0 and span > step.size)


def _ratio(values: np.ndarray, season: int) -> float:
    width = season + 1 - season % 2
    weights = np.ones(width)
    if season % 2 == 0:
        weights[0] = weights[-1] = 0.5
    # An outlier would decide the means.
    low, high = np.quantile(values, (0.005, 0.995))
    values = np.clip(values, low, high)
    level = np.convolve(values, weights / weights.sum(), "valid")
    rest = values[width // 2 :][: len(level)] - level
    if len(rest) <= season:
        return float("nan")
    apart = [float(np.mean(np.abs(rest[lag:] - rest[:-lag]))) for lag in range(1, season + 1)]
    mean = float(np.mean(apart))
    return apart[-1] / mean if mean > 1e-12 * (np.abs(values).max() + 1e-300) else float("nan")
