"""Values so far from all others of their series that they can only be errors, such as 1e9 among values near 10."""

import numpy as np

FAR = 1000
"""A value is left out if it lies so many times as far from the median as the farthest of the other values."""

LARGEST = 1e30
"""Values lie between this and its inverse: networks work in float32, which ends at 3.4e38 and at 1.2e-38."""

_FEWEST = 6
_SHARE = 50
_LONGEST_RUN = 2
_COUNT = 1.0


def far_values(values: np.ndarray) -> np.ndarray:
    """Which values of a series ``[time]`` are left out, bool ``[time]``; missing values are NaN and never far.

    A value is left out if its distance from the median is more than :data:`FAR` times that of all values that are
    kept. If these are all the same, more than that many times their size. At most two values in fifty, and two in
    a short series, are left out, and never three in a row: a series that has really moved to another level has
    more of them.

    In a series of mostly zeros, the few other values say little about how large the next may be: an order of 5,000
    may follow one of 1. So a value there must also be more than :data:`FAR` times :data:`FAR` times the smallest
    that is not zero, or, if all others are zero, than 1, the unit of counts.

    >>> far_values(np.array([9.0, 11, 10, 1e9, 12, 8, 10])).astype(int)
    array([0, 0, 0, 1, 0, 0, 0])
    >>> far_values(np.array([1e9, 0, 0, 0, 0, 0, 0])).astype(int)
    array([1, 0, 0, 0, 0, 0, 0])
    >>> far_values(np.array([0.0, 0, 1, 0, 0, 0, 5000])).astype(int)
    array([0, 0, 0, 0, 0, 0, 0])
    """
    far = np.zeros(len(values), bool)
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < _FEWEST:
        return far
    center = np.median(values[known])
    distances = np.abs(values[known] / 2 - center / 2)  # half of them, which does not overflow
    if distances.max() / FAR <= np.median(distances):
        return far
    most = _most(len(known))
    order = np.argsort(distances)[::-1][: most + 1]
    usual = distances[order[1:]]
    usual = np.where(usual > 0, usual, abs(center) / 2)
    if center == 0 and np.median(distances) == 0:
        some = distances[distances > 0]
        # If the largest values are all that are not zero, no other says how large a usual one is.
        smallest = np.where(np.arange(1, len(order)) < len(some), some.min(), _COUNT / 2)
        usual = np.maximum(usual, FAR * smallest)
    apart = np.flatnonzero((usual > 0) & (distances[order[:-1]] / FAR > usual))
    if not len(apart):
        return far
    candidate = np.zeros(len(known), bool)
    candidate[order[: apart[-1] + 1]] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[False], candidate, [False]])))
    for begin, stop in zip(edges[::2], edges[1::2]):
        if stop - begin <= _LONGEST_RUN:
            far[known[begin:stop]] = True
    return far


def can_be_far(values: np.ndarray, first: int) -> bool:
    """Whether :func:`far_values` may leave out a value of ``values[:count]`` for any count from ``first``.

    False is certain, and takes one sort in place of one for each count. The range of the values that are kept is
    at least that of the first ones without as many at both ends as can be left out, and a far value lies farther
    from the median than :data:`FAR` times half of it.
    """
    early = np.sort(values[:first][np.isfinite(values[:first])])
    most = _most(len(values))
    if len(early) <= 2 * most:
        return True
    with np.errstate(over="ignore"):
        spread = early[-1 - most] - early[most]
        return bool(np.nanmax(values) - np.nanmin(values) > FAR / 2 * spread)


def _most(count: int) -> int:
    """How many of so many values can be left out."""
    return max(2, count // _SHARE)
