"""The recurrent product of a cluster of blocks, each with a part of the units: what ``cluster.py`` runs.

Everything that a block needs from the others goes through the level 2 cache, once a step, between two waits: until
all blocks have written, and until what was asked for has come. Two buffers take turns: who writes to one of them
has passed a barrier that everybody else reaches only after reading it.

Weights come in pieces, which have places in shared memory. Where there is a place for each, they are read from
memory once and stay. Where there is not, the last three places are a ring for those that have none: they are read
again at every step, from the level 2 cache, each sent for as soon as one before it has been used, so that copies
run on while the blocks wait for each other.
"""

import functools
import inspect
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as mosaic

from jaxrnn.ops.pallas.walk import Sizes
from jaxrnn.ops.step import accumulation_dtype

THREADS = 128
PIECE = 64
"""Rows that the tensor cores take at least."""

RING = 3
"""Places for pieces that do not stay: one in use, two on their way."""


class Needs(NamedTuple):
    """What a block needs in shared memory, one way: its pieces of the weights, and places for them.

    Attributes:
      pieces: how many there are.
      piece: shape of one.
      places: for how many there is room.
      width: units of all gates, of one block, with padding.

    The first ``staying`` pieces, all of them if ``stay``, keep their places.
    """

    pieces: int
    piece: tuple[int, int]
    places: int
    width: int

    @property
    def stay(self) -> bool:
        return self.places == self.pieces

    @property
    def staying(self) -> int:
        return self.pieces if self.stay else self.places - RING


def needs(sizes: Sizes, gates: int, itemsize: int, limit: int, *, backward: bool) -> Needs:
    """What fits ``limit`` bytes, which may be less than a ring needs."""
    hidden, rows, units = sizes.hidden, sizes.tile, sizes.hidden // sizes.parts
    width = up(gates * units, PIECE)
    if backward:
        left = limit - 4 * hidden * rows - 2 * itemsize * width * rows
        for piece in (math.gcd(hidden, 2 * PIECE), PIECE):  # the larger, the less waiting
            found = Needs(hidden // piece, (piece, width), left // (piece * width * itemsize), width)
            if found.places >= found.pieces:
                break
    else:
        left = limit - 4 * width * rows - itemsize * (hidden + units) * rows
        found = Needs(hidden // PIECE, (width, PIECE), left // (width * PIECE * itemsize), width)
    return found._replace(places=min(found.pieces, found.places))


class Scratch(NamedTuple):
    """What a block has in shared memory.

    Attributes:
      places: pieces of its part of the recurrent kernel.
      right: the right side of the product, ``[summed, rows]``.
      result: the product, ``[units of all gates, rows]`` or, backward, ``[all units, rows]``.
      mine: what the block itself adds to the right side, as its threads have it.
      piece_came: barriers, one for each place.
      all_came: barrier, for all copies from the exchange.
      everybody: barrier of the cluster.
    """

    places: Any
    right: Any
    result: Any
    mine: Any
    piece_came: Any
    all_came: Any
    everybody: Any


def scratch(sizes: Sizes, need: Needs, dtype: jnp.dtype, *, backward: bool) -> Scratch:
    hidden, rows = sizes.hidden, sizes.tile

    def operand(*shape):  # the tensor cores want both sides of a product in pieces of the same width
        transforms = mosaic.TilingTransform((8, rows)), mosaic.SwizzleTransform(rows * dtype.itemsize)
        return mosaic.SMEM(shape, dtype, transforms=transforms)

    return Scratch(
        operand(need.places, *need.piece),
        operand(need.width if backward else hidden, rows),
        mosaic.SMEM((hidden if backward else need.width, rows), accumulation_dtype(dtype)),
        mosaic.SMEM((need.width if backward else hidden // sizes.parts, rows), dtype),
        mosaic.Barrier(num_barriers=need.places),
        mosaic.Barrier(num_arrivals=sizes.parts if backward else 1),
        mosaic.ClusterBarrier(collective_axes=("part",)),
    )


def exchange(sizes: Sizes, dtype: jnp.dtype, *, backward: bool) -> jax.ShapeDtypeStruct:
    """Two buffers, through which the blocks of a cluster tell each other what they know."""
    tiles = sizes.rows // sizes.tile
    if backward:
        return jax.ShapeDtypeStruct((2, tiles, sizes.parts, sizes.hidden, sizes.tile), accumulation_dtype(dtype))
    return jax.ShapeDtypeStruct((2, tiles, sizes.hidden, sizes.tile), dtype)


def weights(kernels: Array, sizes: Sizes, need: Needs, *, backward: bool) -> Array:
    """``[parts, pieces, ...]`` from ``[gates, hidden, hidden]``, which for backward are transposed.

    Forward a piece has the block's units of all gates in its rows, and some units of h in its columns; backward,
    some units of h in its rows, and the block's units of all gates in its columns.
    """
    gates, hidden, _ = kernels.shape
    width = gates * hidden // sizes.parts
    if backward:
        kernels = kernels.swapaxes(1, 2)
    columns = jnp.moveaxis(kernels.reshape(gates, hidden, sizes.parts, -1), 2, 0)  # [parts, gates, hidden, units]
    of_all_gates = columns.swapaxes(1, 2).reshape(sizes.parts, hidden, width)
    padded = jnp.pad(of_all_gates, ((0, 0), (0, 0), (0, need.width - width)))
    pieces = padded.reshape(sizes.parts, need.pieces, -1, need.width)
    return pieces if backward else pieces.swapaxes(2, 3)


class Block(NamedTuple):
    """One of a cluster: which tile and which part are its own, the weights and the exchange in memory.

    ``fences`` may be left out where the kernel is interpreted, which knows none.
    """

    tile: Any
    part: Any
    weights: Any
    exchange: Any
    scratch: Scratch
    sizes: Sizes
    need: Needs
    gates: int
    fences: bool

    @property
    def units(self) -> int:
        return self.sizes.hidden // self.sizes.parts

    def begin(self) -> None:
        for place in range(self.need.places):
            self._send_for(place, place)
        self._wait_for(range(self.need.staying))
        padding = self.scratch.mine.shape[0] - self.gates * self.units
        if padding > 0:  # which no gate ever writes, and the product reads: 0 * NaN would be NaN
            zeros = jnp.zeros((padding, self.sizes.tile), self.scratch.mine.dtype)
            target = self.scratch.mine.at[pl.ds(self.gates * self.units, padding)]
            put(target, mosaic.layout_cast(zeros, layout(*zeros.shape)))

    def end(self) -> None:
        """No copy may be on its way when a block ends."""
        self._wait_for(range(self.need.staying, self.need.places))

    def forward(self, i: Any, tiles: list[Array]) -> list[Array]:
        """Every gate's product of h, of which this block has ``tiles[0]``, with its own units' columns."""
        here, own, slot = self.scratch, pl.ds(self.part * self.units, self.units), _remainder(i, 2)
        put(here.mine, tiles[0])
        mosaic.commit_smem()
        self._tell(here.mine, self.exchange.at[slot, self.tile, own])
        mosaic.copy_gmem_to_smem(self.exchange.at[slot, self.tile], here.right, here.all_came)
        mosaic.barrier_wait(here.all_came)

        def multiply(accumulator):
            def add(j, piece):
                rows = pl.ds(j * self.need.piece[1], self.need.piece[1])
                mosaic.wgmma(accumulator, piece, here.right.at[rows])

            self._for_every_piece(i, add)
            mosaic.wgmma_wait(0)
            return accumulator[...]

        accumulator = mosaic.WGMMAAccumulatorRef(here.result.shape, here.result.dtype)
        put(here.result, pl.run_scoped(multiply, accumulator))
        mosaic.commit_smem()
        of_gates = [pl.ds(gate * self.units, self.units) for gate in range(self.gates)]
        return [self._load(here.result, some) for some in of_gates]

    def backward(self, i: Any, tiles: list[Array]) -> list[Array]:
        """The gradient of h, this block's units of it, from those of every gate's product."""
        here, own, slot = self.scratch, pl.ds(self.part * self.units, self.units), _remainder(i, 2)
        for gate, tile in enumerate(tiles):
            put(here.mine.at[pl.ds(gate * self.units, self.units)], tile)
        mosaic.commit_smem()
        put(here.right, load(here.mine, (), mosaic.Layout.WGMMA))
        mosaic.commit_smem()

        def multiply(j, piece):
            def product(accumulator):
                mosaic.wgmma(accumulator, piece, here.right)
                mosaic.wgmma_wait(0)
                return accumulator[...]

            rows = self.need.piece[0]
            accumulator = mosaic.WGMMAAccumulatorRef((rows, self.sizes.tile), here.result.dtype)
            put(here.result.at[pl.ds(j * rows, rows)], pl.run_scoped(product, accumulator))

        self._for_every_piece(i, multiply)
        mosaic.commit_smem()
        self._tell(here.result, self.exchange.at[slot, self.tile, self.part])
        of_parts = [pl.ds(part * self.units, self.units) for part in range(self.sizes.parts)]
        for part, some in enumerate(of_parts):
            source = self.exchange.at[slot, self.tile, part, own]
            mosaic.copy_gmem_to_smem(source, here.result.at[some], here.all_came)
        mosaic.barrier_wait(here.all_came)
        return [functools.reduce(operator.add, [self._load(here.result, some) for some in of_parts])]

    def _tell(self, source: Any, target: Any) -> None:
        """Write to the exchange, and return when all blocks of the cluster have.

        The fences say for the whole cluster, and for copies, what the barrier promises to threads.
        """
        mosaic.copy_smem_to_gmem(source, target)
        mosaic.wait_smem_to_gmem(0)
        if self.fences:
            _ptx("fence.proxy.async.global; fence.acq_rel.cluster;")
        mosaic.barrier_arrive(self.scratch.everybody)
        mosaic.barrier_wait(self.scratch.everybody)
        if self.fences:
            _ptx("fence.acq_rel.cluster; fence.proxy.async.global;")

    def _for_every_piece(self, i: Any, use: Callable[[Any, Any], None]) -> None:
        """``use(j, piece)`` for all of them, in the i-th step."""
        pieces, staying = self.need.pieces, self.need.staying

        def has_stayed(j, _):
            use(j, self.scratch.places.at[j])

        def comes(j, _):
            number = i.astype(jnp.int32) * (pieces - staying) + j
            place = staying + _remainder(number, RING)
            mosaic.barrier_wait(self.scratch.piece_came.at[place])
            use(staying + j, self.scratch.places.at[place])
            mosaic.wgmma_wait(0)
            self._send_for(staying + _remainder(number + RING, pieces - staying), place)

        _loop(staying, has_stayed)
        _loop(pieces - staying, comes)

    def _wait_for(self, places: range) -> None:
        for place in places:
            mosaic.barrier_wait(self.scratch.piece_came.at[place])

    def _send_for(self, piece: Any, place: Any) -> None:
        source, target = self.weights.at[self.part, piece], self.scratch.places.at[place]
        mosaic.copy_gmem_to_smem(source, target, self.scratch.piece_came.at[place])

    def _load(self, reference: Any, rows: Any) -> Array:
        return load(reference, (rows,), layout(self.units, self.sizes.tile))


def _loop(count: int, body: Callable[[Any, None], None]) -> None:
    """One whose end the compiler cannot see: unrolled, it would keep the addresses of all pieces in registers."""
    if count:
        lax.fori_loop(0, lax.optimization_barrier(jnp.int32(count)), body, None)


def _remainder(number: Any, divisor: int) -> Any:
    return lax.rem(number, jnp.asarray(divisor, number.dtype))


def _ptx(instructions: str) -> None:
    def emit(_):
        from jaxlib.mlir import ir
        from jaxlib.mlir.dialects import llvm

        llvm.inline_asm(ir.Type.parse("!llvm.void"), [], instructions, "", has_side_effects=True)

    mosaic.inline_mgpu()(emit)()


def layout(units: int, rows: int) -> Any:
    """Contiguous pieces for every thread, of one size whatever the dtype, so that tiles can be combined."""
    shape = units, rows
    return mosaic.Layout.WG_STRIDED(shape, vec_size=math.gcd(4, math.prod(shape) // THREADS))


_INDEX = inspect.signature(mosaic.load).parameters.get("idx")
_INDEX_APART = _INDEX is not None and _INDEX.default is _INDEX.empty
"""jax 0.10 wants a reference and an index, later versions an indexed reference."""


def load(reference: Any, index: tuple[Any, ...], layout: Any) -> Array:
    if _INDEX_APART:
        return mosaic.load(reference, index, layout=layout, optimized=False)
    some: Any = reference.at[index] if index else reference
    return mosaic.load(some, layout=layout, optimized=False)  # pyright: ignore[reportCallIssue]


def put(reference: Any, value: Array) -> None:
    """Where threads meet in banks of the memory too, of which JAX complains from 0.12 on."""
    if hasattr(mosaic, "store"):
        mosaic.store(reference, value, optimized=False)  # pyright: ignore[reportAttributeAccessIssue]
    else:  # before jax 0.12
        reference[...] = value


def up(size: int, unit: int) -> int:
    """
    >>> up(17, 16)
    32
    """
    return math.ceil(size / unit) * unit
