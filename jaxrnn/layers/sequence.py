"""A cell over a whole sequence, time first: on the engine where the cell allows it, scanned as it is otherwise."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn.cells.base import RecurrentCell
from jaxrnn.layers.any_cell import align, scan_any_cell
from jaxrnn.ops.dispatch import recurrence, valid_steps
from jaxrnn.ops.step import Carry, cast


def run_cell(
    cell: nnx.RNNCellBase,
    inputs: Array,
    *,
    initial_carry: Carry | None = None,
    seq_lengths: Array | None = None,
    resets: Array | None = None,
    reverse: bool = False,
    unroll: int = 1,
    implementation: str | None = None,
    rngs: nnx.Rngs | nnx.RngStream | None = None,
    broadcast_rngs: nnx.filterlib.Filter = None,
) -> tuple[Carry, Array]:
    """Apply a cell at every step.

    Args:
      cell: any Flax cell; a :class:`jaxrnn.RecurrentCell` runs on the engine.
      inputs: ``[time, *batch, *features]``.
      initial_carry: what the cell starts from; None for its own ``initialize_carry``.
      seq_lengths, resets, reverse, unroll, implementation: as in :func:`jaxrnn.ops.recurrence`.
      rngs: for cells whose first carry is random.
      broadcast_rngs: for cells with random streams of their own, those that repeat at every step.

    Returns:
      The final carry, and the outputs ``[time, *batch, *features]``, aligned with the inputs.
    """
    if seq_lengths is not None:
        axes = cell.num_feature_axes
        valid = valid_steps(seq_lengths, inputs.shape[0], inputs.shape[1 : inputs.ndim - axes])
        inputs = jnp.where(align(valid, inputs), inputs, 0)
    options: dict[str, Any] = dict(seq_lengths=seq_lengths, resets=resets, reverse=reverse, unroll=unroll)
    if isinstance(cell, RecurrentCell):
        return _on_engine(cell, inputs, initial_carry, implementation=implementation, **options)
    if implementation is not None:
        raise ValueError(
            f"{implementation=} needs a jaxrnn.RecurrentCell; a {type(cell).__name__} is scanned as it is: "
            "leave implementation at None"
        )
    if initial_carry is None:
        shape = inputs.shape[1:]
        initial_carry = cell.initialize_carry(shape, nnx.Rngs(0) if rngs is None else rngs)
    return scan_any_cell(cell, inputs, initial_carry, broadcast_rngs=broadcast_rngs, **options)


def _on_engine(
    cell: RecurrentCell, inputs: Array, initial_carry: Carry | None, **options: Any
) -> tuple[Carry, Array]:
    xw = cell.input_projection(inputs)
    if initial_carry is None:
        zeros = cell.initialize_carry((*inputs.shape[1:-1], cell.in_features))
        initial_carry = jax.tree.map(lambda a: cast(a, xw.dtype), zeros) if cell.dtype is None else zeros
    else:
        _check_carry(cell, initial_carry, inputs)
    kernel, recurrent_bias = cell.recurrent_parameters(xw.dtype)
    pointwise, params = cell.pure_pointwise()
    return recurrence(
        pointwise, kernel, xw, initial_carry, params=params, recurrent_bias=recurrent_bias, **options
    )


def _check_carry(cell: RecurrentCell, carry: Carry, inputs: Array) -> None:
    expected = jax.eval_shape(lambda: cell.initialize_carry((*inputs.shape[1:-1], cell.in_features)))
    found = jax.tree.structure(carry)
    if found != jax.tree.structure(expected):
        raise ValueError(
            f"initial_carry has the structure {found}, but {type(cell).__name__} needs "
            f"{jax.tree.structure(expected)}: see its initialize_carry"
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(carry), jax.tree.leaves(expected), strict=True)
    for (path, leaf), want in pairs:
        if jnp.shape(leaf) != want.shape:
            raise ValueError(
                f"initial_carry{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}, but inputs of shape "
                f"{inputs.shape} (time first) need {want.shape}"
            )


def flip_time(array: Array, seq_lengths: Array | None) -> Array:
    """``array [time, *batch, ...]`` backwards, row by row within its length; padding stays where it is."""
    if seq_lengths is None:
        return jnp.flip(array, axis=0)
    steps = jnp.arange(array.shape[0]).reshape(-1, *([1] * jnp.ndim(seq_lengths)))
    lengths = jnp.asarray(seq_lengths)
    source = jnp.where(steps < lengths, lengths - 1 - steps, steps)
    return jnp.take_along_axis(array, align(source, array), axis=0)
