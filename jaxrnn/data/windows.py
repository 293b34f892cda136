"""Windows over a series: the steps at which they start, and one gather that takes a batch of them.

The device holds the series once, and the compiled program takes each batch of windows from it, as
``series[starts[:, None] + arange(window)]``. So overlapping windows need no memory of their own.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer


def window_starts(length: int, window: int, *, shift: int = 1) -> np.ndarray:
    """The start of each complete window in a series of this length, one every ``shift`` steps.

    Raises:
      ValueError: the window is longer than the series, or a number is below 1.

    >>> window_starts(6, 4)
    array([0, 1, 2])
    >>> window_starts(10, 4, shift=4)
    array([0, 4])
    """
    _check(length, window)
    if shift < 1:
        raise ValueError(f"{shift=} must be at least 1")
    return np.arange(0, length - window + 1, shift)


def sequential_starts(length: int, window: int, batch_size: int = 1) -> np.ndarray:
    """The start of each window for stateful training, which passes the carry from batch to batch.

    The series is cut into ``batch_size`` streams of equal length. Row b of batch k is the k-th window of stream b,
    so it continues exactly where row b of batch k - 1 ended. The last steps, fewer than ``batch_size * window``,
    are not used.

    Returns:
      int ``[num_batches, batch_size]``.

    Raises:
      ValueError: the series is too short, or a number is below 1.

    >>> sequential_starts(12, 3)
    array([[0],
           [3],
           [6],
           [9]])
    >>> sequential_starts(12, 3, batch_size=2)
    array([[0, 6],
           [3, 9]])
    """
    if batch_size < 1:
        raise ValueError(f"{batch_size=} must be at least 1")
    _check(length, window)
    batches = length // (window * batch_size)
    if batches < 1:
        raise ValueError(
            f"a series of {length} steps is too short for {batch_size=} streams of {window=} steps each: "
            f"use at most batch_size={length // window}"
        )
    stream = batches * window
    return np.arange(batches)[:, None] * window + np.arange(batch_size) * stream


def take_windows(series: Array, starts: Array | np.ndarray, window: int) -> Array:
    """Take windows from ``series [time, ...]``; returns ``[*starts.shape, window, ...]``.

    A compiled program cannot raise: there, indices outside the series are clipped to its first or last step.

    Raises:
      ValueError: a window reaches beyond the series.

    >>> take_windows(jnp.arange(6), jnp.array([0, 2]), 3)
    Array([[0, 1, 2],
           [2, 3, 4]], dtype=int32)
    """
    if not isinstance(starts, Tracer):
        values = np.asarray(starts)
        outside = values[(values < 0) | (values + window > len(series))]
        if outside.size:
            raise ValueError(
                f"a window of {window} steps that starts at {outside.flat[0]} does not fit in the "
                f"{len(series)} steps of the series"
            )
    steps = jnp.asarray(starts)[..., None] + jnp.arange(window)
    return jnp.take(series, steps, axis=0, mode="clip")


def _check(length: int, window: int) -> None:
    if window < 1:
        raise ValueError(f"{window=} must be at least 1")
    if window > length:
        raise ValueError(f"{window=} is longer than the series, which has {length} steps")
