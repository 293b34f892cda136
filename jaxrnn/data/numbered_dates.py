"""Dates written as whole numbers: 20240131, 202401 for a month or a week, 20241 for a quarter, Unix times."""

from collections.abc import Callable
from datetime import date
from typing import NamedTuple

import numpy as np

_FIRST_YEAR, _LAST_YEAR = 1900, 2100
_DAY = 86_400


class NumberedDates(NamedTuple):
    """Dates that were written as whole numbers.

    Attributes:
      dates: ``datetime64[s]``.
      note: how they were read, as a phrase.
    """

    dates: np.ndarray
    note: str


class _Style(NamedTuple):
    """A way to write dates as numbers: ``year * base + part``.

    Attributes:
      what: what each number stands for.
      base: the year is the number divided by this.
      names: names of columns, in lower case, that say that they hold such numbers.
      first_day: the first day of a number's day, month, week or quarter, or None if there is none.
      place: a count of the first day's day, month, week or quarter.
      steps: how long a step may be of rows whose numbers are dates of this kind, in seconds: from and to.
      longest_step: numbers that are just as regular when they count steps are taken as dates if their usual step
        is at most this.
    """

    what: str
    base: int
    names: frozenset[str]
    first_day: Callable[[int, int], date | None]
    place: Callable[[date], int]
    steps: tuple[int, int]
    longest_step: float = 0

    def has(self, seconds: int | None) -> bool:
        """Whether rows with a step of so many seconds may have such numbers."""
        return seconds is not None and self.steps[0] <= seconds <= self.steps[1]


def _day(year: int, part: int) -> date | None:
    return _valid(lambda: date(year, part // 100, part % 100))


def _month(year: int, part: int) -> date | None:
    return _valid(lambda: date(year, part, 1))


def _week(year: int, part: int) -> date | None:
    return _valid(lambda: date.fromisocalendar(year, part, 1))


def _quarter(year: int, part: int) -> date | None:
    return date(year, 3 * part - 2, 1) if 1 <= part <= 4 else None


def _valid(make: Callable[[], date]) -> date | None:
    try:
        return make()
    except ValueError:
        return None


_STYLES = (
    _Style("days", 10_000, frozenset(["yyyymmdd"]), _day, date.toordinal, (_DAY, _DAY), np.inf),
    _Style(
        "months",
        100,
        frozenset(["month", "monat", "yearmonth", "year_month", "yyyymm", "date", "datum"]),
        _month,
        lambda day: 12 * day.year + day.month,
        (30 * _DAY, 24 * 30 * _DAY),
        1,
    ),
    _Style(
        "weeks",
        100,
        frozenset(["week", "woche", "kw", "yearweek", "year_week", "yyyyww"]),
        _week,
        lambda day: day.toordinal() // 7,
        (7 * _DAY, 28 * _DAY),
    ),
    _Style(
        "quarters",
        10,
        frozenset(["quarter", "quartal"]),
        _quarter,
        lambda day: 4 * day.year + (day.month - 1) // 3,
        (90 * _DAY, 24 * 30 * _DAY),
    ),
)

_EPOCH_NAMES = frozenset(["time", "timestamp", "datetime", "date", "epoch", "unix", "unixtime", "unix_time"])
_EPOCH_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_FIRST_SECOND, _LAST_SECOND = 10**9, 4 * 10**9

NAMES = frozenset().union(_EPOCH_NAMES, *(style.names for style in _STYLES))
"""Names, in lower case, of columns that may hold such numbers."""


def numbered_dates(numbers: np.ndarray, name: str = "", seconds: int | None = None) -> NumberedDates | None:
    """The dates that a column of whole numbers stands for, or None if the numbers count steps.

    All numbers must be dates of one kind between 1900 and 2100. Then the name of the column decides, as
    ``"month"``, or the numbers: 202412 and 202501 are far apart as numbers, but neighbours as months. Where the
    numbers are as regular as the dates, as in 202401 to 202406, they are months, but never weeks or quarters. In a
    column that is called ``"timestamp"`` or similar, numbers from 1e9 on are seconds since 1970, or thousandths,
    millionths or billionths of them.

    Args:
      numbers: the column.
      name: what it is called.
      seconds: about how long the step is of the rows that these continue or are compared with, if they have dates.
        Then numbers are dates whose days, weeks, months or quarters are such steps, even if there are few of them.
        0 if the numbers of these count steps: then dates must have fewer gaps than numbers.

    >>> numbered_dates(np.array([202412, 202501])).dates.astype("datetime64[D]")
    array(['2024-12-01', '2025-01-01'], dtype='datetime64[D]')
    >>> numbered_dates(np.array([202412, 202413])) is None
    True
    """
    distinct, place = np.unique(numbers, return_inverse=True)
    if len(distinct) and name.lower() in _EPOCH_NAMES:
        for power, (unit, what) in enumerate(_EPOCH_UNITS.items()):
            if distinct[0] >= _FIRST_SECOND * 1000**power and distinct[-1] <= _LAST_SECOND * 1000**power:
                dates = numbers.astype(np.int64).astype(f"datetime64[{unit}]").astype("datetime64[s]")
                return NumberedDates(dates, f"the numbers are read as {what} since 1970, in UTC")
    for style in sorted(_STYLES, key=lambda style: (name.lower() not in style.names, not style.has(seconds))):
        years = distinct // style.base
        if not len(distinct) or years[0] < _FIRST_YEAR or years[-1] > _LAST_YEAR:
            continue
        days = [style.first_day(*divmod(number, style.base)) for number in distinct.tolist()]
        known = [day for day in days if day is not None]
        if len(known) < len(days):
            continue
        sure = (name.lower() in style.names and seconds != 0) or style.has(seconds)
        places = np.array([style.place(day) for day in known])
        if sure or _regular(distinct, places, 0 if seconds == 0 else style.longest_step):
            example = f"{distinct[0]} as {known[0]}"
            dates = np.array(known, "datetime64[s]")[place]
            return NumberedDates(dates, f"the numbers are read as {style.what}, {example}")
    return None


def _regular(numbers: np.ndarray, places: np.ndarray, longest_step: float) -> bool:
    """Whether the dates have fewer gaps than the numbers, or as few and a step that is usual for dates."""
    if len(numbers) == 1:
        return longest_step > 0
    (as_numbers, _), (as_dates, usual) = _gaps(numbers), _gaps(places)
    return as_dates < as_numbers or (as_dates <= as_numbers and usual <= longest_step)


def _gaps(places: np.ndarray) -> tuple[float, int]:
    """How many steps are missing, infinite if there is no common step; and the usual step."""
    changes = np.diff(places)
    sizes, counts = np.unique(changes, return_counts=True)
    usual = int(sizes[np.argmax(counts)])
    missing = np.inf if (changes % usual).any() else int((changes // usual - 1).sum())
    return missing, usual
