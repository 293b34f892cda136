"""Scans any Flax cell over a sequence without the engine, with the same meaning of lengths and resets."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jaxrnn.checks import Cell
from jaxrnn.ops.masks import checked_resets, valid_steps
from jaxrnn.ops.step import Carry, cast


def scan_any_cell(
    cell: Cell,
    inputs: Array,
    initial_carry: Carry,
    *,
    seq_lengths: Array | None,
    resets: Array | None,
    reset_carry: Carry,
    reverse: bool,
    unroll: int | None,
    broadcast_rngs: nnx.filterlib.Filter = None,
) -> tuple[Carry, Array]:
    """Scan a cell over ``inputs [time, *batch, *features]``.

    The cell's other variables (statistics, random streams) are carried from step to step, and updated in the cell
    at the end. Random streams that ``broadcast_rngs`` selects start from the same state at every step, so that a
    mask drawn from them is the same at every step; the whole sequence counts as one use of them.
    """
    batch = inputs.shape[1 : inputs.ndim - cell.num_feature_axes]
    valid = None if seq_lengths is None else valid_steps(seq_lengths, inputs.shape[0], batch)
    resets = checked_resets(resets, inputs.shape[0], batch, valid)
    repeated_filter = nnx.All(nnx.RngState, broadcast_rngs)
    # In this block the repeated streams are new ones, split off from the cell's own; afterwards the cell has its
    # own streams again, advanced by one use.
    with nnx.split_rngs(cell, splits=1, only=broadcast_rngs, squeeze=True):
        graphdef, params, repeated, other = nnx.split(cell, nnx.Param, repeated_filter, ...)

    def body(state, step):
        carry, other = state
        x, valid_t, reset_t = step
        if reset_t is not None:
            carry = _where(reset_t, reset_carry, carry)
        # Flax only lets this trace update variables that were made in it, so copy them.
        merged = nnx.merge(graphdef, params, jax.tree.map(lambda a: a, repeated), other)
        new_carry, y = merged(carry, x)
        _, _, other = nnx.state(merged, nnx.Param, repeated_filter, ...)
        new_carry = in_dtypes_of(carry, new_carry)
        if valid_t is not None:
            new_carry = _where(valid_t, new_carry, carry)
            y = _where(valid_t, y, jax.tree.map(jnp.zeros_like, y))
        return (new_carry, other), y

    (carry, other), outputs = lax.scan(
        body, (initial_carry, other), (inputs, valid, resets), reverse=reverse, unroll=unroll or 1
    )
    nnx.update(cell, other)
    return carry, outputs


def align(condition: Array, array: Array) -> Array:
    """``condition`` with trailing axes of size one, so that it broadcasts over the features of ``array``."""
    return condition.reshape(condition.shape + (1,) * (array.ndim - condition.ndim))


def in_dtypes_of(old: Carry, new: Carry) -> Carry:
    """The new carry in the dtypes of the old one. Only casts between floating types are allowed."""
    return jax.tree.map(_like, new, old)


def _like(new: Array, old: Array) -> Array:
    new = jnp.asarray(new)
    if new.dtype != old.dtype and not (
        jnp.issubdtype(new.dtype, jnp.floating) and jnp.issubdtype(old.dtype, jnp.floating)
    ):
        raise ValueError(
            f"the cell returns a carry of {new.dtype}, but initial_carry is {old.dtype}: pass {new.dtype} instead"
        )
    return cast(new, old.dtype)


def _where(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(align(condition, a), a, b), yes, no)
