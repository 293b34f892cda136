"""Rows that have the same date: combined into one, or an error that names them."""

from collections.abc import Callable, Sequence

import numpy as np

AGGREGATES: dict[str, Callable[[np.ndarray], float]] = {
    "sum": np.sum,
    "mean": np.mean,
    "median": np.median,
    "min": np.min,
    "max": np.max,
    "first": lambda values: values[0],
    "last": lambda values: values[-1],
}
"""How rows with one date can be combined. Missing values do not count, unless all are missing."""


def check_aggregate(aggregate: str | None) -> None:
    """Raise a ValueError unless this is None or one of :data:`AGGREGATES`."""
    if aggregate is not None and aggregate not in AGGREGATES:
        raise ValueError(f"unknown aggregate {aggregate!r}; available: {', '.join(AGGREGATES)}")


def combine(values: np.ndarray, first: np.ndarray, aggregate: str) -> np.ndarray:
    """One value for each group of neighbouring rows.

    Args:
      values: float64 ``[rows]``, or an array of texts, of which the last of each group is taken.
      first: int ``[groups]``, increasing: the first row of each group.
      aggregate: one of :data:`AGGREGATES`.

    >>> combine(np.array([1.0, 2.0, 5.0]), np.array([0, 2]), "sum")
    array([3., 5.])
    """
    stop = np.append(first[1:], len(values))
    result = values[first].copy() if aggregate == "first" else values[stop - 1].copy()
    if values.dtype.kind != "f":
        return result
    for place in np.flatnonzero(stop - first > 1):
        group = values[first[place] : stop[place]]
        known = group[np.isfinite(group)]
        result[place] = AGGREGATES[aggregate](known) if len(known) else np.nan
    return result


def same_dates(what: str, name: str, date: str, pair: Sequence[object], more: int, remedy: str) -> ValueError:
    """The error about two rows with one date.

    Args:
      what: where the rows are, for example a file.
      name: what is the same in both: the column.
      date: the date.
      pair: what the two rows are called: their numbers.
      more: how many other pairs there are.
      remedy: what can be done besides removing one, as a phrase.
    """
    finer = " (times are read in whole seconds)" if "T" in date else ""
    others = f", and {more} more pairs of rows have one date" if more else ""
    return ValueError(
        f"{what}rows {pair[0]} and {pair[1]} have the same {name}, {date}{finer}{others}. Keep one row for each "
        f"date, or {remedy}"
    )
