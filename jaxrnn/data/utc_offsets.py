"""Times with UTC offsets that change along a column, as those of a place with daylight saving time."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np

from jaxrnn.checks import shown

_OFFSET = re.compile(r"\d(Z|[+-]\d\d(:?\d\d)?)$", re.IGNORECASE)
_WRITTEN_APART = re.compile(r"(?<=\d) *(UTC|GMT| ([+-]\d\d(:?\d\d)?))$", re.IGNORECASE)
_NEARLY_A_DAY = np.timedelta64(20, "h")
_NOTE = (
    "the UTC offsets differ from row to row: the times were converted to UTC, and those of the forecast are UTC"
)
_NOTE_DAYS = "the UTC offsets differ from row to row: the rows are days or longer, so the local time was taken"


def usual_offset(cell: str) -> str:
    """A time with its UTC offset as Python reads it: ``UTC`` and ``GMT`` are ``Z``, with no blank before it.

    >>> usual_offset("2024-10-27 02:00:00 UTC"), usual_offset("2024-10-27 02:00:00 +0200")
    ('2024-10-27 02:00:00Z', '2024-10-27 02:00:00+0200')
    """
    return _WRITTEN_APART.sub(lambda found: found[2] or "Z", cell)


def without_offsets(cells: Sequence[str], local: np.ndarray) -> tuple[np.ndarray, str | None]:
    """The times of a column without their UTC offsets, and what to say about it.

    With one offset in all rows the times stay as they are written. With several, times within a day are converted
    to UTC, where no hour is missing or doubled; times a day or more apart stay local, since a day in spring is an
    hour shorter.

    Args:
      cells: times in ISO 8601.
      local: the same as they are written, without offset, ``datetime64[s]``.

    Raises:
      ValueError: some times have an offset, and some do not.
    """
    cells = [usual_offset(cell) for cell in cells]
    timed = [place for place, cell in enumerate(cells) if "T" in cell.upper() or " " in cell]
    offsets = {place: found[1].upper() for place in timed if (found := _OFFSET.search(cells[place]))}
    if not offsets:
        return local, None
    if len(offsets) < len(cells):
        place = next(place for place in range(len(cells)) if place not in offsets)
        other = cells[next(iter(offsets))]
        raise ValueError(
            f"the time {shown(cells[place])} has no UTC offset, but others have one, as {shown(other)}: write all "
            f"times with an offset, or none"
        )
    seconds = {text: _seconds(text) for text in set(offsets.values())}
    ahead = np.array([seconds[offsets[place]] for place in range(len(cells))])
    if (ahead == ahead[0]).all():
        return local, None
    distinct = np.unique(local)
    time_of_day = distinct - distinct.astype("datetime64[D]")
    if (time_of_day == time_of_day[0]).all() or np.median(np.diff(distinct)) >= _NEARLY_A_DAY:
        return local, _NOTE_DAYS
    return local - ahead.astype("timedelta64[s]"), _NOTE


def _seconds(offset: str) -> int:
    ahead = datetime.fromisoformat(f"2000-01-01T00:00{offset}").utcoffset()
    return int((ahead or timedelta()).total_seconds())
