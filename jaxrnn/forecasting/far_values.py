"""Values so far from all others of their series that they can only be errors, such as 1e9 among values near 10."""

import numpy as np

FAR = 1000
"""A value is left out if it lies so many times as far from the median as the farthest of the other values."""

LARGEST = 1e30
"""Values lie between this and its inverse: networks work in float32, which ends at 3.4e38 and at 1.2e-38."""

_FEWEST = 6
_SHARE = 50
_LONGEST_RUN = 2


def far_values(values: np.ndarray) -> np.ndarray:
    """Which values of a series ``[time]`` are left out, bool ``[time]``; missing values are NaN and never far.

    A value is left out if its distance from the median is more than :data:`FAR` times that of all values that are
    kept. If these are all the same, more than that many times their size. At most two values in fifty, and two in
    a short series, are left out, and never three in a row: a series that has really moved to another level has
    more of them.

    >>> far_values(np.array([9.0, 11, 10, 1e9, 12, 8, 10])).astype(int)
    array([0, 0, 0, 1, 0, 0, 0])
    """
    far = np.zeros(len(values), bool)
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < _FEWEST:
        return far
    center = np.median(values[known])
    distances = np.abs(values[known] / 2 - center / 2)  # half of them, which does not overflow
    if distances.max() / FAR <= np.median(distances):
        return far
    most = max(2, len(known) // _SHARE)
    order = np.argsort(distances)[::-1][: most + 1]
    usual = distances[order[1:]]
    usual = np.where(usual > 0, usual, abs(center) / 2)
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
