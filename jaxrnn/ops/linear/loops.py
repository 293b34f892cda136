"""Linear recurrences in plain JAX, with hand-written gradients.

With d for the gradient of the loss, the gradients of h_t = a_t * h_{t-1} + b_t are the same recurrence, reversed::

    db_t = dh_t + a_{t+1} * db_{t+1}
    da_t = db_t * h_{t-1}

So the implementation that computed the states also computes their gradient, and the gradient of a gradient. Only
the states and a are kept for it. (As everywhere in JAX, gradients of complex numbers are not conjugated.)
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrnn.ops.linear.arrays import LinearArrays, states_before, sum_to, without_masks

Loop = Callable[[Array, Array, Array, bool], Array]
"""``(a, b, initial_state, reverse) -> states``, where a may have axes of size 1."""


def scan(a: Array, b: Array, initial_state: Array, reverse: bool) -> Array:
    """One step after the other."""
    constant = a.shape[0] == 1

    def body(h: Array, step: tuple[Array | None, Array]) -> tuple[Array, Array]:
        a_t, b_t = step
        h = (a[0] if a_t is None else a_t) * h + b_t
        return h, h

    return lax.scan(body, initial_state, (None if constant else a, b), reverse=reverse)[1]


def associative(a: Array, b: Array, initial_state: Array, reverse: bool) -> Array:
    """All steps at once, in about log2(time) rounds (Blelloch 1990): more work than a scan, and more memory."""
    a, b = lax.associative_scan(_after, (jnp.broadcast_to(a, b.shape), b), reverse=reverse)
    return a * initial_state[None] + b


def _after(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """Two steps in one: h -> a2 * (a1 * h + b1) + b2."""
    (a1, b1), (a2, b2) = first, second
    return a1 * a2, a2 * b1 + b2


def chunked(a: Array, b: Array, initial_state: Array, reverse: bool) -> Array:
    """Chunks of about sqrt(time) steps side by side: a scan within all of them, and an associative scan across.

    The first scan only finds what each chunk does to its first state, and the second computes the states.
    """
    time = b.shape[0]
    length = math.isqrt(max(time - 1, 0)) + 1
    chunks = -(-time // length)
    padded = chunks * length - time
    missing = (padded, 0) if reverse else (0, padded)

    def cut(array: Array, fill: int) -> Array:
        padding = [missing] + [(0, 0)] * (array.ndim - 1)
        array = jnp.pad(array, padding, constant_values=fill) if any(missing) else array
        return jnp.moveaxis(array.reshape(chunks, length, *array.shape[1:]), 1, 0)

    a = jnp.broadcast_to(a, (1, chunks, *a.shape[1:])) if a.shape[0] == 1 else cut(a, 1)
    b = cut(b, 0)

    def whole(of_chunk: tuple[Array, Array], step: tuple[Array | None, Array]) -> tuple[tuple[Array, Array], None]:
        a_t, b_t = step
        return _after(of_chunk, (a[0] if a_t is None else a_t, b_t)), None

    none = (jnp.ones_like(b[0]), jnp.zeros_like(b[0]))
    steps = (None if a.shape[0] == 1 else a, b)
    ends, _ = lax.scan(whole, none, steps, reverse=reverse)
    ends = associative(*ends, initial_state, reverse)
    states = scan(a, b, states_before(initial_state, ends, reverse), reverse)
    states = jnp.moveaxis(states, 0, 1).reshape(chunks * length, *states.shape[2:])
    return states[missing[0] : missing[0] + time]


def loop_recurrence(loop: Loop, x: LinearArrays, *, reverse: bool, batch_major: bool) -> Array:
    """Run a loop; ``batch_major`` has no effect."""
    a, b = without_masks(x)
    return _states(loop, reverse, a, b, x.initial_state)


def _by_loop(loop: Loop, reverse: bool, a: Array, b: Array, initial_state: Array) -> Array:
    return loop(a, b, initial_state, reverse)


_states: Any = jax.custom_vjp(_by_loop, nondiff_argnums=(0, 1))


def _forward(loop: Loop, reverse: bool, a: Array, b: Array, initial_state: Array):
    states = _states(loop, reverse, a, b, initial_state)
    return states, (a, initial_state, states)


def _backward(loop: Loop, reverse: bool, residuals: tuple[Array, Array, Array], dstates: Array):
    a, initial_state, states = residuals
    following = a
    if a.shape[0] > 1:  # what comes after the last step is multiplied by zero
        following = jnp.concatenate([a[-1:], a[:-1]] if reverse else [a[1:], a[:1]])
    db = _states(loop, not reverse, following, dstates, jnp.zeros_like(initial_state))
    da = sum_to(db * states_before(initial_state, states, reverse), a.shape)
    first = -1 if reverse else 0
    return da, db, a[first] * db[first]


_states.defvjp(_forward, _backward)
