"""What was done to the rows of a panel when it was read, in sentences."""

from collections.abc import Sequence

import numpy as np

from jaxrnn.forecasting.panel import OneSeries, shown_time


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
            [int((~one.observed).sum()) - one.repairs.inserted for one in panel],
        ),
    ):
        named = [one.name for one, count in zip(panel, counts) if count > 0]
        if named:
            more = ", ..." if len(named) > 3 else ""
            where = f"{len(named)} series ({', '.join(map(repr, named[:3]))}{more})"
            said.append(what.format(n=sum(counts), where=where))
    late = [one for one in panel if not one.observed[-1]]
    if late:
        said.append(
            f"the last values of {len(late)} series ({late[0].name!r}) are missing: their forecasts begin after "
            f"{shown_time(late[0].times[-1])}, the last row"
        )
    far = [(one, place) for one in panel if (place := _far_away(one)) is not None]
    if far:
        one, place = far[0]
        more = f", and {len(far) - 1} more series have such values" if len(far) > 1 else ""
        said.append(
            f"series {one.name!r} has the value {one.values[place]:g} at {shown_time(one.times[place])}, more "
            f"than {FAR} times as far from the others as they are from each other{more}: if it is an error, "
            f"leave it empty, for it also changes the forecast"
        )
    return said


FAR = 1000


def _far_away(one: OneSeries) -> int | None:
    """The place of the value that lies much farther from the median than nine of ten others do, or None."""
    known = one.values[one.observed]
    distances = np.abs(one.values - np.median(known)) * one.observed
    usual = np.quantile(np.abs(known - np.median(known)), 0.9)
    place = int(distances.argmax())
    return place if usual > 0 and distances[place] > FAR * usual else None


def _repairs(panel: Sequence[OneSeries], name: str) -> list[int]:
    return [getattr(one.repairs, name) for one in panel]
