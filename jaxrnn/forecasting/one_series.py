"""One series of a panel: its values and times, what is known besides, and what was done to its rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxrnn.data import Step


class Repairs(NamedTuple):
    """What was done to the rows of a series.

    Attributes:
      unsorted, combined, inserted: how many rows were out of order, combined, and inserted.
      cut: how many rows without a value after the last one were left out.
      far: the places of values that were left out, since they are absurdly far from all others, and the values.
      irregular: the times have no common step, so each row is a step.
      unit: the times were rounded to this, see :class:`jaxrnn.data.regular_times.RegularTimes`; or empty.
      dates: what to say about how the dates were read, or empty.
    """

    unsorted: int = 0
    combined: int = 0
    inserted: int = 0
    cut: int = 0
    far: tuple[tuple[int, float], ...] = ()
    irregular: bool = False
    unit: str = ""
    dates: str = ""


@dataclass(frozen=True)
class OneSeries:
    """A series of a panel.

    Attributes:
      name: its unique_id.
      values: float64 ``[time]``; missing values lie on the line between their neighbours.
      observed: bool ``[time]``; False where a value was missing.
      times: the time of each value, ``datetime64[s]`` or whole numbers.
      step: the step to the next one.
      future: columns that are known in advance, by name: float64 or text ``[time + ahead]``, where ``ahead`` is
        how many steps after the last value are given. NaN or an empty text where a value is missing.
      past: columns that are known up to the last value, float64 or text ``[time]``.
      static: what does not change along the series, by the name of the column.
      repairs: what was done to its rows.
      utc_offset: the UTC offset that its times have, in seconds, if one was written with them; None for days and
        longer steps.
    """

    name: str
    values: np.ndarray
    observed: np.ndarray
    times: np.ndarray
    step: Step
    future: Mapping[str, np.ndarray] = field(default_factory=dict)
    past: Mapping[str, np.ndarray] = field(default_factory=dict)
    static: Mapping[str, Any] = field(default_factory=dict)
    repairs: Repairs = field(default_factory=Repairs)
    utc_offset: int | None = None


class Columns(NamedTuple):
    """The names of further columns: known in advance, known up to the last value, and one value for a series."""

    future: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    static: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.future, *self.past, *self.static)


def usual_unit(panel: Sequence[OneSeries]) -> str:
    """What the times of most series were rounded to, or empty."""
    return Counter(one.repairs.unit for one in panel).most_common(1)[0][0]


def shown_time(time: Any) -> str:
    """A date or a whole number for a message."""
    return str(time).removesuffix("T00:00:00")
