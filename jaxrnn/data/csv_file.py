"""CSV files as people have them: separators, number formats, dates out of order, gaps and missing values.

What can be handled without doubt is handled, and a note says so. What cannot is an error that names the row.
The file is read row by row, because data-frame libraries drop the line numbers and guess the format of each
date by itself.
"""

import codecs
import contextlib
import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrnn.checks import shown
from jaxrnn.data.dates import NotADate, Step, infer_step, read_dates
from jaxrnn.data.numbers import MISSING, decimal_point, filled, is_number, read_number

TIME_NAMES = frozenset(
    ["ds", "date", "datum", "day", "datetime", "time", "timestamp", "month", "monat", "week", "quarter", "period"]
)
"""Names, in lower case, of columns that may hold dates wherever they stand; the first column may always."""

STEP_NAMES = frozenset(["ds", "step", "steps", "t", "time", "index", "year", "period"])
"""Names, in lower case, of columns that may hold whole numbers that count the steps."""

_MOST_MISSING = 0.5


@dataclass(frozen=True)
class Table:
    """The wanted columns of a file, one row for each step.

    Attributes:
      columns: their names.
      values: float64 ``[time, columns]``, finite; missing values lie on the line between their neighbours.
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


@dataclass(frozen=True)
class _Cells:
    """The text of a file: the header, and the rows with the numbers of their lines."""

    path: Path
    separator: str
    header: list[str]
    lines: list[int]
    rows: list[list[str]]
    notes: tuple[str, ...] = ()

    def column(self, place: int) -> list[str]:
        return [row[place].strip() for row in self.rows]


class _Times(NamedTuple):
    """The column of dates, or of whole numbers that count the steps."""

    place: int
    name: str
    values: np.ndarray


def read_csv(path: Path, wanted: Sequence[str | None], *, dates: bool = True) -> Table:
    """Read the wanted columns of a CSV file with a header.

    A wanted column of None means the only numeric one. Rows are put in the order of their dates, missing dates and
    values are filled in, and the notes say so. Without ``dates``, the rows stay as they are.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: it is not a table, a column is unknown, a cell is not a number or a date, two rows have one date,
        or more than half of the values are missing. The message names the file, the line number and the column.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the path of a CSV file with a header line")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a CSV file")
    cells = _cells(path)
    times = _times(cells, wanted) if dates else None
    columns = tuple(_column_name(cells, name, times) for name in wanted)
    table = _numbers(cells, columns)
    table = replace(table, notes=(*cells.notes, *table.notes))
    if dates and times is None:
        table = replace(table, notes=(*table.notes, *_unread_dates(cells, columns)))
    return _without_gaps(path, table if times is None else _in_order(cells, table, times))


def read_long(path: Path) -> dict[str, Any] | None:
    """The columns ``unique_id``, ``ds`` and ``y`` of a CSV file of many series; None if it has no such columns.

    Raises:
      ValueError: a value is not a number; the message names the line.

    Returns:
      ``unique_id`` and ``ds`` as text, ``y`` as float64 with NaN where a value is missing.
    """
    cells = _cells(path)
    if not {"unique_id", "ds", "y"} <= set(cells.header):
        return None
    values = _numbers(cells, ("y",)).values[:, 0]
    ids, times = (cells.column(cells.header.index(name)) for name in ("unique_id", "ds"))
    return {"unique_id": np.array(ids), "ds": np.array(times), "y": values}


def _cells(path: Path) -> _Cells:
    text, notes = _text(path)
    first, _, rest = text.partition("\n")
    named = re.fullmatch(r"sep=(.)\r?", first)  # Excel writes and reads this line
    if named is not None:
        separator, text = named[1], rest
    else:
        counts = {separator: first.count(separator) for separator in ",;\t|"}
        separator = max(counts, key=counts.__getitem__)
    rows = [(line + (named is not None), row) for line, row in _rows(path, text, separator)]
    if len(rows) < 2:
        found = "holds nothing but a header" if rows else "is empty"
        raise ValueError(f"{path} {found}; a header and at least one row of numbers are needed")
    (_, header), *body = rows
    header = [name.strip() for name in header]
    if all(is_number(name) or (name and read_dates([name]) is not None) for name in header):
        raise ValueError(f"{path} has no header: its first line is {shown(','.join(header))}. Add column names.")
    for line, row in body:
        if len(row) != len(header):
            hint = (
                ". If commas are decimal commas, put each number in quotes, or separate the columns by semicolons"
                if separator == "," and len(row) > len(header)
                else ""
            )
            raise ValueError(f"{path}, row {line} has {len(row)} cells, but the header has {len(header)}{hint}")
    return _Cells(path, separator, header, [line for line, _ in body], [row for _, row in body], notes)


def _times(cells: _Cells, wanted: Sequence[str | None]) -> _Times | None:
    for place, name in enumerate(cells.header):
        known = name.lower() in TIME_NAMES
        counts = name.lower() in STEP_NAMES
        if name in wanted or not (place == 0 or known or counts):
            continue
        column = cells.column(place)
        if known or not all(is_number(cell) for cell in column[:10]):
            try:
                dates = read_dates(column)
            except NotADate as error:
                row = cells.lines[error.place]
                raise ValueError(f"{cells.path}, row {row}, column {name!r} {error}") from error
            except ValueError as error:
                raise ValueError(f"{cells.path}, column {name!r}: {error}") from error
            if dates is not None:
                return _Times(place, name, dates)
        if counts and all(cell.removeprefix("-").isdecimal() and len(cell) < 18 for cell in column):
            return _Times(place, name, np.array([int(cell) for cell in column]))
    return None


def _column_name(cells: _Cells, name: str | None, times: _Times | None) -> str:
    path, header = cells.path, cells.header
    numeric = [
        other
        for place, other in enumerate(header)
        if (times is None or place != times.place) and _has_numbers(cells, place)
    ]
    if name is None and not numeric:
        text = [(j, name) for j, name in enumerate(header) if times is None or j != times.place]
        place, name = text[-1] if text else (0, header[0])
        raise ValueError(
            f"{path} has no column of numbers: row {cells.lines[0]}, column {name!r} holds "
            f"{shown(cells.rows[0][place])}. Write numbers without currencies, percent signs or parentheses"
        )
    if name is None and len(numeric) != 1:
        raise ValueError(
            f"{path} has {len(numeric)} numeric columns; choose one with column (--column): {_listed(numeric)}"
        )
    name = numeric[0] if name is None else name
    if header.count(name) > 1:
        raise ValueError(f"{path} has {header.count(name)} columns named {name!r}: rename all but one")
    if name not in header:
        raise ValueError(f"unknown column {name!r}; available in {path}: {_listed(header)}")
    return name


def _has_numbers(cells: _Cells, place: int) -> bool:
    """Whether one of the first values is a number. A bad cell further down is reported as such."""
    known = (row[place] for row in cells.rows if row[place].strip().lower() not in MISSING)
    return any(is_number(cell) for cell in itertools.islice(known, 10))


def _numbers(cells: _Cells, columns: tuple[str, ...]) -> Table:
    values, notes = np.empty((len(cells.rows), len(columns))), []
    for j, name in enumerate(columns):
        column = cells.column(cells.header.index(name))
        point, note = decimal_point([cell for cell in column if cell.lower() not in MISSING], cells.separator)
        if note is not None:
            notes.append(f"column {name!r}: {note}")
        for i, cell in enumerate(column):
            number = read_number(cell, point)
            if number is None:
                raise ValueError(
                    f"{cells.path}, row {cells.lines[i]}, column {name!r} holds {shown(cell)}, which is not a "
                    f"finite number. Correct it, or leave the cell empty if the value is missing"
                )
            values[i, j] = number
    return Table(columns, values, np.isfinite(values), notes=tuple(notes))


def _in_order(cells: _Cells, table: Table, index: _Times) -> Table:
    """The rows in the order of their times. Raises a ValueError if two have the same time."""
    order = np.argsort(index.values, kind="stable")
    times, lines, notes = index.values[order], np.array(cells.lines)[order], list(table.notes)
    same = np.flatnonzero(times[1:] == times[:-1])
    if len(same):
        i = int(same[0])
        more = f", and {len(same) - 1} more pairs of rows have one date" if len(same) > 1 else ""
        raise ValueError(
            f"{cells.path}, rows {lines[i]} and {lines[i + 1]} have the same {index.name!r}, "
            f"{_day(times[i])}{more}. Keep one row for each date, or add them up"
        )
    if len(order) > 1 and (order[::-1] == np.arange(len(order))).all():
        notes.append(f"the newest row came first: the rows were put in the order of {index.name!r}")
    elif (np.diff(order) < 0).any():
        i = int(np.flatnonzero(np.diff(order) != 1)[0])
        notes.append(
            f"the rows were not in the order of {index.name!r} (row {lines[i + 1]} follows row {lines[i]} in time)"
            f": they were sorted"
        )
    return replace(table, values=table.values[order], times=times, step=infer_step(times), notes=tuple(notes))


def _without_gaps(path: Path, table: Table) -> Table:
    """A row for each step, with missing values filled in."""
    values, times, step, notes = table.values, table.times, table.step, list(table.notes)
    for j, name in enumerate(table.columns):
        if missing := int(np.isnan(values[:, j]).sum()):
            _check_missing(path, missing, len(values), f"values of column {name!r}")
            notes.append(f"{missing} values of column {name!r} are missing{_FILLED}")
    if times is not None and step is None and len(times) > 2:
        notes.append("the dates have no common step: the rows were taken as steps of equal length")
    elif times is not None and step is not None and (places := step.places(times)) is not None:
        count = int(places[-1]) + 1
        if gaps := count - len(places):
            _check_missing(path, gaps, count, "dates")
            before = _day(times[int(np.argmax(np.diff(places) > 1))])
            notes.append(f"{gaps} dates are missing, the first after {before}{_FILLED}")
            whole = np.full((count, values.shape[1]), np.nan)
            whole[places] = values
            values, times = whole, np.concatenate([times[:1], step.after(times[0], count - 1)])
    whole = np.stack([filled(column) for column in values.T], axis=1)
    return Table(table.columns, whole, np.isfinite(values), times, step, tuple(notes))


_FILLED = ": they were filled in on a line between their neighbours, and do not count in any error"


def _check_missing(path: Path, missing: int, count: int, what: str) -> None:
    if missing > _MOST_MISSING * count:
        raise ValueError(f"{path}: {missing} of {count} {what} are missing, which are too many to fill in")


def _day(time: np.generic) -> str:
    return str(time).removesuffix("T00:00:00")


def _text(path: Path) -> tuple[str, tuple[str, ...]]:
    """The text of a file, and notes. Spreadsheets save UTF-8, UTF-16, or an encoding of older Windows."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace"), ()
    try:
        return content.decode("utf-8-sig"), ()
    except UnicodeDecodeError as error:
        if b"\0" not in content:
            with contextlib.suppress(UnicodeDecodeError):
                text = content.decode("cp1252")
                return text, ("the file is not UTF-8: it was read as Windows-1252",)
        raise ValueError(
            f"{path} is not a text file of comma-separated values. In a spreadsheet, save the table as CSV UTF-8"
        ) from error


def _unread_dates(cells: _Cells, columns: tuple[str, ...]) -> Iterator[str]:
    """What to say if no dates were found, but a column has a name that promises some."""
    for place, name in enumerate(cells.header):
        if name.lower() in TIME_NAMES and name not in columns and not _has_numbers(cells, place):
            yield f"column {name!r} was not read as dates: the rows are steps in the order of the file"


def _rows(path: Path, text: str, separator: str) -> list[tuple[int, list[str]]]:
    """Every row that is not empty, with the number of its last line."""
    # Only a strict reader reports a quote that is never closed, but it refuses a blank after a closing quote.
    try:
        return _read(path, text, separator, strict=True)
    except csv.Error:
        return _read(path, text, separator, strict=False)


def _read(path: Path, text: str, separator: str, *, strict: bool) -> list[tuple[int, list[str]]]:
    rows: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=strict)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((reader.line_num, row))
    except csv.Error as error:
        last = rows[-1][0] if rows else 0
        if str(error) == "unexpected end of data":
            raise ValueError(f"{path} opens a quote after line {last} that is never closed") from error
        if strict:
            raise
        raise ValueError(
            f"{path} is not a text file of comma-separated values: {error}. Is a quote that opens after line "
            f"{last} not closed?"
        ) from error
    return rows


def _listed(names: Sequence[str]) -> str:
    """Names for an error message, shortened because a file may have very many columns."""
    some = ", ".join(name if len(name) <= 40 else f"{name[:37]}..." for name in names[:20])
    return some if len(names) <= 20 else f"{some} and {len(names) - 20} more"
