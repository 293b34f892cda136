"""Heads of a recurrence as rows of the batch.

The units of a head depend on no other head's. So the heads become rows: every tile of rows belongs to one head,
and reads that head's weights. Rows are ordered by head, each head has whole tiles of them, and every array has the
units
of one head::

    xw        [time, batch, gates * hidden]   ->   [time, heads * rows, gates * units]
    params    [hidden]                        ->   [heads, units]
"""

import functools
import typing
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.ops.scan import scan_recurrence
from jaxrnn.ops.step import Carry, Pointwise, Recurrence, by_head


def heads_as_rows(a: Recurrence, rows: int) -> Recurrence:
    """A recurrence with one batch axis and a recurrent kernel with heads, with ``rows`` rows for every head."""
    heads, units, _ = a.recurrent_kernel.shape

    def of_units(array: Array) -> Array:
        """``[..., batch, gates * hidden]`` to ``[..., heads * rows, gates * units]``."""
        split = jnp.moveaxis(_with_rows(by_head(array, heads, units), rows, -3), -2, -3)
        return split.reshape(*split.shape[:-3], heads * rows, split.shape[-1])

    def of_mask(mask: Array | None) -> Array | None:
        return None if mask is None else jnp.tile(_with_rows(mask, rows, -1), heads)

    def of_param(param: Array) -> Array:
        return param if param.size == 1 else param.reshape(heads, units)

    return Recurrence(
        recurrent_kernel=a.recurrent_kernel,
        xw=of_units(a.xw),
        initial_carry=jax.tree.map(of_units, a.initial_carry),
        params=jax.tree.map(of_param, a.params),
        recurrent_bias=None if a.recurrent_bias is None else by_head(a.recurrent_bias, heads, units),
        recurrent_scale=None if a.recurrent_scale is None else of_units(a.recurrent_scale),
        valid=of_mask(a.valid),
        resets=of_mask(a.resets),
        reset_carry=jax.tree.map(of_units, a.reset_carry),
    )


def rows_as_heads(array: Array, heads: int, batch: int) -> Array:
    """``[..., heads * rows, units]`` to ``[..., batch, heads * units]``."""
    split = array.reshape(*array.shape[:-2], heads, -1, array.shape[-1])[..., :batch, :]
    return jnp.moveaxis(split, -3, -2).reshape(*array.shape[:-2], batch, -1)


def scan_heads(pointwise: Pointwise, a: Recurrence, *, reverse: bool) -> tuple[Carry, Array]:
    """:func:`scan_recurrence` of what :func:`heads_as_rows` returns, and of any recurrence without heads."""
    run = functools.partial(scan_recurrence, pointwise, reverse=reverse, unroll=1)
    if a.recurrent_kernel.ndim == 2:
        return run(a)
    heads = len(a.recurrent_kernel)

    def split(axis: int) -> Any:
        return lambda array: array.reshape(*array.shape[:axis], heads, -1, *array.shape[axis + 1 :])

    apart = a._replace(
        xw=split(1)(a.xw),
        **{name: jax.tree.map(split(0), getattr(a, name)) for name in ("initial_carry", "reset_carry")},
        recurrent_scale=jax.tree.map(split(0), a.recurrent_scale),
        valid=jax.tree.map(split(1), a.valid),
        resets=jax.tree.map(split(1), a.resets),
    )
    of_params = jax.tree.map(lambda p: 0 if p.ndim == 2 else None, a.params)
    axes = Recurrence(*typing.cast("list[Any]", [0, 1, 0, of_params, 0, 0, 1, 1, 0]))
    carry, outputs = jax.vmap(run, in_axes=(axes,), out_axes=(0, 1))(apart)
    carry = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), carry)
    return carry, outputs.reshape(len(outputs), -1, outputs.shape[-1])


def _with_rows(array: Array, rows: int, axis: int) -> Array:
    """The array with zeros behind it along an axis."""
    padding = [(0, 0)] * array.ndim
    padding[axis] = (0, rows - array.shape[axis])
    return jnp.pad(array, padding)
