"""Times that have a common step only as hours, days, weeks or months, because they vary a little within these."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxrnn.data.dates import Step, in_seconds, infer_step

_DAY = 86_400
_FEWEST = 3
_LATE_IN_MONTH = 20
_MONDAY = 4
"""1970-01-05 was the first Monday."""


class RegularTimes(NamedTuple):
    """Times with a common step.

    Attributes:
      times: ``datetime64[s]`` or whole numbers, increasing.
      step: the step between them, or None if there is none.
      unit: ``"months"``, ``"weeks"``, ``"days"``, ``"hours"`` or ``"minutes"`` if the times were rounded down to
        these, or for example ``"the nearest hours"``; empty if they are as they were.
    """

    times: np.ndarray
    step: Step | None
    unit: str = ""


def regular_times(times: np.ndarray, unit: str = "") -> RegularTimes:
    """The step of increasing times ``[rows]``; times without one are rounded if then they have one.

    The longest unit is taken in which each row has one of its own and at most one in five is missing. One or two
    times show no unit: they are rounded to the one that is given, if that leaves each a time of its own.

    >>> times = ["2024-01-01T09:03", "2024-01-02T09:01", "2024-01-03T09:07"]
    >>> found = regular_times(np.array(times, "datetime64[s]"))
    >>> found.step, found.unit, found.times[0]
    (Step(unit='seconds', size=86400, month_end=False), 'days', np.datetime64('2024-01-01T00:00:00'))
    """
    times = in_seconds(times)
    if unit and len(times) < _FEWEST and times.dtype.kind == "M":
        found = rounded(times, unit)
        if (np.diff(found.astype(np.int64)) > 0).all():
            return RegularTimes(found, infer_step(found), unit)
    step = infer_step(times)
    if step is not None or len(times) < _FEWEST or times.dtype.kind == "i":
        return RegularTimes(times, step)
    for unit in _ROUNDED:
        found = rounded(times, unit)
        if (np.diff(found.astype(np.int64)) <= 0).any():
            continue
        step = infer_step(found)
        places = None if step is None else step.places(found)
        if places is not None and 4 * (int(places[-1]) + 1) <= 5 * len(times):
            return RegularTimes(found, step, unit)
    return RegularTimes(times, None)


def rounded(times: np.ndarray, unit: str) -> np.ndarray:
    """Times rounded to a unit of :class:`RegularTimes`, ``datetime64[s]``.

    Months become their first days, or their last if most times lie late in the month.
    """
    return _ROUNDED[unit](times).astype("datetime64[s]")


def _months(times: np.ndarray) -> np.ndarray:
    months, days = times.astype("datetime64[M]"), times.astype("datetime64[D]")
    if np.median((days - months.astype("datetime64[D]")).astype(np.int64)) >= _LATE_IN_MONTH:
        return (months + np.timedelta64(1, "M")).astype("datetime64[D]") - np.timedelta64(1, "D")
    return months


def _to(seconds: int, ahead: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """Round down to so many seconds after the times are moved ahead."""

    def rounded(times: np.ndarray) -> np.ndarray:
        count = times.astype("datetime64[s]").astype(np.int64) + ahead
        return (count - count % seconds).astype("datetime64[s]")

    return rounded


def _to_weeks(times: np.ndarray) -> np.ndarray:
    days = times.astype("datetime64[D]")
    return days - (days.astype(np.int64) - _MONDAY) % 7 * np.timedelta64(1, "D")


_ROUNDED = {"months": _months, "weeks": _to_weeks}
for _name, _size in (("days", _DAY), ("hours", 3600), ("minutes", 60)):
    _ROUNDED |= {_name: _to(_size), f"the nearest {_name}": _to(_size, _size // 2)}
