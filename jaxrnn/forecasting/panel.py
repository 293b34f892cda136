"""Many series of different lengths as one: read from data frames, dictionaries or arrays, and written back.

A frame in long format has a row for each series and time: the columns ``unique_id``, ``ds`` (dates or whole
numbers) and ``y``. Pandas and polars frames are taken, and any mapping from these names to arrays. A mapping
from the name of each series to its values is taken too.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxrnn.data import (
    AGGREGATES,
    DAYS,
    WEEKDAYS,
    KnownTimes,
    Step,
    check_aggregate,
    combine,
    filled,
    regular_times,
    same_dates,
)
from jaxrnn.data.utc_offsets import Dates
from jaxrnn.forecasting.far_values import LARGEST, far_values
from jaxrnn.forecasting.frame_columns import (
    array_of,
    names_of,
    numbers_of,
    numbers_or_text,
    times_of,
    with_dates_of_index,
)
from jaxrnn.forecasting.one_series import Columns, OneSeries, Repairs, shown_time, usual_unit

COLUMNS = ("unique_id", "ds", "y")

_REMEDY = f"choose how they are combined with read_panel(aggregate=...) (--aggregate): {', '.join(AGGREGATES)}"
_FEW = 3
_MOST_GAPS = 10
_FARTHER = 1.5  # than the rows of the training
"""More missing steps than so many times the rows are taken for a wrong date."""


def read_panel(
    frame: Any,
    *,
    aggregate: str | None = None,
    columns: Columns = Columns(),  # noqa: B008  a named tuple cannot be changed
    rows: Sequence[int] | np.ndarray | None = None,
    with_values: bool = True,
    known: KnownTimes = KnownTimes(),  # noqa: B008
) -> list[OneSeries]:
    """The series of a frame in long format, of a mapping from names to values, or of one array.

    Rows are sorted by their times. Steps without a row get one, whose value is missing. A series ends with its
    last value. Single values that are absurdly far from all others of their series (see
    :func:`jaxrnn.forecasting.far_values.far_values`) count as missing.

    Args:
      frame: the frame; a panel that was read before is returned as it is. Dates in the index of a pandas frame or
        series, or of all series of a dictionary, stand for a column ``ds``. Masked values are missing.
      aggregate: how rows of one series with one time are combined, for example ``"sum"``, ``"mean"`` or ``"last"``
        (see :data:`jaxrnn.data.AGGREGATES`). Numbers of further columns take their mean. None makes it an error.
      columns: further columns to read. If there are any that are known in advance, rows after the last known ``y``
        of a series give their values for the steps to forecast.
      rows: the numbers by which an error names the rows; the default counts them from 0.
      with_values: False reads a frame without ``y``, which gives columns that are known in advance.
      known: the times that a model was trained on. Series whose rows are farther apart than those of any of its
        series have its most frequent step, with steps without a row, if most steps have one; the default is the
        most frequent step of all series, for those with up to three rows. Times with a UTC offset are converted to
        its offset.

    Raises:
      ValueError: a column is missing, a value is not a number, a date does not parse, two rows of one series have
        one date, a series has no values, or the names of a dictionary may be those of series or of columns.

    >>> frame = {"unique_id": ["a", "a", "b"], "ds": ["2024-01-01", "2024-02-01", "2024-01-01"], "y": [1, 2, 3]}
    >>> [(one.name, one.values.tolist()) for one in read_panel(frame)]
    [('a', [1.0, 2.0]), ('b', [3.0])]
    >>> read_panel(np.arange(3.0))[0].name
    'value'
    """
    check_aggregate(aggregate)
    if isinstance(frame, list) and frame and all(isinstance(one, OneSeries) for one in frame):
        return list(frame)
    frame = with_dates_of_index(frame, columns.all)
    listed = getattr(frame, "columns", None)
    if listed is None and not isinstance(frame, Mapping):
        _no_columns(columns)
        if isinstance(frame, (str, Path)):
            raise ValueError(f"series are given as a frame or arrays: read the file {str(frame)!r} first")
        return [_of_array("value", array_of(frame))]
    table: Any = frame
    names = list(table) if listed is None else list(listed)
    if with_values and "y" not in names:
        if listed is not None or {"unique_id", "ds"} & set(names):
            raise ValueError(f"the frame has the columns {names}, but needs unique_id, ds and y")
        _no_columns(columns)
        if not names:
            raise ValueError("the dictionary holds no series: give it names and arrays of values")
        return [_of_array(str(name), array_of(values)) for name, values in table.items()]
    if listed is None and with_values and not {"unique_id", "ds"} & set(names):
        _no_other_series(names, columns)
    missing = [name for name in columns.all if name not in names]
    if missing:
        raise ValueError(f"the frame has no column {missing[0]!r}; it has {names}")
    used = [name for name in (*COLUMNS, *columns.all) if name in names and (with_values or name != "y")]
    counts = {name: len(np.atleast_1d(array_of(table[name]))) for name in used}
    if len(set(counts.values())) > 1:
        raise ValueError(f"the columns must have one length, but have {counts}")
    count = next(iter(counts.values()), 0)
    if not count:
        raise ValueError(f"the frame with the columns {names} has no rows")
    ids = names_of(array_of(table["unique_id"])) if "unique_id" in names else np.full(count, "value")
    dates = times_of(table["ds"], known) if "ds" in names else None
    times = None if dates is None else dates.times
    y = numbers_of("y", array_of(table["y"]), ids) if with_values else np.full(count, np.nan)
    further = {name: numbers_or_text(name, array_of(table[name]), ids) for name in columns.all}
    rows = np.arange(count) if rows is None else np.asarray(rows)
    groups, first, group = np.unique(ids, return_index=True, return_inverse=True)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    parts = []
    for place in np.argsort(first):
        here = members[place]
        mine = {"y": y[here], **{name: values[here] for name, values in further.items()}}
        parts.append(
            _ordered(
                str(groups[place]), mine, None if times is None else times[here], rows[here], aggregate, known.unit
            )
        )
    parts = [_in_known_steps(part, known) for part in parts]
    usual = _usual_step(parts) if known.step is None else known.step
    panel = [_series(part, columns, usual, with_values) for part in parts]
    return panel if dates is None else [_with_dates(one, dates) for one in panel]


def read_future(frame: Any, columns: Columns, panel: Sequence[OneSeries]) -> list[OneSeries]:
    """The columns of a frame without ``y`` that are known in advance, at the times that it has.

    These are read as those of ``panel``, which they continue.
    """
    return read_panel(frame, columns=Columns(columns.future), with_values=False, known=continued(panel))


def continued(panel: Sequence[OneSeries]) -> KnownTimes:
    """What is known of the times of rows that continue a panel."""
    return KnownTimes(tuple(dict.fromkeys(one.step for one in panel)), panel[0].utc_offset, usual_unit(panel))


def _with_dates(one: OneSeries, dates: Dates) -> OneSeries:
    return replace(one, utc_offset=dates.utc_offset, repairs=one.repairs._replace(dates=dates.note or ""))


def _no_other_series(names: Sequence[str], columns: Columns) -> None:
    """Raise a ValueError if the names of a dictionary with ``y`` may as well be those of series."""
    others = [name for name in names if name != "y" and name not in columns.all]
    if others:
        raise ValueError(
            f"the dictionary has 'y' and {others[0]!r}, which may be two series, or a column to forecast and "
            f"another column. If they are series, give 'y' another name. If {others[0]!r} is a column, name it in "
            f"future_columns, past_columns or static_columns, or leave it out"
        )


def _no_columns(columns: Columns) -> None:
    if columns.all:
        raise ValueError(f"the columns {columns.all} need a frame with unique_id, ds and y, not arrays of values")


@dataclass(frozen=True)
class _Part:
    """The rows of one series in the order of their times, one for each time."""

    name: str
    columns: dict[str, np.ndarray]
    times: np.ndarray
    step: Step | None
    repairs: Repairs


def _ordered(
    name: str,
    columns: dict[str, np.ndarray],
    times: np.ndarray | None,
    rows: np.ndarray,
    aggregate: str | None,
    unit: str,
) -> _Part:
    if times is None:
        return _Part(name, columns, np.arange(len(rows)), Step("steps", 1), Repairs())
    unsorted = int((np.diff(times.astype(np.int64)) < 0).sum())
    order = np.argsort(times, kind="stable")
    times, rows = times[order], rows[order]
    columns = {key: values[order] for key, values in columns.items()}
    first = np.flatnonzero(np.concatenate([[True], times[1:] != times[:-1]]))
    combined = len(times) - len(first)
    if combined:
        if aggregate is None:
            place = int(np.flatnonzero(times[1:] == times[:-1])[0])
            pair = rows[place], rows[place + 1]
            hours = times.dtype.kind == "M" and (times != times.astype("datetime64[D]")).any()
            time = str(times[place]) if hours else shown_time(times[place])
            raise same_dates(f"series {name!r}: ", "ds", time, pair, combined - 1, _REMEDY)
        columns = {
            key: combine(values, first, aggregate if key == "y" else "mean") for key, values in columns.items()
        }
        times = times[first]
    regular = regular_times(times, unit)
    return _Part(name, columns, regular.times, regular.step, Repairs(unsorted, combined, unit=regular.unit))


def _usual_step(parts: list[_Part]) -> Step | None:
    """The most frequent step of all series, for those that are too short to tell, or have none in common."""
    steps = Counter(part.step for part in parts if part.step is not None)
    return steps.most_common(1)[0][0] if steps else None


def _in_known_steps(part: _Part, known: KnownTimes) -> _Part:
    """A part whose step is the known one, if its own is larger, or it has none, and its rows fit.

    A step that a known series has stays as it is. Days from Monday to Friday are else days without weekends.
    """
    if known.step is None or part.step in known.steps or not _fits(part.times, known.step):
        return part
    farther = part.step is None or part.step.length >= _FARTHER * known.step.length
    return replace(part, step=known.step) if farther or part.step == WEEKDAYS else part


def _series(part: _Part, columns: Columns, usual: Step | None, with_values: bool) -> OneSeries:
    times, values, step = part.times, part.columns, part.step
    # Too few rows show no step, and a week or two without a weekend not that there is none.
    unsure = len(times) <= _FEW or (usual == WEEKDAYS and step == DAYS)
    if usual is not None and unsure and _fits(times, usual):
        step = usual
    if step is None:  # no common step: rows are steps, and the forecast goes on with the usual distance
        unit, size = ("steps", 1) if times.dtype.kind == "i" else ("seconds", 86_400)
        if len(times) > 1:
            size = max(int(np.median(np.diff(times).astype(np.int64))), 1)
        step = Step(unit, size)
        places = np.arange(len(times))
        part = replace(part, repairs=part.repairs._replace(irregular=len(times) > 2))
    else:
        found = step.places(times)
        places = np.arange(len(times)) if found is None else found
    count = int(places[-1]) + 1
    inserted = count - len(places)
    if inserted > _MOST_GAPS * len(places) + 100:
        gap = int(np.argmax(np.diff(places)))
        raise ValueError(
            f"series {part.name!r}: {inserted} steps are missing, most of them between "
            f"{shown_time(times[gap])} and {shown_time(times[gap + 1])}: is one of the two dates wrong?"
        )
    if inserted:
        values = {key: _spread(one, places, count) for key, one in values.items()}
        times = np.concatenate([times[:1], step.after(times[0], count - 1)])
    if not with_values:
        y = values["y"]
        future = {name: values[name] for name in columns.future}
        return OneSeries(part.name, y, np.isfinite(y), times, step, future, repairs=part.repairs)
    known = np.flatnonzero(np.isfinite(values["y"]))
    if not len(known):
        raise ValueError(f"series {part.name!r}: y must have a finite value, not only missing ones")
    end = int(known[-1]) + 1  # rows after the last value can only tell what is known in advance
    within = int((places < end).sum())
    cut = 0 if columns.future else len(places) - within
    y, far = _without_far(part.name, values["y"][:end], times)
    return OneSeries(
        part.name,
        filled(y),
        np.isfinite(y),
        times[:end],
        step,
        {name: values[name] for name in columns.future},
        {name: values[name][:end] for name in columns.past},
        {name: _one_value(part.name, name, values[name]) for name in columns.static},
        part.repairs._replace(inserted=end - within, cut=cut, far=far),
    )


def _fits(times: np.ndarray, step: Step) -> bool:
    """Whether a few times lie on different steps, and most steps between them have one."""
    if (times.dtype.kind == "M") != (step.unit != "steps"):
        return False
    places = step.places(times)
    return places is not None and bool((np.diff(places) > 0).all() and places[-1] < 2 * len(places))


def _without_far(
    name: str, values: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, tuple[tuple[int, float], ...]]:
    """The values with NaN for those that are absurdly far from all others, and the places and values of these."""
    far = np.flatnonzero(far_values(values))
    kept = values.copy()
    kept[far] = np.nan
    sizes = np.where(np.isfinite(kept), np.abs(kept), 0)
    place = int(np.argmax(sizes))
    if sizes[place] > LARGEST or 0 < sizes[place] < 1 / LARGEST:
        raise ValueError(
            f"series {name!r}: y holds {kept[place]:g} at {shown_time(times[place])}, but its largest value must "
            f"lie between {1 / LARGEST:g} and {LARGEST:g}: give the column in another unit"
        )
    return kept, tuple((int(place), float(values[place])) for place in far)


def _spread(values: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    whole = np.full(count, "" if values.dtype.kind == "U" else np.nan, values.dtype)
    whole[places] = values
    return whole


def _one_value(series: str, name: str, values: np.ndarray) -> Any:
    known = values[values != ""] if values.dtype.kind == "U" else values[np.isfinite(values)]
    different = np.unique(known)
    if len(different) != 1:
        what = f"holds {different[0].item()!r} and {different[1].item()!r}" if len(different) else "has no value"
        raise ValueError(
            f"series {series!r}: the static column {name!r} {what}; it needs one value for the series"
        )
    return different[0].item()


def _of_array(name: str, values: np.ndarray) -> OneSeries:
    """A series without times. Missing values at its end are steps, too: an array has no other way to say so."""
    if values.ndim != 1:
        raise ValueError(f"series {name!r}: y must be [time], one value for each step, not {values.shape=}")
    values = numbers_of("y", values, np.full(len(values), name))
    if not np.isfinite(values).any():
        raise ValueError(f"series {name!r}: y must have a finite value, not {len(values)} missing ones")
    times = np.arange(len(values))
    kept, far = _without_far(name, values, times)
    return OneSeries(name, filled(kept), np.isfinite(kept), times, Step("steps", 1), repairs=Repairs(far=far))
