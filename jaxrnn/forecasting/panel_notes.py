"""What was done to the rows of a panel when it was read, in sentences."""

from collections.abc import Sequence

import numpy as np

from jaxrnn.forecasting.far_values import FAR
from jaxrnn.forecasting.one_series import OneSeries, shown_time

_FAR_CODE = 10
_LARGE_STEP, _LARGE_TIME = 60, 1e8
"""Numbers as large, and as far apart, may be seconds since 1970: 1e8 was in 1973."""


def describe_panel(panel: Sequence[OneSeries]) -> list[str]:
    """What was done to the rows of a panel, in sentences.

    >>> from jaxrnn.forecasting import read_panel
    >>> frame = {"ds": ["2024-01-03", "2024-01-02", "2024-01-01", "2024-01-05"], "y": [3.0, 2.0, 1.0, 5.0]}
    >>> for sentence in describe_panel(read_panel(frame)):
    ...     print(sentence)
    the rows of 1 series ('value') were not in the order of their dates: they were sorted
    1 steps of 1 series ('value') have no row: their values count as missing
    """
    said = []
    for what, counts in (
        (
            "the rows of {where} were not in the order of their dates: they were sorted",
            _repairs(panel, "unsorted"),
        ),
        ("{n} rows of {where} were combined with others of the same date", _repairs(panel, "combined")),
        ("{n} steps of {where} have no row: their values count as missing", _repairs(panel, "inserted")),
        (
            "{n} values of {where} are missing: the network is told so, and does not learn to forecast them",
            [int((~one.observed).sum()) - one.repairs.inserted - len(one.repairs.far) for one in panel],
        ),
        (
            "the last {n} rows of {where} have no value: they are left out, and the forecast begins after the "
            "last value",
            _repairs(panel, "cut"),
        ),
        (
            "the times of {where} have no common step: each row is taken as a step, and the forecast goes on with "
            "the median distance",
            _repairs(panel, "irregular"),
        ),
        *(
            (
                f"the times of {{where}} vary a little, so they were rounded to {unit}",
                [int(one.repairs.unit == unit) for one in panel],
            )
            for unit in dict.fromkeys(one.repairs.unit for one in panel if one.repairs.unit)
        ),
    ):
        named = [one.name for one, count in zip(panel, counts) if count > 0]
        if named:
            more = ", ..." if len(named) > 3 else ""
            where = f"{len(named)} series ({', '.join(map(repr, named[:3]))}{more})"
            said.append(what.format(n=sum(counts), where=where))
    said += [f"column 'ds': {note}" for note in dict.fromkeys(one.repairs.dates for one in panel) if note]
    left_out = [one for one in panel if one.repairs.far]
    if left_out:
        one, (place, value) = left_out[0], left_out[0].repairs.far[0]
        count = sum(len(one.repairs.far) for one in left_out)
        more = f", and so are {count - 1} more such values of {len(left_out)} series" if count > 1 else ""
        time = shown_time(one.times[place])
        said.append(
            f"series {one.name!r} has the value {value:g} at {time}, more than {FAR} times "
            f"as far from the others as they are from each other: it is left out, as if it were missing{more}"
        )
    counted = [one for one in panel if one.step.unit == "steps" and one.step.size >= _LARGE_STEP]
    if counted and abs(int(counted[0].times[0])) > _LARGE_TIME:
        one = counted[0]
        said.append(
            f"the times of series {one.name!r}, as {one.times[0]}, are read as numbers, {one.step.size} apart: if "
            f"they count seconds or milliseconds, give them as dates, so that hour, weekday and month are known"
        )
    coded = [(one, code) for one in panel if (code := _code(one)) is not None]
    if coded:
        one, code = coded[0]
        count = int((one.values == code).sum())
        more = f"; {len(coded) - 1} more series have such values" if len(coded) > 1 else ""
        said.append(
            f"series {one.name!r} has the value {code:g} {count} times, far from all others: if it "
            f"stands for a missing value, leave these cells empty{more}"
        )
    return said


def _code(one: OneSeries) -> float | None:
    """A number of nines such as -999 or 9999 that occurs several times and lies far from all other values."""
    known = one.values[one.observed]
    for edge in (float(known.min()), float(known.max())):
        others = known[known != edge]
        if set(f"{abs(edge):.0f}") != {"9"} or abs(edge) < 999 or not 1 < len(known) - len(others) < len(known):
            continue
        center = np.median(others)
        if abs(edge - center) > _FAR_CODE * np.abs(others - center).max():
            return edge
    return None


def _repairs(panel: Sequence[OneSeries], name: str) -> list[int]:
    return [getattr(one.repairs, name) for one in panel]
