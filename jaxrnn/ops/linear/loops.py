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

Loop = Callable[[Array, Array, Array, bool, Array | None], Array]
"""``(a, b, initial_state, reverse, forget) -> states``, where a may have axes of size 1. The state of a step in
``forget``, bool ``[time, *batch, 1]``, is b alone, even if the state before is infinite or NaN."""


def scan(a: Array, b: Array, initial_state: Array, reverse: bool, forget: Array | None) -> Array:
    """One step after the other."""
    constant = a.shape[0] == 1

    def body(h: Array, step: tuple[Array | None, Array, Array | None]) -> tuple[Array, Array]:
        a_t, b_t, forget_t = step
        h = next_state(a[0] if a_t is None else a_t, b_t, h, forget_t)
        return h, h

    return lax.scan(body, initial_state, (None if constant else a, b, forget), reverse=reverse)[1]


def next_state(a: Array, b: Array, h: Array, forget: Array | None) -> Array:
    return a * h + b if forget is None else jnp.where(forget, b, a * h + b)


Span = tuple[Array, Array, Array | None]
"""a, b and ``forget`` of some steps in one."""


def associative(a: Array, b: Array, initial_state: Array, reverse: bool, forget: Array | None) -> Array:
    """All steps at once, in about log2(time) rounds (Blelloch 1990): more work than a scan, and more memory."""
    steps = (jnp.broadcast_to(a, b.shape), b, forget)
    a, b, forget = lax.associative_scan(_after, steps, reverse=reverse)
    return next_state(a, b, initial_state[None], forget)


def _after(first: Span, second: Span) -> Span:
    """Two steps in one: h -> a2 * (a1 * h + b1) + b2. Where it forgets h, its a has no meaning."""
    (a1, b1, forget1), (a2, b2, forget2) = first, second
    forget = None if forget1 is None or forget2 is None else forget1 | forget2
    return a1 * a2, next_state(a2, b2, b1, forget2), forget


def chunked(a: Array, b: Array, initial_state: Array, reverse: bool, forget: Array | None) -> Array:
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
    forget = None if forget is None else cut(forget, False)

    def whole(of_chunk: Span, step: tuple[Array | None, Array, Array | None]) -> tuple[Span, None]:
        a_t, b_t, forget_t = step
        return _after(of_chunk, (a[0] if a_t is None else a_t, b_t, forget_t)), None

    none = (jnp.ones_like(b[0]), jnp.zeros_like(b[0]), None if forget is None else jnp.zeros_like(forget[0]))
    steps = (None if a.shape[0] == 1 else a, b, forget)
    (totals, ends, forgotten), _ = lax.scan(whole, none, steps, reverse=reverse)
    ends = associative(totals, ends, initial_state, reverse, forgotten)
    states = scan(a, b, states_before(initial_state, ends, reverse), reverse, forget)
    states = jnp.moveaxis(states, 0, 1).reshape(chunks * length, *states.shape[2:])
    return states[missing[0] : missing[0] + time]


def loop_recurrence(loop: Loop, x: LinearArrays, *, reverse: bool, batch_major: bool) -> Array:
    """Run a loop; ``batch_major`` has no effect."""
    a, b, forget = without_masks(x)
    return _states(loop, reverse, a, b, x.initial_state, forget)


def _by_loop(loop: Loop, reverse: bool, a: Array, b: Array, initial_state: Array, forget: Array | None) -> Array:
    return loop(a, b, initial_state, reverse, forget)


_states: Any = jax.custom_vjp(_by_loop, nondiff_argnums=(0, 1))


def _forward(loop: Loop, reverse: bool, a: Array, b: Array, initial_state: Array, forget: Array | None):
    states = _states(loop, reverse, a, b, initial_state, forget)
    return states, (a, initial_state, states, forget)


def _backward(loop: Loop, reverse: bool, residuals: Any, dstates: Array):
    a, initial_state, states, forget = residuals

    def following(array: Array) -> Array:
        """That of the next step, for every step. What comes after the last one is multiplied by zero."""
        return jnp.concatenate([array[-1:], array[:-1]] if reverse else [array[1:], array[:1]])

    next_a = a if a.shape[0] == 1 else following(a)
    next_forget = None if forget is None else following(forget)
    db = _states(loop, not reverse, next_a, dstates, jnp.zeros_like(initial_state), next_forget)
    da, first = db * states_before(initial_state, states, reverse), -1 if reverse else 0
    dinitial = a[first] * db[first]
    if forget is not None:  # these steps do not depend on the state before
        da, dinitial = jnp.where(forget, 0, da), jnp.where(forget[first], 0, dinitial)
    return sum_to(da, a.shape), db, dinitial, None


_states.defvjp(_forward, _backward)
