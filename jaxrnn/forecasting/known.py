"""What the networks and the forecasts take from further columns and dates, beside the values of the series."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxrnn.data import KnownTimes, Step
from jaxrnn.forecasting.covariates import LARGEST, Covariates
from jaxrnn.forecasting.effects import Effects
from jaxrnn.forecasting.one_series import Columns, OneSeries, usual_unit
from jaxrnn.forecasting.windows import Windows, usual_noise, usual_size


@dataclass(frozen=True)
class Known:
    """The covariates of a model, and the effects of those that are known in advance.

    Attributes:
      covariates: how columns and dates become numbers.
      effects: what the columns that are known in advance add to a series.
      steps: the steps of the series that the model is trained on, each once, the most frequent first.
      usual_noise: how much these series vary beside their size; what a series of one row is taken to vary.
      usual_size: how large their values are; what a series of zeros is taken to vary beside.
      utc_offset: the UTC offset of their times, see :class:`jaxrnn.data.utc_offsets.Dates`.
      unit: what the times of most of them were rounded to, see :class:`jaxrnn.data.regular_times.RegularTimes`.
    """

    covariates: Covariates
    effects: Effects
    steps: tuple[Step, ...] = ()
    usual_noise: float = 0.0
    usual_size: float = 0.0
    utc_offset: int | None = None
    unit: str = ""

    @property
    def times(self) -> KnownTimes:
        """What is known of the times of fresh rows."""
        return KnownTimes(self.steps, self.utc_offset, self.unit)

    @classmethod
    def nothing(cls) -> "Known":
        """No columns and no calendar."""
        return cls(Covariates(Columns(), {}, ()), Effects(np.zeros(0), 1))

    @classmethod
    def fit(cls, panel: Sequence[OneSeries], columns: Columns, *, calendar: bool, season: int) -> "Known":
        """Fit both to the series that a model is trained on."""
        covariates = Covariates.fit(panel, columns, calendar=calendar)
        known = [covariates.future(one, 0)[:, : covariates.known_size] for one in panel]
        steps = Counter(one.step for one in panel).most_common()
        effects = Effects.fit(panel, known, season)
        usual = usual_noise(panel, season), usual_size(panel)
        return cls(
            covariates, effects, tuple(step for step, _ in steps), *usual, panel[0].utc_offset, usual_unit(panel)
        )

    def windows(
        self,
        panel: Sequence[OneSeries],
        *,
        window: int,
        horizon: int,
        season: int,
        until: Sequence[int] | np.ndarray | None = None,
    ) -> Windows:
        """The windows of a panel without the effects, with the covariates as further features.

        The features are those of :class:`Windows`; then what is known at the step, ``past_size`` numbers; then
        what is known of the step that lies a horizon later, ``future_size`` numbers. So the last ``horizon`` steps
        of a window, which must not be shorter, hold what is known of all steps to forecast.

        Args:
          until: for each series, the first step whose value its effects must not depend on.
        """
        sizes: dict[str, Any] = dict(window=window, horizon=horizon, season=season)
        sizes |= dict(usual_noise=self.usual_noise, usual_size=self.usual_size)
        covariates = self.covariates
        if not covariates.past_size:
            return Windows.of(list(panel), **sizes)
        futures = [covariates.future(one, horizon) for one in panel]
        pasts = [covariates.past(one, future) for one, future in zip(panel, futures)]
        extra = [_extra(past, future, window, horizon) for past, future in zip(pasts, futures)]
        if self.effects.used:
            places = [None] * len(panel) if until is None else until
            factors = [
                self.effects.of(one, future[:, : covariates.known_size], place)
                for one, future, place in zip(panel, futures, places)
            ]
            panel = [
                replace(one, values=one.values - unit[:-1] * pull[: len(one.values)])
                for one, (unit, pull) in zip(panel, factors)
            ]
            windows = Windows.of(list(panel), **sizes)
            moved = [_moved(unit, pull, window, horizon) for unit, pull in factors]
            offset, change = (np.concatenate(arrays) for arrays in zip(*moved))
            targets = (windows.targets + change / windows.scale[:, None]).astype(np.float32)
            windows = replace(windows, targets=targets, offset=offset)
        else:
            windows = Windows.of(list(panel), **sizes)
        features = np.concatenate([windows.features, np.concatenate(extra)], axis=1)
        return replace(windows, features=features)

    def to_json(self) -> dict[str, Any]:
        steps = [vars(step) for step in self.steps]
        return {
            "covariates": self.covariates.to_json(),
            "effects": self.effects.to_json(),
            "steps": steps,
            "usual_noise": self.usual_noise,
            "usual_size": self.usual_size,
            "utc_offset": self.utc_offset,
            "unit": self.unit,
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Known":
        steps = tuple(Step(**step) for step in record["steps"])
        effects = Effects.from_json(record["effects"])
        names = "usual_size", "utc_offset", "unit"  # older models do not have all of them
        later = {name: record[name] for name in names if name in record}
        return cls(Covariates.from_json(record["covariates"]), effects, steps, record["usual_noise"], **later)


def _extra(past: np.ndarray, future: np.ndarray, window: int, horizon: int) -> np.ndarray:
    """The further features of one series, behind the empty steps that stand before it, float32.

    Rare values may be very large in the unit of their column. The effects take them as they are, networks do not.
    """
    empty = window - 1
    before = np.pad(past, ((empty, 0), (0, 0)))
    ahead = np.pad(future, ((empty, 0), (0, 0)))[horizon:]
    return np.clip(np.concatenate([before, ahead], axis=1), -LARGEST, LARGEST).astype(np.float32)


def _moved(unit: np.ndarray, pull: np.ndarray, window: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """The effects ahead of each origin, ``[window - 1 + time, horizon]``, and how targets change by them.

    A forecast knows the size of the values only up to its origin, while the values of the panel have lost their
    effect by the size of their own time.
    """
    count = len(unit) - 1
    ahead = np.arange(count)[:, None] + np.arange(1, horizon + 1)
    offset = unit[1:, None] * pull[ahead]
    change = unit[np.minimum(ahead, count)] * pull[ahead] - offset
    empty = ((window - 1, 0), (0, 0))
    return np.pad(offset, empty), np.pad(change, empty)
