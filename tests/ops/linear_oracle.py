"""A linear recurrence and its gradients in NumPy loops over time and rows: what the implementations must equal."""

from typing import Any, NamedTuple

import jax
import numpy as np


class Problem(NamedTuple):
    """Random arguments, with a cotangent of the states."""

    a: Any
    b: Any
    initial_state: Any
    reset_state: Any
    lengths: Any
    resets: Any
    dstates: Any


def random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    array = rng.normal(size=shape)
    return (array + 1j * rng.normal(size=shape) if dtype.startswith("complex") else array).astype(dtype)


def problem(
    time: int, batch: tuple[int, ...], channels: int, dtype: str, *, a_shape: Any = None, masks: bool = True
) -> Problem:
    rng = np.random.default_rng(0)
    steps, state = (time, *batch, channels), (*batch, channels)
    lengths = resets = None
    if masks:  # the first rows have the lengths time and 0, the others random ones
        lengths = rng.integers(0, time + 1, size=batch)
        lengths.ravel()[:2] = [time, 0][: lengths.size]
        resets = rng.random((time, *batch)) < 0.3
    a = random(rng, steps if a_shape is None else a_shape, dtype)
    b, initial_state, reset_state = (random(rng, shape, dtype) for shape in (steps, state, state))
    return Problem(a, b, initial_state, reset_state, lengths, resets, random(rng, steps, dtype))


def loop(p: Problem, reverse: bool) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """The states, and the gradients of a, b, initial_state and reset_state (not conjugated)."""
    time, *batch, _ = p.b.shape
    a = np.broadcast_to(p.a, p.b.shape)
    states, da, db = np.zeros_like(p.b), np.zeros_like(p.b), np.zeros_like(p.b)
    dinitial, dreset = np.zeros_like(p.initial_state), np.zeros_like(p.initial_state)
    order = range(time)[::-1] if reverse else range(time)
    for row in np.ndindex(*batch):
        length = time if p.lengths is None else p.lengths[row]
        h, before = p.initial_state[row], {}
        for t in order:
            if t < length:
                before[t] = p.reset_state[row] if p.resets is not None and p.resets[(t, *row)] else h
                h = a[(t, *row)] * before[t] + p.b[(t, *row)]
            states[(t, *row)] = h
        pending = np.zeros_like(h)
        for t in order[::-1]:
            pending = pending + p.dstates[(t, *row)]
            if t < length:
                da[(t, *row)], db[(t, *row)] = pending * before[t], pending
                pending = pending * a[(t, *row)]
                if p.resets is not None and p.resets[(t, *row)]:
                    dreset[row] += pending
                    pending = np.zeros_like(h)
        dinitial[row] = pending
    wide = (1,) * (p.b.ndim - p.a.ndim) + p.a.shape
    summed = tuple(i for i, size in enumerate(wide) if size != p.b.shape[i])
    return states, (da.sum(axis=summed).reshape(p.a.shape), db, dinitial, dreset)


def assert_close(found: Any, expected: Any, tolerance: float = 1e-10) -> None:
    """Every array, real or complex, is right to ``tolerance``, relative to its largest number."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        where, a, b = jax.tree_util.keystr(path), np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, where
        error = np.abs(a - b).max(initial=0)
        assert error <= tolerance * np.abs(b).max(initial=0), f"at {where}: an error of {error}"
