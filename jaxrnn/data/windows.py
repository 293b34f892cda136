"""Windows over a series as index arithmetic: where each starts, and one gather that takes them.

The series stays on the device once; a batch of windows is ``series[starts[:, None] + arange(window)]``, inside
whatever program uses it. Nothing is copied per window and no Python loop runs.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array


def window_starts(length: int, window: int, *, shift: int = 1) -> np.ndarray:
    """Where the windows of a series of that length start: every ``shift`` steps, all of them whole.

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
    """Where consecutive windows start, for training that carries its state from batch to batch.

    The series is cut into ``batch_size`` streams of equal length. Row b of batch k is the k-th window of stream
    b, so that it goes on exactly where row b of batch k - 1 ended. What is left over at the end (fewer than
    ``batch_size * window`` steps) is not used.

    Returns:
      int ``[num_batches, batch_size]``.

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
            f"a series of {length} steps has no {batch_size} streams of one {window=}: "
            f"at most batch_size={length // window} fits"
        )
    stream = batches * window
    return np.arange(batches)[:, None] * window + np.arange(batch_size) * stream


def take_windows(series: Array, starts: Array | np.ndarray, window: int) -> Array:
    """The windows that start there: ``series [time, ...]`` to ``[*starts.shape, window, ...]``.

    >>> take_windows(jnp.arange(6), jnp.array([0, 2]), 3)
    Array([[0, 1, 2],
           [2, 3, 4]], dtype=int32)
    """
    steps = jnp.asarray(starts)[..., None] + jnp.arange(window)
    return jnp.take(series, steps, axis=0, mode="clip")


def _check(length: int, window: int) -> None:
    if window < 1:
        raise ValueError(f"{window=} must be at least 1")
    if window > length:
        raise ValueError(f"{window=} is longer than the series, which has {length} steps")
