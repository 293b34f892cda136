"""The cells of a CSV file with the numbers of their lines, and which column holds dates or numbers."""

import codecs
import contextlib
import csv
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrnn.checks import shown
from jaxrnn.data.dates import KnownTimes, NotADate, dates_and_note, read_dates
from jaxrnn.data.numbered_dates import NAMES, numbered_dates
from jaxrnn.data.numbers import MISSING, decimal_point, is_number, read_number

TIME_NAMES = NAMES | frozenset(["ds", "day", "datetime", "time", "timestamp", "period"])
"""Names, in lower case, of columns that may hold dates wherever they stand; the first column may always."""

STEP_NAMES = frozenset(["ds", "step", "steps", "t", "time", "index", "year", "period"])
"""Names, in lower case, of columns that may hold whole numbers that count the steps."""


_UNNAMED = re.compile(r"(Unnamed: \d+)?")
"""The name of a column that numbers the rows of a data frame, which nobody forecasts."""


@dataclass(frozen=True)
class Cells:
    """The text of a file: the header, and the rows with the numbers of their lines."""

    path: Path
    separator: str
    header: list[str]
    lines: list[int]
    rows: list[list[str]]
    notes: tuple[str, ...] = ()

    def column(self, place: int) -> list[str]:
        return [row[place].strip() for row in self.rows]


class Times(NamedTuple):
    """The column of dates, or of whole numbers that count the steps, and what to say about how they were read.

    ``utc_offset`` is that of :class:`jaxrnn.data.utc_offsets.Dates`.
    """

    place: int
    name: str
    values: np.ndarray
    notes: tuple[str, ...] = ()
    utc_offset: int | None = None


def read_cells(path: Path) -> Cells:
    """The cells of a CSV file with a header, its separator found from the header."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the path of a CSV file with a header line")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a CSV file")
    text, notes = _text(path)
    first, _, rest = text.partition("\n")
    named = re.fullmatch(r"sep=(.)\r?", first)  # Excel writes and reads this line
    if named is not None:
        separator, text = named[1], rest
    else:
        header = re.search(r"^.*\S.*$", text, re.MULTILINE)
        # What is in quotes separates nothing.
        outside = re.sub(r'"[^"]*"', "", header[0]) if header else ""
        counts = {separator: outside.count(separator) for separator in ",;\t|"}
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
    return Cells(path, separator, header, [line for line, _ in body], [row for _, row in body], notes)


def find_times(
    cells: Cells,
    wanted: Sequence[str | None],
    known: KnownTimes = KnownTimes(),  # noqa: B008  a named tuple cannot be changed
) -> Times | None:
    """The column of dates, or of whole numbers that count the steps; None if there is none."""
    for place, name in enumerate(cells.header):
        named = name.lower() in TIME_NAMES | STEP_NAMES
        if name not in wanted and (place == 0 or named):
            times = times_in(cells, place, known=known)
            if times is not None:
                return times
    return None


def times_by_content(
    cells: Cells,
    used: Sequence[str | None],
    known: KnownTimes = KnownTimes(),  # noqa: B008  a named tuple cannot be changed
) -> tuple[Times | None, tuple[str, ...]]:
    """The only column beside those that are used whose cells are dates, wherever it stands and whatever its name.

    Where :func:`find_times` finds none. Returns None if there is none or several, and what to say about it.
    """
    found: list[Times] = []
    doubtful: list[str] = []
    for place, name in enumerate(cells.header):
        if name not in used:
            try:
                times = times_in(cells, place, known=known)
            except ValueError as error:
                doubtful.append(f"the dates of column {name!r} are not used: {error}")
            else:
                found += [] if times is None else [times]
    if len(found) > 1:
        names = " and ".join(repr(times.name) for times in found)
        return None, (
            f"columns {names} hold dates, so none of them is used, and the rows are taken in the order of the "
            f"file: rename the one that orders them to 'date', or with --horizon name it with --time-column",
        )
    if not found:
        return None, tuple(doubtful)
    (times,) = found
    notes = (f"the dates are those of column {times.name!r}", *times.notes, *doubtful)
    return times._replace(notes=notes), ()


def times_in(
    cells: Cells,
    place: int,
    *,
    named: bool = False,
    known: KnownTimes = KnownTimes(),  # noqa: B008  a named tuple cannot be changed
) -> Times | None:
    """The dates, or the whole numbers that count the steps, of one column; None if it holds neither.

    Args:
      named: the user has named this column, so it may have any name. Without this, numbers are dates or steps
        only in a column whose name says so.
      known: what is known of the times.
    """
    name, column = cells.header[place], cells.column(place)
    dated = named or name.lower() in TIME_NAMES
    if dated or not all(is_number(cell) for cell in column[:10]):
        try:
            dates = dates_and_note(column, known.utc_offset)
        except NotADate as error:
            row = cells.lines[error.place]
            raise ValueError(f"{cells.path}, row {row}, column {name!r} {error}") from error
        except ValueError as error:
            raise ValueError(f"{cells.path}, column {name!r}: {error}") from error
        if dates is not None:
            notes = () if dates.note is None else (f"column {name!r}: {dates.note}",)
            return Times(place, name, dates.times, notes, dates.utc_offset)
    counts_steps = named or name.lower() in STEP_NAMES
    if (counts_steps or dated) and all(is_whole(cell) for cell in column):
        numbers = np.array([int(cell) for cell in column])
        if (dates := numbered_dates(numbers, name, known.seconds)) is not None:
            return Times(place, name, dates.dates, (f"column {name!r}: {dates.note}",))
        return Times(place, name, numbers) if counts_steps else None
    return None


def is_whole(cell: str) -> bool:
    """Whether a cell holds a whole number, written with digits alone, that fits into 64 bits."""
    return cell.removeprefix("-").isdecimal() and len(cell) < 18


def has_numbers(cells: Cells, place: int) -> bool:
    """Whether one of the first values is a number. A bad cell further down is reported as such."""
    known = (row[place] for row in cells.rows if row[place].strip().lower() not in MISSING)
    return any(is_number(cell) for cell in itertools.islice(known, 10))


def column_named(cells: Cells, name: str | None, times: Times | None, besides: Sequence[str] = ()) -> str:
    """The name of a wanted column, or of the only numeric one beside the times and ``besides`` for None."""
    path, header = cells.path, cells.header
    numeric = [
        other
        for place, other in enumerate(header)
        if (times is None or place != times.place)
        and other not in besides
        and not _UNNAMED.fullmatch(other)
        and has_numbers(cells, place)
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
            f"{path} has {len(numeric)} numeric columns; choose one with column (--column): {listed(numeric)}"
        )
    name = numeric[0] if name is None else name
    if header.count(name) > 1:
        raise ValueError(f"{path} has {header.count(name)} columns named {name!r}: rename all but one")
    if name not in header:
        raise ValueError(f"unknown column {name!r}; available in {path}: {listed(header)}")
    return name


def column_numbers(cells: Cells, name: str) -> tuple[np.ndarray, list[str]]:
    """The numbers of a column, NaN where one is missing, and what to say about how they were read."""
    column = cells.column(cells.header.index(name))
    point, note = decimal_point([cell for cell in column if cell.lower() not in MISSING], cells.separator)
    values = np.empty(len(column))
    for i, cell in enumerate(column):
        number = read_number(cell, point)
        if number is None:
            raise ValueError(
                f"{cells.path}, row {cells.lines[i]}, column {name!r} holds {shown(cell)}, which is not a finite "
                f"number. Correct it, or leave the cell empty if the value is missing"
            )
        values[i] = number
    return values, [] if note is None else [f"column {name!r}: {note}"]


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


def listed(names: Sequence[str]) -> str:
    """Names for an error message, shortened because a file may have very many columns."""
    some = ", ".join(name if len(name) <= 40 else f"{name[:37]}..." for name in names[:20])
    return some if len(names) <= 20 else f"{some} and {len(names) - 20} more"
