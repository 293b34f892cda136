"""Dates in any usual format, the step between them, and how they go on.

Each format is tried on the whole column, so that the third of April is never read as the fourth of March in
some rows.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from jaxrnn.checks import shown
from jaxrnn.data.utc_offsets import Dates, usual_offset, without_offsets

_DAYS = (
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%d/%m/%y",
    "%m/%d/%y",
)
_DAYS += ("%d.%m.%y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y")
_MONTHS = ("%Y-%m", "%Y/%m", "%YM%m", "%m/%Y", "%m.%Y", "%b %Y", "%B %Y", "%b-%Y", "%b-%y", "%Y %b", "%Y-%b")
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", "T%H:%M:%S")
_FORMATS = tuple(day + time for time in _TIMES for day in _DAYS) + _MONTHS
_QUARTER = re.compile(r"(?:(?P<year>\d{4})[- ]?Q(?P<quarter>[1-4])|Q(?P<quarter2>[1-4])[- /]?(?P<year2>\d{4}))")
_WEEK = re.compile(r"(?P<year>\d{4})[- ]?W(?P<week>\d\d?)(-?(?P<day>[1-7]))?")
_SAMPLE = 40
_SECOND, _MONTH = np.timedelta64(1, "s"), np.timedelta64(1, "M")
_DAY = 86_400
_MOST_CUT = 0.05
"""Fractions of a second that are a smaller share of the distance of two rows are left out."""

_LENGTHS = ((_DAY, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))


def _iso(cell: str) -> datetime | None:
    if not re.match(r"\d{4}-\d\d-\d\d|(19|20)\d{6}(T|$)", cell):
        return None
    try:
        return datetime.fromisoformat(usual_offset(cell)).replace(tzinfo=None)
    except ValueError:
        return None


def _quarter(cell: str) -> datetime | None:
    match = _QUARTER.fullmatch(cell.upper())
    if match is None:
        return None
    year, quarter = match["year"] or match["year2"], match["quarter"] or match["quarter2"]
    return datetime(int(year), 3 * int(quarter) - 2, 1)


def _week(cell: str) -> datetime | None:
    """The Monday of an ISO week, or another day of it."""
    match = _WEEK.fullmatch(cell.upper())
    if match is None:
        return None
    try:
        return datetime.fromisocalendar(int(match["year"]), int(match["week"]), int(match["day"] or 1))
    except ValueError:
        return None


def _with(style: str):
    def read(cell: str) -> datetime | None:
        try:
            return datetime.strptime(cell, style)
        except ValueError:
            return None

    return read


_ISO = "ISO 8601"
_READERS = {
    _ISO: _iso,
    "quarters": _quarter,
    "ISO weeks": _week,
    **{style: _with(style) for style in _FORMATS},
}


def read_dates(cells: Sequence[str]) -> np.ndarray | None:
    """The dates in the cells of a column as ``datetime64[s]``, or None if they are not dates.

    Times whose UTC offsets differ, as those of a place with daylight saving time, are converted to UTC; if they
    are a day or more apart, or regular by the local clock alone, they stay local.

    Raises:
      ValueError: most of the cells are dates, but the named one is not, or the dates have two meanings, or only
        some of them have a UTC offset, or the rows are a second and a fraction apart.

    >>> read_dates(["31.01.2024", "29.02.2024"])
    array(['2024-01-31T00:00:00', '2024-02-29T00:00:00'], dtype='datetime64[s]')
    """
    found = dates_and_note(cells)
    return None if found is None else found.times


def dates_and_note(cells: Sequence[str], utc_offset: int | None = None) -> Dates | None:
    """The result of :func:`read_dates`, and what to say about how the dates were read.

    Times with a UTC offset are converted to ``utc_offset``, in seconds, if it is given.
    """
    cells = [cell.strip() for cell in cells]
    distinct = list(dict.fromkeys(cells))
    sample = distinct[:: max(1, len(distinct) // _SAMPLE)]
    counts = {name: sum(read(cell) is not None for cell in sample) for name, read in _READERS.items()}
    most = max(counts.values())
    if 2 * most <= len(sample):
        return None
    found = {}
    for name, count in counts.items():
        if count == most:
            dates = {cell: _READERS[name](cell) for cell in distinct}
            found[name] = [dates[cell] for cell in cells]
    fewest = min(dates.count(None) for dates in found.values())
    found = {name: dates for name, dates in found.items() if dates.count(None) == fewest}
    name, dates = next(iter(found.items()))
    if fewest:
        place = dates.index(None)
        raise NotADate(place, cells[place], name)
    if any(other != dates for other in found.values()):
        found = {name: np.array(dates, "datetime64[s]") for name, dates in found.items()}
        orders = {name: bool((np.diff(dates) > np.timedelta64(0, "s")).all()) for name, dates in found.items()}
        if sum(orders.values()) != 1:
            place = next(i for i in range(len(cells)) if len({dates[i] for dates in found.values()}) > 1)
            raise ValueError(
                f"the date {shown(cells[place])} has two meanings ({' or '.join(found)}): write dates as "
                f"YYYY-MM-DD"
            )
        return Dates(found[next(name for name, ordered in orders.items() if ordered)])
    times = whole_seconds(np.array(dates, "datetime64[us]"))
    return without_offsets(cells, times, utc_offset) if name == _ISO else Dates(times)


class NotADate(ValueError):
    """A cell of a column of dates is not a date.

    Attributes:
      place: its place in the column, from 0.
    """

    def __init__(self, place: int, cell: str, style: str):
        super().__init__(f"holds {shown(cell)}, which is not a date like the others ({style})")
        self.place = place


@dataclass(frozen=True)
class Step:
    """The step from one date to the next.

    Attributes:
      unit: ``"months"``, ``"weekdays"`` (Monday to Friday), ``"seconds"``, or ``"steps"`` for plain integers.
      size: how many units make a step.
      month_end: dates are the last days of their months.
    """

    unit: str
    size: int
    month_end: bool = False

    def __str__(self) -> str:
        """How long it is, in words.

        >>> str(Step("months", 1)), str(Step("seconds", 7 * 86_400)), str(Step("seconds", 900))
        ('1 month', '7 days', '15 minutes')
        """
        size, unit = self.size, self.unit
        if unit == "seconds":
            length, unit = next((n, name) for n, name in _LENGTHS if size % n == 0)
            size //= length
        return f"{size} {unit.removesuffix('s') if size == 1 else unit}"

    @property
    def seconds(self) -> int | None:
        """About how long it is, a month having 30 days; None for plain integers."""
        lengths = {"months": 30 * _DAY, "weekdays": _DAY, "seconds": 1}
        return self.size * lengths[self.unit] if self.unit in lengths else None

    @property
    def length(self) -> int:
        """Its seconds, or its size where it is a step between plain integers, to compare steps of one kind."""
        return self.size if self.seconds is None else self.seconds

    def places(self, times: np.ndarray) -> np.ndarray | None:
        """The step at which each time lies, counted from the first; None if one lies between two steps."""
        times = in_seconds(times)
        if self.unit == "months":
            count = times.astype("datetime64[M]").astype(np.int64)
        elif self.unit == "weekdays":
            if not np.is_busday(times.astype("datetime64[D]")).all():
                return None
            count = np.busday_count(times[0].astype("datetime64[D]"), times.astype("datetime64[D]"))
        else:
            count = times.astype(np.int64)
        count = count - count[0]
        return None if (count % self.size).any() else count // self.size

    def after(self, last: np.ndarray, count: int) -> np.ndarray:
        """The ``count`` times that follow ``last``, a scalar array.

        >>> Step("months", 1, month_end=True).after(np.datetime64("2024-01-31T00:00:00"), 2)
        array(['2024-02-29T00:00:00', '2024-03-31T00:00:00'], dtype='datetime64[s]')
        """
        last = in_seconds(last)
        ahead = self.size * np.arange(1, count + 1)
        if self.unit == "months":
            month = last.astype("datetime64[M]")
            within = last - month.astype(last.dtype)
            months = month + ahead * _MONTH
            time = within % np.timedelta64(_DAY, "s")
            ends = (months + _MONTH).astype(last.dtype) - np.timedelta64(_DAY, "s") + time
            # The 30th of February is its last day.
            return ends if self.month_end else np.minimum(months.astype(last.dtype) + within, ends)
        if self.unit == "weekdays":
            days = np.busday_offset(last.astype("datetime64[D]"), ahead, roll="forward")
            return days.astype(last.dtype) + (last - last.astype("datetime64[D]").astype(last.dtype))
        return last + ahead * (_SECOND if self.unit == "seconds" else 1)


DAYS, WEEKDAYS = Step("seconds", _DAY), Step("weekdays", 1)


class KnownTimes(NamedTuple):
    """What is known of the times of rows before they are read: how the rows were that they are compared with.

    Attributes:
      steps: the steps between two rows of each series, the most frequent one first.
      utc_offset: the UTC offset of the times, in seconds, or None, see :class:`jaxrnn.data.utc_offsets.Dates`.
      unit: what most of them were rounded to, see :class:`jaxrnn.data.regular_times.RegularTimes`; or empty.
    """

    steps: tuple[Step, ...] = ()
    utc_offset: int | None = None
    unit: str = ""

    @property
    def step(self) -> Step | None:
        """The usual step, or None."""
        return self.steps[0] if self.steps else None

    @property
    def seconds(self) -> int | None:
        """About how long it is; 0 for plain integers, None if it is unknown."""
        return None if self.step is None else self.step.seconds or 0


def infer_step(times: np.ndarray) -> Step | None:
    """The step of increasing times ``[rows]``, which may have gaps. None if they have no common step.

    It is the most frequent one between two rows, or a shorter one of which all are multiples, if at least half of
    its steps have a row.

    >>> infer_step(np.array(["2024-01-01", "2024-02-01", "2024-04-01"], "datetime64[s]"))
    Step(unit='months', size=1, month_end=False)
    """
    times = in_seconds(times)
    if len(times) < 2:
        return None
    if times.dtype.kind == "i":
        return _fitting(times, "steps", np.diff(times))
    days = times.astype("datetime64[D]")
    months = times.astype("datetime64[M]")
    day_of_month = (days - months.astype("datetime64[D]")).astype(np.int64)
    month_end = bool((((months + _MONTH).astype("datetime64[D]") - days).astype(np.int64) == 1).all())
    changes = np.diff(months.astype(np.int64))
    if (changes > 0).all() and (month_end or len(np.unique(day_of_month)) == 1):
        return _fitting(times, "months", changes, month_end)
    changes = np.diff(times).astype(np.int64)
    each_its_day = (np.diff(days.astype(np.int64)) > 0).all()
    if _usual(changes) == _DAY and len(times) >= 10 and each_its_day and np.is_busday(days).all():
        return WEEKDAYS
    return _fitting(times, "seconds", changes)


def whole_seconds(times: np.ndarray) -> np.ndarray:
    """Times of any unit in whole seconds, ``datetime64[s]``.

    Raises:
      ValueError: they are at regular distances that this changes, such as 1.5 seconds.
    """
    whole = times.astype("datetime64[s]")
    if (whole == times).all():
        return whole
    distances = np.abs(np.diff(times)) / _SECOND
    distances = distances[distances > 0]
    if not len(distances):
        return whole
    usual = float(np.median(distances))
    regular = np.median(np.abs(distances - usual)) <= _MOST_CUT * usual
    # Of rows that are less than a second apart, some have one time, which is an error unless they are combined.
    if regular and usual > 1 and abs(usual - round(usual)) > _MOST_CUT * usual:
        raise ValueError(
            f"the times, as {times[1]}, are {usual:g} seconds apart, but times are read in whole seconds: number "
            f"the rows (0, 1, 2, ...) instead"
        )
    return whole


def in_seconds(times: Any) -> np.ndarray:
    """Times of any unit as ``datetime64[s]``, and whole numbers as int64."""
    times = np.asarray(times)
    return times.astype("datetime64[s]" if times.dtype.kind == "M" else np.int64)


def _usual(changes: np.ndarray) -> int:
    sizes, counts = np.unique(changes, return_counts=True)
    return int(sizes[np.argmax(counts)])


def _fitting(times: np.ndarray, unit: str, changes: np.ndarray, month_end: bool = False) -> Step | None:
    """The usual change, or the common divisor of all; see :func:`infer_step`."""
    usual, shortest = Step(unit, _usual(changes), month_end), Step(unit, int(np.gcd.reduce(changes)), month_end)
    if usual.places(times) is not None:
        return usual
    places = shortest.places(times) if shortest.size > 0 else None
    return shortest if places is not None and places[-1] < 2 * len(times) else None
