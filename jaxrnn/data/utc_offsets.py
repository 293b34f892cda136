"""Times with UTC offsets that change along a column, as those of a place with daylight saving time."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from jaxrnn.checks import shown

_OFFSET = re.compile(r"\d(Z|[+-]\d\d(:?\d\d)?)$", re.IGNORECASE)
_WRITTEN_APART = re.compile(r"(?<=\d) *(UTC|GMT| ([+-]\d\d(:?\d\d)?))$", re.IGNORECASE)
_NEARLY_A_DAY = np.timedelta64(20, "h")
_NOTE = (
    "the UTC offsets differ from row to row: the times were converted to UTC, and those of the forecast are UTC"
)
_NOTE_WANTED = (
    "the UTC offsets differ from those of the training: the times were converted to {}, and those of the forecast "
    "have this offset"
)
_NOTE_DAYS = "the UTC offsets differ from row to row: the rows are days or longer, so the local time was taken"
_NOTE_LOCAL = (
    "the UTC offsets differ from row to row: the rows are regular by the local clock, so the local time was taken"
)


class Dates(NamedTuple):
    """The dates of a column.

    Attributes:
      times: ``datetime64[s]``.
      note: what to say about how they were read, or None.
      utc_offset: the UTC offset that all times have, in seconds; None where none is written, and for rows that are
        a day or more apart or regular only by the local clock, whose times stay as they are written.
    """

    times: np.ndarray
    note: str | None = None
    utc_offset: int | None = None


def usual_offset(cell: str) -> str:
    """A time with its UTC offset as Python reads it: ``UTC`` and ``GMT`` are ``Z``, with no blank before it.

    >>> usual_offset("2024-10-27 02:00:00 UTC"), usual_offset("2024-10-27 02:00:00 +0200")
    ('2024-10-27 02:00:00Z', '2024-10-27 02:00:00+0200')
    """
    return _WRITTEN_APART.sub(lambda found: found[2] or "Z", cell)


def without_offsets(cells: Sequence[str], local: np.ndarray, wanted: int | None = None) -> Dates:
    """The times of a column with one UTC offset, which is left out.

    With one offset in all rows the times stay as they are written. With several, times within a day are converted
    to UTC, where no hour is missing or doubled; times a day or more apart stay local, since a day in spring is an
    hour shorter, and so do others that are regular only by the local clock, as every two hours. Where an offset is
    wanted, all other times are converted to that one.

    Args:
      cells: times in ISO 8601.
      local: the same as they are written, without offset, ``datetime64[s]``.
      wanted: the UTC offset of the times that these are compared with, in seconds, or None.

    Raises:
      ValueError: some times have an offset, and some do not.
    """
    cells = [usual_offset(cell) for cell in cells]
    timed = [place for place, cell in enumerate(cells) if "T" in cell.upper() or " " in cell]
    offsets = {place: found[1].upper() for place in timed if (found := _OFFSET.search(cells[place]))}
    if not offsets:
        return Dates(local)
    if len(offsets) < len(cells):
        place = next(place for place in range(len(cells)) if place not in offsets)
        other = cells[next(iter(offsets))]
        raise ValueError(
            f"the time {shown(cells[place])} has no UTC offset, but others have one, as {shown(other)}: write all "
            f"times with an offset, or none"
        )
    seconds = {text: _seconds(text) for text in set(offsets.values())}
    ahead = np.array([seconds[offsets[place]] for place in range(len(cells))])
    one, several = int(ahead[0]), bool((ahead != ahead[0]).any())
    if wanted is None:
        if _days_or_longer(local):
            return Dates(local, _NOTE_DAYS if several else None)
        wanted, note = (0, _NOTE) if several else (one, None)
    else:
        note = _NOTE_WANTED.format(_written(wanted)) if several or one != wanted else None
    times = local + (wanted - ahead).astype("timedelta64[s]")
    if several and _regular(local) and not _regular(times):
        return Dates(local, _NOTE_LOCAL)
    return Dates(times, note, wanted)


def _regular(times: np.ndarray) -> bool:
    """Whether all distances are multiples of the most frequent one."""
    changes = np.diff(np.unique(times)).astype(np.int64)
    sizes, counts = np.unique(changes, return_counts=True)
    return len(sizes) > 0 and not (changes % sizes[np.argmax(counts)]).any()


def _days_or_longer(local: np.ndarray) -> bool:
    distinct = np.unique(local)
    time_of_day = distinct - distinct.astype("datetime64[D]")
    return bool((time_of_day == time_of_day[0]).all() or np.median(np.diff(distinct)) >= _NEARLY_A_DAY)


def _written(seconds: int) -> str:
    """The offset as it is written.

    >>> _written(0), _written(-9000)
    ('UTC', '-02:30')
    """
    minutes = abs(seconds) // 60
    return f"{'-' if seconds < 0 else '+'}{minutes // 60:02}:{minutes % 60:02}" if seconds else "UTC"


def _seconds(offset: str) -> int:
    ahead = datetime.fromisoformat(f"2000-01-01T00:00{offset}").utcoffset()
    return int((ahead or timedelta()).total_seconds())
