"""The interface between the loops over time (``loops.py``) and the devices: blocks, sizes, operations on tiles."""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from jaxrnn.ops.pallas.cell import Cell
from jaxrnn.ops.step import accumulation_dtype


class Blocks(NamedTuple):
    """Arrays (or their shapes, or references to them in a kernel) by how they are cut into blocks.

    Attributes:
      steps: ``[time, rows, ...]``, one slice for every step.
      rows: ``[rows, ...]``, the same for every step. As outputs of a kernel: the loop's state.
      whole: ``[heads, ...]``, needed by every row of a head.
    """

    steps: dict[str, Any]
    rows: dict[str, Any]
    whole: dict[str, Any]


class Sizes(NamedTuple):
    """Sizes of the arrays that a kernel gets: ``rows`` of the batch in all, ``tile`` in one program, ``parts``
    programs that share the units of a tile. The rows of every one of the ``heads`` are whole tiles, see
    ``heads.py``.
    """

    rows: int
    tile: int
    hidden: int
    parts: int = 1
    heads: int = 1

    @property
    def tiles_of_head(self) -> int:
        return self.rows // self.tile // self.heads


class TileOps(NamedTuple):
    """What a device provides for a loop: the order of the steps in a kernel, and operations on tiles.

    Attributes:
      count: number of steps.
      position: of the i-th step in the arrays.
      prefetch: whether to read a step's arrays one step ahead, where no pipeline does that.
      shape: of a tile.
      read: ``(reference)``, ``(reference, t)`` or ``(reference, t, gate)`` to a tile.
      write: ``(reference, tile, t)`` or ``(reference, tile, t, gate)``.
      product: the recurrent product of the i-th step, ``(i, tiles)``. Forward, ``[left]`` to a tile for every
        gate; backward, the gradients of those to that of left, ``[dleft]``.
      hold: a tile as the loop carries it from step to step.
      simplify: rewrites a function of tiles in operations that the device's compiler supports.
      real: which elements of a tile are not padding; None if all are.
    """

    count: Any
    position: Callable[[Any], Any]
    prefetch: bool
    shape: tuple[int, int]
    read: Callable[..., Array]
    write: Callable[..., None]
    product: Callable[[Any, list[Array]], list[Array]]
    hold: Callable[[Array], Array] = lambda tile: tile
    simplify: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function
    real: Array | None = None

    def run(self, load: Callable[[Any], Any], step: Callable[[Any, Any, Any], Any], state: Any) -> Any:
        """``state = step(i, load(t), state)`` for every step, where the i-th step is at t in the arrays."""
        state = jax.tree.map(self.hold, state)

        def held(i, loaded, state):
            return jax.tree.map(self.hold, step(i, loaded, state))

        if not self.prefetch:
            return lax.fori_loop(0, self.count, lambda i, s: held(i, load(self.position(i)), s), state)

        def body(i, state_and_loaded):
            state, loaded = state_and_loaded
            following = load(self.position(jnp.minimum(i + 1, self.count - 1)))
            return held(i, loaded, state), following

        return lax.fori_loop(0, self.count, body, (state, load(self.position(0))))[0]


class Kernel(NamedTuple):
    """A loop over time of a cell.

    Attributes:
      start: ``(inputs, ops)`` to the first state.
      run: ``(inputs, outputs, ops, state)`` to the last one.
    """

    name: str
    cell: Cell
    backward: bool
    start: Callable[[Blocks, TileOps], Any]
    run: Callable[[Blocks, Blocks, TileOps, Any], Any]


def in_rows(kernel: Kernel, sizes: Sizes, weight: Callable[[int], Array]) -> dict[str, Any]:
    """The arguments of :class:`TileOps` for tiles ``[rows, hidden]``, where one program has all units of its rows.

    Args:
      weight: gate to its matrix ``[hidden, hidden]``, transposed in the backward loop.
    """
    cell, backward = kernel.cell, kernel.backward
    shape = sizes.tile, sizes.hidden

    def columns(t, gate=None):
        return t if gate is None else (t, slice(None), pl.ds(gate * sizes.hidden, sizes.hidden))

    def read(reference, *index):
        return reference[columns(*index)] if index else reference[...]

    def write(reference, tile, *index):
        reference[columns(*index)] = tile

    def product(i, tiles):
        products = [
            jnp.dot(tile, weight(gate), preferred_element_type=accumulation_dtype(tile.dtype))
            for gate, tile in enumerate(tiles if backward else tiles * cell.recurrent_gates)
        ]
        return [functools.reduce(operator.add, products)] if backward else products

    real = None
    if sizes.hidden != cell.hidden:
        real = lax.broadcasted_iota(jnp.int32, shape, 1) < cell.hidden
    return {"shape": shape, "read": read, "write": write, "product": product, "real": real}
