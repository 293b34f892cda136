"""CSV files as people have them: separators, number formats, dates out of order, gaps and missing values.

What can be handled without doubt is handled, and a note says so. What cannot is an error that names the row.
The file is read row by row, because data-frame libraries drop the line numbers and guess the format of each
date by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxrnn.data.cells import (
    TIME_NAMES,
    Cells,
    Times,
    column_named,
    column_numbers,
    find_times,
    is_whole,
    read_cells,
    times_by_content,
)
from jaxrnn.data.dates import Step
from jaxrnn.data.numbers import carried, read_number
from jaxrnn.data.regular_times import regular_times
from jaxrnn.data.rows import same_dates

_MOST_MISSING = 0.5
_FOUR_DIGITS = 1000
_REMEDY = "add them up (a forecast with --horizon can do that: --aggregate)"


@dataclass(frozen=True)
class Table:
    """The wanted columns of a file, one row for each step.

    Attributes:
      columns: their names.
      values: float64 ``[time, columns]``, finite; a missing value is the last one before it.
      observed: bool ``[time, columns]``; False where a value was missing.
      times: ``datetime64[s]`` or integers ``[time]``; None if the file has no dates.
      step: the step between them; None if there is none in common, or no dates.
      notes: what was done to the rows, in sentences.
    """

    columns: tuple[str, ...]
    values: np.ndarray
    observed: np.ndarray
    times: np.ndarray | None = None
    step: Step | None = None
    notes: tuple[str, ...] = ()


def read_csv(path: Path, wanted: Sequence[str | None], *, dates: bool = True) -> Table:
    """Read the wanted columns of a CSV file with a header.

    A wanted column of None means the only numeric one. Rows are put in the order of their dates, and a missing
    date gets a row. The table begins and ends with a value of the first column. A missing value is the last one
    before it, so that no row holds what was not known at its time; in a further column that begins later, it is
    the first one. The notes say what was done. Without ``dates``, the rows stay in their order.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: it is not a table, a column is unknown, a cell is not a number or a date, two rows have one date,
        or more than half of the values are missing. The message names the file, the line number and the column.
    """
    cells = read_cells(path)
    times = find_times(cells, wanted) if dates else None
    if times is not None or not dates:
        return _table(cells, wanted, times)
    times, notes = times_by_content(cells, wanted)
    if times is None:
        times = _numbers_that_order(cells, wanted)
    if times is None:
        return _table(cells, wanted, None, (*notes, *_unread_dates(cells, wanted)))
    try:
        return _table(cells, wanted, times)
    except ValueError as error:
        note = f"the dates of column {times.name!r} are not used, and the rows are steps in the order of the file"
        return _table(cells, wanted, None, (f"{note}: {error}",))


def _table(cells: Cells, wanted: Sequence[str | None], times: Times | None, notes: Sequence[str] = ()) -> Table:
    """The wanted columns, in the order of the times if there are any."""
    columns = tuple(column_named(cells, name, times) for name in wanted)
    values = np.empty((len(cells.rows), len(columns)))
    said = list(cells.notes)
    for place, name in enumerate(columns):
        values[:, place], more = column_numbers(cells, name)
        said += more
    table = Table(columns, values, np.isfinite(values), notes=(*said, *notes))
    return _without_gaps(cells.path, table if times is None else _in_order(cells, table, times))


def _in_order(cells: Cells, table: Table, index: Times) -> Table:
    """The rows in the order of their times. Raises a ValueError if two have the same time."""
    order = np.argsort(index.values, kind="stable")
    times, lines = index.values[order], np.array(cells.lines)[order]
    notes = [*table.notes, *index.notes]
    same = np.flatnonzero(times[1:] == times[:-1])
    if len(same):
        i = int(same[0])
        raise same_dates(
            f"{cells.path}, ", repr(index.name), _day(times[i]), (lines[i], lines[i + 1]), len(same) - 1, _REMEDY
        )
    if len(order) > 1 and (order[::-1] == np.arange(len(order))).all():
        notes.append(f"the newest row came first: the rows were put in the order of {index.name!r}")
    elif (np.diff(order) < 0).any():
        i = int(np.flatnonzero(np.diff(order) != 1)[0])
        notes.append(
            f"the rows were not in the order of {index.name!r} (row {lines[i + 1]} follows row {lines[i]} in time)"
            f": they were sorted"
        )
    found = regular_times(times)
    if found.unit:
        notes.append(f"the times vary a little, so they were rounded to {found.unit}")
    return replace(table, values=table.values[order], times=found.times, step=found.step, notes=tuple(notes))


def _without_gaps(path: Path, table: Table) -> Table:
    """A row for each step from the first value to the last, with missing values filled in."""
    table = _from_first_to_last(path, table)
    values, times, step, notes = table.values, table.times, table.step, list(table.notes)
    for j, name in enumerate(table.columns):
        if missing := int(np.isnan(values[:, j]).sum()):
            _check_missing(path, missing, len(values), f"values of column {name!r}")
            notes.append(
                f"{missing} values of column {name!r} are missing: {_FILLED}{_UNCOUNTED if not j else ''}"
            )
    if times is not None and step is None and len(times) > 2:
        notes.append("the dates have no common step: the rows were taken as steps of equal length")
    elif times is not None and step is not None and (places := step.places(times)) is not None:
        count = int(places[-1]) + 1
        if gaps := count - len(places):
            _check_missing(path, gaps, count, "dates")
            before = _day(times[int(np.argmax(np.diff(places) > 1))])
            notes.append(f"{gaps} dates are missing, the first after {before}: {_FILLED}{_UNCOUNTED}")
            whole = np.full((count, values.shape[1]), np.nan)
            whole[places] = values
            values, times = whole, np.concatenate([times[:1], step.after(times[0], count - 1)])
    whole = np.stack([carried(column) for column in values.T], axis=1)
    return Table(table.columns, whole, np.isfinite(values), times, step, tuple(notes))


_FILLED = "the last value before stands in for each"
_UNCOUNTED = ", and they do not count in any error"


def _from_first_to_last(path: Path, table: Table) -> Table:
    """The rows from the first to the last value of the first column: there is nothing to forecast in others."""
    name, count = table.columns[0], len(table.values)
    known = np.flatnonzero(np.isfinite(table.values[:, 0]))
    if not len(known):
        _check_missing(path, count, count, f"values of column {name!r}")
    first, end = int(known[0]), int(known[-1]) + 1
    notes = list(table.notes)
    if first:
        notes.append(
            f"the first {first} rows have no value of column {name!r}: they are left out, and step 0 is the first "
            f"value"
        )
    if end < count:
        notes.append(
            f"the last {count - end} rows have no value of column {name!r}: they are left out, and the series "
            f"ends with its last value"
        )
    times = None if table.times is None else table.times[first:end]
    return replace(
        table,
        values=table.values[first:end],
        observed=table.observed[first:end],
        times=times,
        notes=tuple(notes),
    )


def _check_missing(path: Path, missing: int, count: int, what: str) -> None:
    if missing > _MOST_MISSING * count:
        raise ValueError(f"{path}: {missing} of {count} {what} are missing, which are too many to fill in")


def _day(time: np.generic) -> str:
    return str(time).removesuffix("T00:00:00")


def _numbers_that_order(cells: Cells, wanted: Sequence[str | None]) -> Times | None:
    """The order of the rows by whole numbers in a column whose name promises dates, such as years.

    What lies between two of the numbers is not known, as in 202452 and 202501, which are weeks: so they only
    order the rows. None if the rows are in this order, or if the numbers may begin again, as days of a month do.
    """
    for place, name in enumerate(cells.header):
        column = cells.column(place)
        if name in wanted or name.lower() not in TIME_NAMES or not all(map(is_whole, column)):
            continue
        numbers = np.array([int(cell) for cell in column])
        distinct, places = np.unique(numbers, return_inverse=True)
        changes = np.diff(places)
        newest_first = bool((changes < 0).all())
        if len(distinct) == len(column) and (changes < 0).any() and (newest_first or distinct[0] >= _FOUR_DIGITS):
            return Times(place, name, places)
    return None


def _unread_dates(cells: Cells, wanted: Sequence[str | None]) -> Iterator[str]:
    """What to say if a column has a name that promises dates, but holds none, and no numbers in order."""
    for place, name in enumerate(cells.header):
        if name.lower() in TIME_NAMES and name not in wanted:
            numbers = [read_number(cell) for cell in cells.column(place)]
            if None in numbers or not (np.diff(np.array(numbers, np.float64)) >= 0).all():
                yield f"column {name!r} was not read as dates: the rows are steps in the order of the file"
