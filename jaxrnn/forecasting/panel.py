"""Many series of different lengths as one: read from data frames, dictionaries or arrays, and written back.

A frame in long format has a row for each series and time: the columns ``unique_id``, ``ds`` (dates or whole
numbers) and ``y``. Pandas and polars frames are taken, and any mapping from these names to arrays. A mapping
from the name of each series to its values is taken too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrnn.data import Step, filled, infer_step, read_dates

COLUMNS = ("unique_id", "ds", "y")


@dataclass(frozen=True)
class OneSeries:
    """A series of a panel.

    Attributes:
      name: its unique_id.
      values: float64 ``[time]``; missing values lie on the line between their neighbours.
      observed: bool ``[time]``; False where a value was missing.
      times: the time of each value, ``datetime64[s]`` or whole numbers.
      step: the step to the next one.
    """

    name: str
    values: np.ndarray
    observed: np.ndarray
    times: np.ndarray
    step: Step


def read_panel(frame: Any) -> list[OneSeries]:
    """The series of a frame in long format, of a mapping from names to values, or of one array.

    Raises:
      ValueError: a column is missing, a value is not a number, a date does not parse, two rows of one series have
        one date, or a series has no values.

    >>> frame = {"unique_id": ["a", "a", "b"], "ds": ["2024-01-01", "2024-02-01", "2024-01-01"], "y": [1, 2, 3]}
    >>> [(one.name, one.values.tolist()) for one in read_panel(frame)]
    [('a', [1.0, 2.0]), ('b', [3.0])]
    >>> read_panel(np.arange(3.0))[0].name
    'value'
    """
    columns = getattr(frame, "columns", None)
    if columns is None and not isinstance(frame, Mapping):
        return [_series("value", np.asarray(frame), None)]
    names = list(frame) if columns is None else list(columns)
    if "y" not in names:
        if columns is not None:
            raise ValueError(f"the frame has the columns {names}, but needs unique_id, ds and y")
        return [_series(str(name), np.asarray(values), None) for name, values in frame.items()]
    y = np.asarray(frame["y"])
    ids = np.asarray(frame["unique_id"]).astype(str) if "unique_id" in names else np.full(len(y), "value")
    times = _times(np.asarray(frame["ds"])) if "ds" in names else None
    groups, first = np.unique(ids, return_index=True)
    result = []
    for name in groups[np.argsort(first)]:
        rows = np.flatnonzero(ids == name) if len(groups) > 1 else np.arange(len(y))
        result.append(_series(str(name), y[rows], None if times is None else times[rows]))
    return result


def _times(times: np.ndarray) -> np.ndarray:
    if times.dtype.kind == "M":
        return times.astype("datetime64[s]")
    if times.dtype.kind in "iu":
        return times.astype(np.int64)
    texts = [str(time) for time in times]
    if all(text.removeprefix("-").isdecimal() for text in texts):
        return np.array(texts, np.int64)
    dates = read_dates(texts)
    if dates is None:
        raise ValueError(f"the column ds must hold dates or whole numbers, not {texts[0]!r}")
    return dates


def _series(name: str, values: np.ndarray, times: np.ndarray | None) -> OneSeries:
    try:
        values = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"series {name!r}: y must be numbers: {error}") from error
    if values.ndim != 1 or np.isinf(values).any() or not np.isfinite(values).any():
        raise ValueError(
            f"series {name!r}: y must be [time] with a finite value, not {values.shape=}, {values[:5]}"
        )
    step: Step | None = Step("steps", 1)
    if times is None:
        times = np.arange(len(values))
    else:
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
        same = np.flatnonzero(times[1:] == times[:-1])
        if len(same):
            raise ValueError(
                f"series {name!r} has two rows with ds {times[same[0]]}: keep one of them, or add them up"
            )
        step = infer_step(times)
    if step is None:
        step = Step("steps" if times.dtype.kind == "i" else "seconds", 1 if times.dtype.kind == "i" else 86_400)
        if len(times) > 1:
            step = Step(step.unit, max(int(np.median(np.diff(times).astype(np.int64))), 1))
    elif (places := step.places(times)) is not None and places[-1] + 1 > len(places):
        whole = np.full(int(places[-1]) + 1, np.nan)
        whole[places] = values
        values, times = whole, np.concatenate([times[:1], step.after(times[0], len(whole) - 1)])
    return OneSeries(name, filled(values), np.isfinite(values), times, step)


def as_frame(columns: dict[str, np.ndarray], like: Any) -> Any:
    """The columns as a frame of the kind of ``like``: pandas, polars, or the dictionary itself."""
    library = type(like).__module__.partition(".")[0]
    if library in ("pandas", "polars"):
        import importlib

        return importlib.import_module(library).DataFrame(columns)
    return columns
