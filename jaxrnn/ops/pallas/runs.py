"""Runs of ``jax.vmap`` as heads, in one launch of a kernel.

Pallas gives each ``vmap`` an axis of its own in every array, and Mosaic GPU's copies have five at most. To a
kernel a run is what a head is, rows that read weights of their own::

    steps    [runs, time, heads * rows, ...]   ->   [time, runs * heads * rows, ...]
    whole    [runs, heads, ...]                ->   [runs * heads, ...]

Runs that share all weights, as for the gradient of every row, are more rows of the same heads.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.ops.pallas.interface import Blocks, Sizes


def with_runs(launch: Callable[[Blocks, Blocks, Sizes], Blocks], outputs: Blocks, sizes: Sizes) -> Any:
    """A function ``inputs -> outputs`` that ``jax.vmap`` turns into one launch for all of its runs.

    Args:
      launch: ``(inputs, outputs, sizes)`` to the arrays whose shapes ``outputs`` has.
      outputs, sizes: those of a single run.
    """

    @jax.custom_batching.custom_vmap
    def one(inputs: Blocks) -> Blocks:
        return launch(inputs, outputs, sizes)

    @one.def_vmap
    def all_of_them(count: int, of_arguments: Any, inputs: Blocks) -> tuple[Blocks, Blocks]:
        (has_runs,) = of_arguments
        of_all = jax.tree.map(lambda _: True, outputs)
        if not count:
            return jax.tree.map(lambda shape: jnp.zeros((0, *shape.shape), shape.dtype), outputs), of_all
        # Weights of their own make runs heads, and they come before the heads of a run. Otherwise they come after.
        own_weights = any(jax.tree.leaves(has_runs.whole))
        new = sizes._replace(rows=count * sizes.rows, heads=sizes.heads * (count if own_weights else 1))
        order, place = ((count, sizes.heads), 0) if own_weights else ((sizes.heads, count), 1)

        def joined(array: Array, has_runs: bool, axis: int) -> Array:
            if not has_runs:
                array = jnp.broadcast_to(array, (count, *array.shape))
            split = array.reshape(*array.shape[: axis + 1], sizes.heads, -1, *array.shape[axis + 2 :])
            split = jnp.moveaxis(split, 0, axis + place)
            return split.reshape(*split.shape[:axis], -1, *split.shape[axis + 3 :])

        def apart(array: Array, axis: int) -> Array:
            split = array.reshape(*array.shape[:axis], *order, -1, *array.shape[axis + 1 :])
            split = jnp.moveaxis(split, axis + place, 0)
            return split.reshape(count, *split.shape[1 : axis + 1], -1, *split.shape[axis + 3 :])

        def shape_of_all(shape: Any, axis: int) -> Any:
            sizes_of_all = (*shape.shape[:axis], count * shape.shape[axis], *shape.shape[axis + 1 :])
            return jax.ShapeDtypeStruct(sizes_of_all, shape.dtype)

        def with_axes(function: Callable[..., Any], *blocks: Blocks) -> Blocks:
            """Applied to every array, with the axis of its rows."""
            steps, rows = (
                jax.tree.map(
                    lambda *leaves, axis=axis: function(*leaves, axis), *(getattr(b, name) for b in blocks)
                )
                for name, axis in (("steps", 1), ("rows", 0))
            )
            return Blocks(steps, rows, blocks[0].whole)

        joined_inputs = with_axes(joined, inputs, has_runs)
        if own_weights:
            whole = jax.tree.map(lambda array, has_runs: joined(array, has_runs, 0), inputs.whole, has_runs.whole)
            joined_inputs = joined_inputs._replace(whole=whole)
        found = with_runs(launch, with_axes(shape_of_all, outputs), new)(joined_inputs)
        return with_axes(apart, found), of_all

    return one
