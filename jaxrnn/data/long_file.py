"""CSV files of one series or many in long format: a row for each series and time."""

import itertools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrnn.checks import shown
from jaxrnn.data.cells import (
    STEP_NAMES,
    TIME_NAMES,
    Cells,
    Times,
    column_named,
    column_numbers,
    find_times,
    has_numbers,
    listed,
    read_cells,
    times_by_content,
    times_in,
)
from jaxrnn.data.dates import KnownTimes
from jaxrnn.data.numbers import MISSING, is_number

_MISTAKES = 0.1
"""Of the cells of a column of numbers, at most so many are something else by mistake."""


class LongRows(NamedTuple):
    """The rows of a file, in its order.

    Attributes:
      columns: ``unique_id`` as text, ``ds`` as dates or whole numbers, ``y`` as float64 with NaN where a value is
        missing, and the further columns: float64, or text. ``unique_id`` and ``ds`` only if the file has them.
      lines: int ``[rows]``, the number of each row's line.
      notes: what was done to read them, in sentences.
      utc_offset: that of the times, see :class:`jaxrnn.data.utc_offsets.Dates`.
    """

    columns: dict[str, np.ndarray]
    lines: np.ndarray
    notes: tuple[str, ...]
    utc_offset: int | None = None


def read_long(
    path: Path,
    *,
    unique_id: str | None = None,
    time: str | None = None,
    value: str | None = None,
    further: Sequence[str] = (),
    with_values: bool = True,
    known: KnownTimes = KnownTimes(),  # noqa: B008  a named tuple cannot be changed
    texts: Collection[str] = (),
) -> LongRows:
    """Read a CSV file of one series or of many.

    Args:
      path: the file. Separator, number format, encoding and date format are found from its content.
      unique_id: the column that tells which series a row belongs to; by default ``unique_id``, if there is one.
      time: the column of dates or of whole numbers; by default ``ds``, or the one that holds dates. Dates in a
        column that no name points out are used only if each row of a series has its own.
      value: the column to forecast; by default ``y``, or the only numeric one.
      further: other columns to read. They are numbers if nine tenths of their cells are, so that a few others are
        named as mistakes, and otherwise text.
      with_values: False reads no column of values.
      known: what is known of the times.
      texts: further columns that are text, whatever these rows hold, because they are text in the training: there
        ``none`` may be a category, which otherwise is a missing number.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: a column is unknown, or a cell is not a number or a date; the message names file, row and column.
    """
    cells = read_cells(path)
    if unique_id is not None and unique_id not in cells.header:
        raise ValueError(
            f"unknown column {unique_id!r}; available in {path}: {listed(cells.header)}. If the file holds a "
            f"single series, leave out --id-column"
        )
    _check_names(cells, [name for name in (unique_id, time, value, *further) if name is not None])
    if unique_id is None and "unique_id" in cells.header:
        unique_id = "unique_id"
    used = [name for name in (unique_id, *further) if name is not None]
    columns: dict[str, np.ndarray] = {}
    notes = list(cells.notes)
    if unique_id is not None:
        columns["unique_id"] = _ids(cells, unique_id)
    times = _times(cells, time, [*used, value], known)
    if times is None and time is None:
        times, said = times_by_content(cells, [*used, value], known)
        if times is not None and (said := _repeated(cells, times, columns.get("unique_id"))):
            times = None
        notes += said
    if times is None and (named := [name for name in cells.header if name.lower() in TIME_NAMES]):
        example = next((cell for cell in cells.column(cells.header.index(named[0])) if cell), "")
        notes.append(
            f"the column {named[0]!r} is not read as dates, since not all of its cells are dates of one format "
            f"(the first is {shown(example)}): rows are taken in the order of the file, and numbered. If it holds "
            f"whole numbers that count the steps, name it with --time-column"
        )
    if times is not None:
        columns["ds"] = times.values
        notes += times.notes
    if with_values:
        if value is None and "y" in cells.header:
            value = "y"
        name = column_named(cells, value, times, besides=used)
        columns["y"], said = column_numbers(cells, name)
        notes += said
    for name in further:
        columns[name], said = _numbers_or_text(cells, name, text=name in texts)
        notes += said
    return LongRows(columns, np.array(cells.lines), tuple(notes), None if times is None else times.utc_offset)


def _numbers_or_text(cells: Cells, name: str, *, text: bool) -> tuple[np.ndarray, list[str]]:
    """A further column, and what to say about it; see :func:`read_long`."""
    column = np.array(cells.column(cells.header.index(name)))
    if text:
        return column, []
    present = [place for place, cell in enumerate(column.tolist()) if cell.lower() not in MISSING]
    others = [place for place in present if not is_number(str(column[place]))]
    if len(others) <= _MISTAKES * len(present):
        return column_numbers(cells, name)
    if len(others) == len(present):
        return column, []
    row, cell = cells.lines[others[0]], shown(str(column[others[0]]))
    return column, [f"column {name!r} holds numbers and text: it is read as text (row {row} holds {cell})"]


def _check_names(cells: Cells, names: Sequence[str]) -> None:
    for name in names:
        if name not in cells.header:
            raise ValueError(f"unknown column {name!r}; available in {cells.path}: {listed(cells.header)}")
        if cells.header.count(name) > 1:
            raise ValueError(
                f"{cells.path} has {cells.header.count(name)} columns named {name!r}: rename all but one"
            )


def _times(cells: Cells, time: str | None, wanted: Sequence[str | None], known: KnownTimes) -> Times | None:
    if time is None and "ds" in cells.header:
        time = "ds"
    if time is None:
        return find_times(cells, wanted, known)
    place = cells.header.index(time)
    found = times_in(cells, place, named=True, known=known)
    if found is None:
        example = next((cell for cell in cells.column(place) if cell), "")
        raise ValueError(
            f"{cells.path}, column {time!r} must hold dates or whole numbers, but holds {shown(example)}"
        )
    return found


def _repeated(cells: Cells, times: Times, ids: np.ndarray | None) -> tuple[str, ...]:
    """What to say about dates that nobody has named, if two rows of a series have the same."""
    rows: dict[tuple[object, object], int] = {}
    for row, key in enumerate(zip(itertools.repeat("") if ids is None else ids.tolist(), times.values.tolist())):
        if (first := rows.setdefault(key, row)) != row:
            return (
                f"column {times.name!r} holds dates, but rows {cells.lines[first]} and {cells.lines[row]} have "
                f"the same, so it is not used: rows are taken in the order of the file, and numbered. If the file "
                f"holds several series, name their column with --id-column; --time-column {times.name} uses the "
                f"dates",
            )
    return ()


def _ids(cells: Cells, unique_id: str) -> np.ndarray:
    ids = cells.column(cells.header.index(unique_id))
    if "" in ids:
        row = cells.lines[ids.index("")]
        raise ValueError(f"{cells.path}, row {row} has no {unique_id!r}: give the name of its series")
    return np.array(ids)


def column_names(path: Path | str) -> list[str]:
    """The names of the columns of a CSV file."""
    return read_cells(Path(path)).header


def columns_of_names(path: Path | str, times: np.ndarray) -> list[str]:
    """The columns that may hold the names of series, for a hint in an error message; columns of text come first.

    Args:
      path: a CSV file.
      times: the time of each row. Rows of one time are of different series.
    """
    cells = read_cells(Path(path))
    found: dict[str, bool] = {}
    for place, name in enumerate(cells.header):
        column = cells.column(place)
        different = len(set(column))
        apart = len(set(zip(times.tolist(), column))) == len(column)
        if apart and 2 * different <= len(column) and name.lower() not in TIME_NAMES | STEP_NAMES:
            found[name] = has_numbers(cells, place)
    return sorted(found, key=found.__getitem__)
