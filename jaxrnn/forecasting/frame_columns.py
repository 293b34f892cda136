"""The columns of a frame as arrays of numbers, of text, or of times, and arrays as a frame."""

import numbers
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from jaxrnn.checks import shown
from jaxrnn.data import KnownTimes, numbered_dates
from jaxrnn.data.dates import NotADate, dates_and_note, whole_seconds
from jaxrnn.data.utc_offsets import Dates

_NUMBERS = numbers.Real, np.bool_, Decimal


def array_of(column: Any) -> np.ndarray:
    """A column as an array, where masked values are missing."""
    masked = np.ma.getmaskarray(column) if isinstance(column, np.ma.MaskedArray) else np.zeros(1, bool)
    array = np.asarray(column)
    if not masked.any():
        return array
    array = array.astype(np.float64 if array.dtype.kind in "biuf" else object)
    array[masked] = None  # NaN of numbers
    return array


def with_dates_of_index(frame: Any, columns: Collection[str] = ()) -> Any:
    """A pandas frame or series whose index holds dates, as a mapping with these as ``ds``; anything else as it is.

    The values of a series are ``y``. A frame that has a column ``ds`` keeps it. A dictionary from names to such
    series becomes one in long format. In one of ``y`` and further ``columns``, the dates are those of ``y``.

    Raises:
      ValueError: only some series of a dictionary have dates.
    """
    if isinstance(frame, Mapping):
        return _with_dates_of_series(frame, columns)
    if not _has_dates(frame):
        return frame
    index = frame.index
    if not hasattr(frame, "columns"):
        return {"ds": index, "y": np.asarray(frame)}
    return frame if "ds" in frame.columns else {"ds": index} | {name: frame[name] for name in frame}


def _has_dates(column: Any) -> bool:
    return type(getattr(column, "index", None)).__name__ in ("DatetimeIndex", "PeriodIndex")


def _with_dates_of_series(frame: Mapping, columns: Collection[str]) -> Any:
    if "y" in frame:
        named = set(frame) <= {"unique_id", "y", *columns}
        return {**frame, "ds": frame["y"].index} if named and _has_dates(frame["y"]) else frame
    dated = {name: _has_dates(column) for name, column in frame.items()}
    if not any(dated.values()) or {"unique_id", "ds"} & set(frame):
        return frame
    if not all(dated.values()):
        other = next(name for name, has_dates in dated.items() if not has_dates)
        first = next(name for name, has_dates in dated.items() if has_dates)
        raise ValueError(
            f"series {first!r} has dates in its index, but {other!r} has none: give all series dates, or none, as "
            f"by to_numpy()"
        )
    times = [column.index for column in frame.values()]
    times = [index.to_timestamp() if hasattr(index, "to_timestamp") else index for index in times]
    return {
        "unique_id": np.repeat([str(name) for name in frame], [len(index) for index in times]),
        "ds": np.concatenate([np.asarray(index) for index in times]),
        "y": np.concatenate([np.asarray(column) for column in frame.values()]),
    }


def names_of(ids: np.ndarray) -> np.ndarray:
    """The column ``unique_id`` as text."""
    if ids.dtype.kind in "Of" and (missing := [row for row, name in enumerate(ids) if _is_missing(name)]):
        raise ValueError(f"the column unique_id has no value in row {missing[0]}: give the name of its series")
    return ids.astype(str)


def numbers_of(name: str, values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """A column of numbers as float64, with NaN for missing ones; ``ids`` are the names of the rows' series."""
    try:
        if values.dtype.kind == "O":
            values = np.array([np.nan if _is_missing(one) else one for one in values.ravel()]).reshape(
                values.shape
            )
        values = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        row = next((row for row, one in enumerate(values) if not _is_number(one)), None)
        where = (
            str(error) if row is None else f"row {row}, of series {str(ids[row])!r}, holds {str(values[row])!r}"
        )
        raise ValueError(f"the column {name} must hold numbers, but {where}") from error
    if values.ndim != 1:
        raise ValueError(f"the column {name} must be [rows], not {values.shape=}")
    if np.isinf(values).any():
        place = int(np.argmax(np.isinf(values)))
        raise ValueError(f"series {str(ids[place])!r}: {name} must be finite, but holds {values[place]}")
    return values


def numbers_or_text(name: str, values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Numbers as float64, and anything else as text, which is empty where it is missing."""
    if values.dtype.kind == "O" and all(isinstance(one, _NUMBERS) or _is_missing(one) for one in values):
        values = np.array([np.nan if _is_missing(one) else one for one in values], np.float64)
    if values.dtype.kind in "biuf":
        return numbers_of(name, values, ids)
    return np.array(["" if _is_missing(one) else str(one) for one in values])


def times_of(column: Any, known: KnownTimes) -> Dates:
    """The column ``ds`` as ``datetime64[s]``, or as int64 if its numbers count the steps."""
    # NumPy's form of times of polars with a time zone is UTC, while that of pandas keeps the local time.
    kind = getattr(column, "dtype", None)
    if getattr(kind, "time_zone", None) is not None:
        column = column.to_list()
    elif type(kind).__name__ == "PeriodDtype":  # weeks and years of pandas, which begin at a date
        column = getattr(column, "dt", column).to_timestamp()
    times = array_of(column)
    if times.dtype.kind == "M":
        if np.isnat(times).any():
            raise ValueError(f"the column ds has no date in row {int(np.argmax(np.isnat(times)))}")
        return Dates(whole_seconds(times))
    if times.dtype.kind == "f" and (times == np.floor(times)).all() and (np.abs(times) < 2**53).all():
        times = times.astype(np.int64)
    if times.dtype.kind in "iu":
        return Dates(_numbered(times.astype(np.int64), known))
    missing = [row for row, time in enumerate(times) if _is_missing(time)]
    if missing:
        raise ValueError(f"the column ds has no date in row {missing[0]}")
    texts = [str(time) for time in times]
    if all(text.removeprefix("-").isdecimal() for text in texts):
        return Dates(_numbered(np.array(texts, np.int64), known))
    try:
        dates = dates_and_note(texts, known.utc_offset)
    except NotADate as error:
        raise ValueError(f"the column ds, in row {error.place}, {error}") from error
    if dates is None:
        raise ValueError(f"the column ds must hold dates or whole numbers, not {shown(texts[0])}")
    return dates


def _numbered(numbers: np.ndarray, known: KnownTimes) -> np.ndarray:
    found = numbered_dates(numbers, seconds=known.seconds)
    return numbers if found is None else found.dates


def _is_number(one: Any) -> bool:
    try:
        float(one)
    except (TypeError, ValueError):
        return False
    return True


def _is_missing(one: Any) -> bool:
    """Whether a value is None, NaN, NaT, or the NA of pandas, which equals nothing."""
    if one is None:
        return True
    try:
        return bool(one != one)
    except (TypeError, ValueError):  # pandas cannot tell whether NA equals NA
        return True


@dataclass(frozen=True)
class FrameKind:
    """What a forecast takes from the frame that it goes on with.

    Attributes:
      library: ``"pandas"``, ``"polars"``, or any other name for what is no frame.
      names: the names of the series as text, sorted, and as they stand in the frame, where they are no text; or
        None.
    """

    library: str = ""
    names: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def of(cls, frame: Any) -> "FrameKind":
        """From a frame that :func:`jaxrnn.forecasting.read_panel` has read."""
        library = type(frame).__module__.partition(".")[0]
        if "unique_id" not in getattr(frame, "columns", frame if isinstance(frame, Mapping) else ()):
            return cls(library)
        given = array_of(frame["unique_id"])
        if isinstance(given[0], str):
            return cls(library)
        if given.dtype.kind != "O":
            given = np.unique(given)
        texts, places = np.unique(names_of(given), return_index=True)
        return cls(library, (texts, np.array(given[places].tolist())))

    def frame(self, columns: dict[str, np.ndarray]) -> Any:
        """The columns as a frame of this kind: pandas, polars, or the dictionary itself.

        The names of series that are numbers in the other frame are these numbers, so that both can be joined.
        """
        if self.names is not None:
            texts, given = self.names
            columns = columns | {"unique_id": given[np.searchsorted(texts, columns["unique_id"])]}
        if self.library in ("pandas", "polars"):
            import importlib

            dates = {name: values for name, values in columns.items() if values.dtype.kind == "M"}
            dates = {name: values.astype("datetime64[ms]") for name, values in dates.items()}  # polars has no [s]
            return importlib.import_module(self.library).DataFrame(columns | dates)
        return columns
