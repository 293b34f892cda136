"""The quantiles that networks are trained for, those of any other level, and what their columns are called."""

from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

LEVELS = (0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975)
"""The quantile levels: those of the 95 % and the 80 % interval, and every tenth."""

COLUMNS = {"yhat": 0.5, "lo-80": 0.1, "hi-80": 0.9, "lo-95": 0.025, "hi-95": 0.975}
"""The quantile level of each column of a forecast."""

LOWEST = 0.01
"""The lowest level that can be asked for; one minus it is the highest."""


def check_quantiles(levels: Sequence[float]) -> tuple[float, ...]:
    """The levels, sorted. Raises a ValueError if one of them is not between 0.01 and 0.99."""
    for level in levels:
        if level is None or isinstance(level, (str, bool)) or not LOWEST <= level <= 1 - LOWEST:
            raise ValueError(
                f"quantiles must be levels from {LOWEST} to {1 - LOWEST}, for example 0.05, not {level!r}"
            )
    return tuple(sorted({float(level) for level in levels}))


def quantile_column(level: float) -> str:
    """The name of the column.

    >>> quantile_column(0.05)
    'q-0.05'
    """
    return f"q-{level:g}"


def quantiles_at(level: float, quantiles: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """The quantile of one level, ``[...]``, from quantiles ``[..., levels]``.

    Between two levels the quantile lies on the line between theirs, over the quantiles of a normal distribution,
    so it is exact for a normal distribution. Beyond the outermost levels the line goes on.

    >>> normal = NormalDist(10, 2)
    >>> levels = (0.1, 0.5, 0.9)
    >>> quantiles = np.array([normal.inv_cdf(level) for level in levels])
    >>> round(float(quantiles_at(0.05, quantiles, levels)), 6) == round(normal.inv_cdf(0.05), 6)
    True
    """
    places = np.array([NormalDist().inv_cdf(one) for one in levels])
    wanted = NormalDist().inv_cdf(level)
    right = int(np.clip(np.searchsorted(places, wanted), 1, len(places) - 1))
    share = (wanted - places[right - 1]) / (places[right] - places[right - 1])
    if abs(share - round(share)) < 1e-9:  # a level that is trained for
        return quantiles[..., right - 1 + round(share)]
    return (1 - share) * quantiles[..., right - 1] + share * quantiles[..., right]


def forecast_columns(
    quantiles: np.ndarray,
    further: Sequence[float] = (),
    possible: Callable[[np.ndarray], np.ndarray] = lambda values: values,
) -> dict[str, np.ndarray]:
    """The median, the ends of the intervals and the quantiles of further levels, by the names of their columns.

    Args:
      quantiles: ``[..., levels]`` of :data:`LEVELS`.
      further: other levels.
      possible: makes values that the series can have of what lies between two quantiles or beyond the last one.
    """
    columns = {name: quantiles[..., LEVELS.index(level)].ravel() for name, level in COLUMNS.items()}
    others = {quantile_column(one): quantiles_at(one, quantiles, LEVELS).ravel() for one in further}
    return columns | {name: possible(values) for name, values in others.items()}
