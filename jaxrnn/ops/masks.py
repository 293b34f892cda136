"""The masks of a recurrence, lengths and resets: their checks, and what a padded step reads."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from jaxrnn.ops.step import Carry

NOTHING_KNOWN = 2.0**-10
"""What the padding of a row without any step becomes: near 0, where equations may have no derivative."""


def valid_steps(seq_lengths: Array, time: int, batch: tuple[int, ...]) -> Array:
    """bool ``[time, *batch]``: which steps lie within each row's length."""
    lengths = checked_lengths(seq_lengths, time, batch)
    return jnp.arange(time).reshape(time, *([1] * lengths.ndim)) < lengths[None]


def without_padding(inputs: Array, seq_lengths: Array, valid: Array) -> Array:
    """``inputs [time, *batch, *features]`` where a row stays as it is at its last step, from its length on.

    What is in the padding must not reach a gradient, which is 0 there: 0 * NaN is NaN, and so is 0 * inf. So it is
    neither what it was, nor 0, where equations such as a square root or a norm have no finite derivative, but an
    input that the equations had to take anyway.
    """
    if not jnp.issubdtype(inputs.dtype, jnp.inexact) or inputs.shape[0] == 0:
        return jnp.where(_aligned(valid, inputs), inputs, 0)
    lengths = _aligned(seq_lengths[None], inputs)
    last = jnp.take_along_axis(lax.stop_gradient(inputs), jnp.maximum(lengths - 1, 0), axis=0)
    return jnp.where(_aligned(valid, inputs), inputs, jnp.where(lengths > 0, last, NOTHING_KNOWN))


def _aligned(mask: Array, array: Array) -> Array:
    return mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim))


def checked_lengths(seq_lengths: Array, time: int, batch: tuple[int, ...]) -> Array:
    """``seq_lengths`` as int32, or a ValueError; those that are not known yet are clipped to 0..time."""
    lengths = jnp.asarray(seq_lengths)
    if lengths.shape != batch or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"seq_lengths must be integers of shape {batch}, not {lengths.dtype} {lengths.shape}")
    if not isinstance(lengths, Tracer) and lengths.size:
        known = np.asarray(lengths)  # in NumPy, since within jit even a known array's minimum is not known
        low, high = int(known.min()), int(known.max())
        if low < 0 or high > time:
            raise ValueError(f"seq_lengths must lie in 0..{time} (time), but reach from {low} to {high}")
    return jnp.clip(lengths.astype(jnp.int32), 0, time)


def checked_resets(resets: Array | None, time: int, batch: tuple[int, ...], valid: Array | None) -> Array | None:
    """``resets`` as an array, or a ValueError; without those in the padding, which freezes the carry."""
    if resets is None:
        return None
    resets = jnp.asarray(resets)
    if resets.shape != (time, *batch) or resets.dtype != jnp.bool_:
        raise ValueError(f"resets must be bool of shape {(time, *batch)}, not {resets.dtype} {resets.shape}")
    return resets if valid is None else resets & valid


def checked_reset_carry(reset_carry: Carry, initial_carry: Carry) -> Carry:
    """``reset_carry`` in the dtypes of ``initial_carry``, or a ValueError if its structure or shapes differ."""
    expected, found = jax.tree.structure(initial_carry), jax.tree.structure(reset_carry)
    if expected != found:
        raise ValueError(f"reset_carry has the structure {found}, but must have that of the carry, {expected}")
    leaves = zip(jax.tree_util.tree_leaves_with_path(reset_carry), jax.tree.leaves(initial_carry), strict=True)
    for (path, leaf), like in leaves:
        if jnp.shape(leaf) != like.shape:
            raise ValueError(
                f"reset_carry{jax.tree_util.keystr(path)} has the shape {jnp.shape(leaf)}, but must have that of "
                f"the carry, {like.shape}"
            )
    return jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), reset_carry, initial_carry)
