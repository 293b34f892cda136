"""The arguments of a forecaster, as they are stored with it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrnn import checks
from jaxrnn.forecasting.distributions import DISTRIBUTIONS
from jaxrnn.forecasting.network import KINDS
from jaxrnn.forecasting.one_series import Columns
from jaxrnn.forecasting.quantile_columns import check_quantiles


def as_tuple(values: Any) -> tuple[Any, ...]:
    """The values, where one may stand alone; None is no value.

    >>> as_tuple("promotion"), as_tuple(8), as_tuple([0.1, 0.9]), as_tuple(None)
    (('promotion',), (8,), (0.1, 0.9), ())
    """
    if values is None:
        return ()
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        return (values,)
    return tuple(values)


@dataclass(frozen=True)
class Settings:
    """The arguments of a :class:`Forecaster`."""

    horizon: int
    season: int | None
    window: int | None
    hidden: tuple[int, ...]
    cell: str
    steps: int
    learning_rate: float
    seeds: int
    seed: int
    quantiles: tuple[float, ...] = ()
    future_columns: tuple[str, ...] = ()
    past_columns: tuple[str, ...] = ()
    static_columns: tuple[str, ...] = ()
    calendar: bool = True
    non_negative: bool | None = None
    distribution: str | None = None

    def __post_init__(self) -> None:
        """Raise a ValueError that names an argument if it is invalid; numbers of NumPy become Python's."""
        plain: dict[str, Any] = {
            name: checks.positive_integer(name, getattr(self, name)) for name in ("horizon", "steps", "seeds")
        }
        for name in ("season", "window"):
            plain[name] = checks.positive_integer_or_none(name, getattr(self, name))
        plain["seed"] = checks.integer("seed", self.seed)
        checks.positive_number("learning_rate", self.learning_rate)
        plain["learning_rate"] = float(self.learning_rate)
        plain["calendar"] = checks.flag("calendar", self.calendar)
        if self.non_negative is not None:
            plain["non_negative"] = checks.flag("non_negative", self.non_negative)
        if self.cell not in KINDS:
            raise ValueError(f"unknown cell {self.cell!r}; available: {', '.join(KINDS)}")
        if self.distribution is not None and self.distribution not in DISTRIBUTIONS:
            available = ", ".join(DISTRIBUTIONS)
            raise ValueError(
                f"unknown distribution {self.distribution!r}; available: {available}, or None for quantiles"
            )
        if not self.hidden:
            raise ValueError(f"hidden must have at least one layer, not {self.hidden}")
        plain["hidden"] = tuple(checks.positive_integer("hidden", units) for units in self.hidden)
        for name in self.columns.all:
            if not isinstance(name, str):
                raise ValueError(f"a further column must be given by its name, a text, not {checks.shown(name)}")
        plain["quantiles"] = check_quantiles(self.quantiles)
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        twice = {name for name in self.columns.all if self.columns.all.count(name) > 1} | (
            set(self.columns.all) & {"unique_id", "ds", "y"}
        )
        if twice:
            raise ValueError(
                f"the column {min(twice)!r} has two roles: a column is known in advance, or past, or static, or "
                f"one of unique_id, ds and y"
            )

    @property
    def counts(self) -> bool:
        """Whether values are counts."""
        return self.distribution is not None and DISTRIBUTIONS[self.distribution].counts

    def possible(self, values: np.ndarray) -> np.ndarray:
        """Forecasts as values that the series can have: counts are whole numbers, and none may be below 0."""
        values = np.round(values) if self.counts else values
        return np.maximum(values, 0) if self.non_negative or self.counts else values

    @property
    def columns(self) -> Columns:
        return Columns(self.future_columns, self.past_columns, self.static_columns)
