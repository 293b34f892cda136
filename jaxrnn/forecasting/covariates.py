"""Further columns as numbers: standardised, or one number for each category; and dates as sine and cosine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxrnn.checks import shown
from jaxrnn.data import rounded
from jaxrnn.forecasting.calendar_features import calendar_features, usual_phases
from jaxrnn.forecasting.one_series import Columns, OneSeries, shown_time

MOST_CATEGORIES = 100
LARGEST = 5.0
"""Of what networks read of a column of numbers, in standard deviations."""

_TRUTHS = {"1": "true", "0": "false", "true": "true", "false": "false"}
"""Truth values are numbers in a frame that holds them as such, and text in a file."""

_LARGEST_CODE = 1e15
"""Whole numbers below this are exact in float64, and written without an exponent."""


@dataclass(frozen=True)
class Encoder:
    """How a column becomes numbers.

    Attributes:
      mean, deviation: of a column of numbers, which is standardised; a missing number becomes 0.
      largest: no standardised number is larger than this in either direction: the largest one of the training, and
        at least :data:`LARGEST`.
      categories: of a column of text; each has a number that is 1 where the text is this one. A text that
        training has not met is 0 in all.
    """

    mean: float = 0.0
    deviation: float = 1.0
    categories: tuple[str, ...] = ()
    largest: float = LARGEST

    @classmethod
    def fit(cls, name: str, values: np.ndarray) -> "Encoder":
        """From all values of a column, float64 or text.

        Raises:
          ValueError: there are more than a hundred different texts.
        """
        if values.dtype.kind != "U":
            known = values[np.isfinite(values)]
            if not len(known):
                return cls()
            mean, deviation = float(known.mean()), float(known.std()) or 1.0
            return cls(mean, deviation, largest=max(LARGEST, float(np.abs(known - mean).max()) / deviation))
        categories = np.unique(values[values != ""])
        if len(categories) > MOST_CATEGORIES:
            raise ValueError(
                f"the column {name!r} holds {len(categories)} different texts, at most {MOST_CATEGORIES} are "
                f"possible: use a column of numbers"
            )
        return cls(categories=tuple(categories.tolist()))

    @property
    def size(self) -> int:
        return len(self.categories) or 1

    def encode(self, values: np.ndarray) -> np.ndarray:
        """float64 ``[time, size]`` of values ``[time]``.

        Raises:
          NotANumber: a text stands where training had numbers.
        """
        if self.categories:
            texts = as_text(values)
            names = [one.lower() for one in self.categories]
            if set(names) <= {"true", "false"} and len(set(names)) == len(names):
                texts = np.array([_TRUTHS.get(one.lower(), one) for one in texts.tolist()], str)
            else:
                names = self.categories
            return (texts[:, None] == np.array(names)).astype(np.float64)
        if values.dtype.kind == "U":
            values = np.array([_number(place, text) for place, text in enumerate(values.tolist())])
        numbers = (values - self.mean) / self.deviation
        return np.clip(np.nan_to_num(numbers), -self.largest, self.largest)[:, None]


def as_text(values: np.ndarray) -> np.ndarray:
    """Numbers as people write them, empty where one is missing; text as it is.

    Codes such as 1 and 2 are numbers in a frame or a file that holds no others, beside ``A`` they are text.

    >>> as_text(np.array([1000001.0, 0.5, np.nan])).tolist()
    ['1000001', '0.5', '']
    """
    if values.dtype.kind == "U":
        return values
    return np.array([_written(value) for value in values.tolist()], str)


def _written(value: float) -> str:
    if np.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < _LARGEST_CODE else repr(value)


class NotANumber(ValueError):
    """A text stands in a column of numbers.

    Attributes:
      place: its place, from 0.
    """

    def __init__(self, place: int, text: str):
        super().__init__(
            f"holds {shown(text)}, but in training this column held numbers: write it as a number here, too"
        )
        self.place = place


def _number(place: int, text: str) -> float:
    if text == "":
        return np.nan
    try:
        return float(text)
    except ValueError:
        raise NotANumber(place, text) from None


@dataclass(frozen=True)
class Covariates:
    """The further columns of a model and its calendar features, fitted on the series that it is trained on.

    Attributes:
      columns: their names.
      encoders: how each becomes numbers.
      phases: the calendar features, see :data:`jaxrnn.forecasting.calendar_features.PHASES`.
    """

    columns: Columns
    encoders: dict[str, Encoder]
    phases: tuple[str, ...]

    @classmethod
    def fit(cls, panel: Sequence[OneSeries], columns: Columns, *, calendar: bool) -> "Covariates":
        """Fit the encoders to the columns of a panel, up to the last value of each series."""
        encoders = {}
        for name in (*columns.future, *columns.past):
            values = [_column(one, name)[: len(one.values)] for one in panel]
            encoders[name] = Encoder.fit(name, np.concatenate(values))
        for name in columns.static:
            encoders[name] = Encoder.fit(name, np.array([one.static[name] for one in panel]))
        return cls(columns, encoders, usual_phases([one.step for one in panel]) if calendar else ())

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that held text in the training."""
        return tuple(name for name, encoder in self.encoders.items() if encoder.categories)

    @property
    def known_size(self) -> int:
        """How many numbers the columns have that are known in advance, without the calendar."""
        return sum(self.encoders[name].size for name in self.columns.future)

    @property
    def future_size(self) -> int:
        """How many numbers of each step ahead are known."""
        return self.known_size + 2 * len(self.phases)

    @property
    def past_size(self) -> int:
        """How many numbers of each step up to the last value are known."""
        further = sum(self.encoders[name].size for name in (*self.columns.past, *self.columns.static))
        return self.future_size + further

    def future(self, one: OneSeries, horizon: int) -> np.ndarray:
        """What is known in advance, float64 ``[time + horizon, future_size]``; 0 where a value is not given."""
        count = len(one.values) + horizon
        times = np.concatenate([one.times, one.step.after(one.times[-1], horizon)])
        parts = [self._encoded(one, name, _padded(one.future[name], count), times) for name in self.columns.future]
        if self.phases:
            parts.append(calendar_features(times, self.phases))
        return np.concatenate(parts, axis=1) if parts else np.zeros((count, 0))

    def past(self, one: OneSeries, future: np.ndarray) -> np.ndarray:
        """What is known at each step, float64 ``[time, past_size]``; ``future`` is that of :meth:`future`."""
        count = len(one.values)
        parts = [future[:count]]
        parts += [self._encoded(one, name, one.past[name], one.times) for name in self.columns.past]
        for name in self.columns.static:
            value = self._encoded(one, name, np.array([one.static[name]]), one.times[:1])
            parts.append(np.repeat(value, count, axis=0))
        return np.concatenate(parts, axis=1)

    def _encoded(self, one: OneSeries, name: str, values: np.ndarray, times: np.ndarray) -> np.ndarray:
        try:
            return self.encoders[name].encode(values)
        except NotANumber as error:
            time = shown_time(times[error.place])
            raise ValueError(f"series {one.name!r}: the column {name!r} {error} (at {time})") from error

    def unknown_texts(self, panel: Sequence[OneSeries], horizon: int) -> list[str]:
        """Which texts of a panel, up to ``horizon`` steps ahead, training did not have, in sentences."""
        said = []
        for name in self.texts:
            new: dict[str, str] = {}  # the first series of each
            for one in panel:
                if name in self.columns.static:
                    values = np.array([one.static[name]])
                elif name in self.columns.past:
                    values = one.past[name]
                else:
                    values = one.future[name][: len(one.values) + horizon]
                texts = as_text(values)
                unknown = (texts != "") & ~self.encoders[name].encode(values).any(axis=1)
                for text in dict.fromkeys(texts[unknown].tolist()):
                    new.setdefault(text, one.name)
            if new:
                listed = ", ".join(f"{shown(text)} (series {series!r})" for text, series in list(new.items())[:3])
                more = f" and {len(new) - 3} more" if len(new) > 3 else ""
                said.append(
                    f"column {name!r} holds texts that the training did not have: {listed}{more}. Nothing was "
                    f"learned of them, so they count as none of its texts"
                )
        return said

    def to_json(self) -> dict[str, Any]:
        encoders = {name: vars(encoder) for name, encoder in self.encoders.items()}
        return {"columns": self.columns._asdict(), "encoders": encoders, "phases": self.phases}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Covariates":
        columns = Columns(**{name: tuple(names) for name, names in record["columns"].items()})
        encoders = {
            name: Encoder(**{**one, "categories": tuple(one["categories"])})
            for name, one in record["encoders"].items()
        }
        return cls(columns, encoders, tuple(record["phases"]))


def _column(one: OneSeries, name: str) -> np.ndarray:
    return one.future[name] if name in one.future else one.past[name]


def _padded(values: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` values; missing ones at the end."""
    if len(values) >= count:
        return values[:count]
    more = np.full(count - len(values), "" if values.dtype.kind == "U" else np.nan, values.dtype)
    return np.concatenate([values, more])


def require_future(
    panel: Sequence[OneSeries], names: Sequence[str], horizon: int, future: Sequence[OneSeries] = ()
) -> None:
    """Raise a ValueError that names series, column and date if a value over the horizon is missing.

    ``future`` is what was joined to the panel by :func:`with_future`, if anything was.
    """
    given = {one.name for one in future}
    for one in panel:
        for name in names:
            count = len(one.values)
            values = _padded(one.future[name], count + horizon)[count:]
            missing = values == "" if values.dtype.kind == "U" else ~np.isfinite(values)
            if missing.any():
                place = int(np.argmax(missing))
                lost = given and one.name not in given
                other = f", which has {future[0].name!r}, not {one.name!r}" if lost else ""
                time = shown_time(one.step.after(one.times[-1], horizon)[place])
                raise ValueError(
                    f"series {one.name!r}: the column {name!r} has no value at {time}, step {place + 1} of "
                    f"the {horizon} to forecast. A column that is known in advance needs values over the "
                    f"whole horizon: add rows without y at the end, or give them as future (--future){other}"
                )


def with_future(panel: Sequence[OneSeries], future: Sequence[OneSeries], horizon: int) -> list[OneSeries]:
    """The panel with the values that another one gives for the steps to forecast.

    Args:
      panel: the series.
      future: series of the same names, read with ``with_values=False``. Their rows are found by their times.
    """
    by_name = {one.name: one for one in future}
    result = []
    for one in panel:
        given, count = by_name.get(one.name), len(one.values)
        columns = dict(one.future)
        if given is not None:
            ahead = _steps(one, one.step.after(one.times[-1], horizon))
            places = {time: place for place, time in enumerate(_steps(one, given.times))}
            found = np.array([places.get(time, -1) for time in ahead])
            for name, values in given.future.items():
                before = columns[name]
                if values.dtype.kind != before.dtype.kind:  # the same codes, in one of both beside text
                    values, before = as_text(values), as_text(before)
                missing = "" if values.dtype.kind == "U" else np.nan
                padded = _padded(before, count + horizon)[count:]
                new = np.where(found >= 0, values[np.maximum(found, 0)], missing)
                known = new != "" if values.dtype.kind == "U" else np.isfinite(new)
                columns[name] = np.concatenate([before[:count], np.where(known, new, padded)])
        result.append(replace(one, future=columns))
    return result


def _steps(one: OneSeries, times: np.ndarray) -> list[int]:
    """Numbers that are the same for times of the same step of a series."""
    if one.step.unit == "months" and times.dtype.kind == "M":
        times = times.astype("datetime64[M]")
    elif one.repairs.unit and times.dtype.kind == "M":
        times = rounded(times, one.repairs.unit)
    return times.astype(np.int64).tolist()
