"""The recurrent product of a cluster of blocks, each with a part of the units: what ``mosaic_gpu.py`` runs.

What a block needs from the others goes through the level 2 cache, once a step, between two waits: until all blocks
have written, and until the copies that were asked for have arrived. Two buffers take turns: who writes to one of
them has passed a barrier that all others reach only after reading it.

Weights are copied in pieces to stages in shared memory. Where there is a stage for each piece, all of them are
resident: copied once. Where there is not, the last three stages are a ring through which the others are streamed
at every step, from the level 2 cache, each asked for as soon as one before it has been used, so that copies run
on while the blocks wait for each other.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as mosaic

from jaxrnn.ops.pallas.interface import Sizes
from jaxrnn.ops.pallas.limits import rounded_up
from jaxrnn.ops.pallas.registers import layout, load, store
from jaxrnn.ops.step import accumulation_dtype

PIECE = 64
"""Rows that the tensor cores take at least."""

RING = 3
"""Stages for streamed pieces: one in use, two being copied."""


class Staging(NamedTuple):
    """How a block holds its weights, one way.

    Attributes:
      pieces: how many there are.
      piece: shape of one.
      stages: for how many there is room.
      width: units of all gates, of one block, with padding.
    """

    pieces: int
    piece: tuple[int, int]
    stages: int
    width: int

    @property
    def all_resident(self) -> bool:
        return self.stages == self.pieces

    @property
    def resident(self) -> int:
        """How many pieces, the first ones, are copied once."""
        return self.pieces if self.all_resident else self.stages - RING


def staging_for(sizes: Sizes, gates: int, itemsize: int, limit: int, *, backward: bool) -> Staging:
    """What fits ``limit`` bytes, which may be less than a ring needs."""
    hidden, rows, units = sizes.hidden, sizes.tile, sizes.hidden // sizes.parts
    width = rounded_up(gates * units, PIECE)
    if backward:
        left = limit - 4 * hidden * rows - 2 * itemsize * width * rows
        for piece in (math.gcd(hidden, 2 * PIECE), PIECE):  # the larger, the less waiting
            found = Staging(hidden // piece, (piece, width), left // (piece * width * itemsize), width)
            if found.stages >= found.pieces:
                break
    else:
        left = limit - 4 * width * rows - itemsize * (hidden + units) * rows
        found = Staging(hidden // PIECE, (width, PIECE), left // (width * PIECE * itemsize), width)
    return found._replace(stages=min(found.pieces, found.stages))


class Scratch(NamedTuple):
    """What a block has in shared memory.

    Attributes:
      stages: pieces of its part of the recurrent kernel.
      rhs: right side of the product, ``[summed, rows]``.
      result: the product, ``[units of all gates, rows]`` or, backward, ``[all units, rows]``.
      own: what the block itself puts into the right side, in the order of its threads.
      piece_arrived: barriers, one for each stage.
      exchange_arrived: barrier, for all copies from the exchange.
      cluster_barrier: barrier of the cluster.
    """

    stages: Any
    rhs: Any
    result: Any
    own: Any
    piece_arrived: Any
    exchange_arrived: Any
    cluster_barrier: Any


def scratch_types(sizes: Sizes, staging: Staging, dtype: jnp.dtype, *, backward: bool) -> Scratch:
    hidden, rows = sizes.hidden, sizes.tile

    def operand(*shape):  # the tensor cores want both sides of a product in pieces of the same width
        transforms = mosaic.TilingTransform((8, rows)), mosaic.SwizzleTransform(rows * dtype.itemsize)
        return mosaic.SMEM(shape, dtype, transforms=transforms)

    return Scratch(
        operand(staging.stages, *staging.piece),
        operand(staging.width if backward else hidden, rows),
        mosaic.SMEM((hidden if backward else staging.width, rows), accumulation_dtype(dtype)),
        mosaic.SMEM((staging.width if backward else hidden // sizes.parts, rows), dtype),
        mosaic.Barrier(num_barriers=staging.stages),
        mosaic.Barrier(num_arrivals=sizes.parts if backward else 1),
        mosaic.ClusterBarrier(collective_axes=("part",)),
    )


def exchange_buffers(sizes: Sizes, dtype: jnp.dtype, *, backward: bool) -> jax.ShapeDtypeStruct:
    """Two buffers in global memory, for what the blocks of a cluster send each other."""
    tiles = sizes.rows // sizes.tile
    if backward:
        return jax.ShapeDtypeStruct((2, tiles, sizes.parts, sizes.hidden, sizes.tile), accumulation_dtype(dtype))
    return jax.ShapeDtypeStruct((2, tiles, sizes.hidden, sizes.tile), dtype)


def weight_pieces(kernels: Array, sizes: Sizes, staging: Staging, *, backward: bool) -> Array:
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
    padded = jnp.pad(of_all_gates, ((0, 0), (0, 0), (0, staging.width - width)))
    pieces = padded.reshape(sizes.parts, staging.pieces, -1, staging.width)
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
    staging: Staging
    gates: int
    fences: bool

    @property
    def units(self) -> int:
        return self.sizes.hidden // self.sizes.parts

    def prologue(self) -> None:
        """Copy weights to all stages, and wait for the resident ones."""
        for stage in range(self.staging.stages):
            self._fetch(stage, stage)
        self._await_stages(range(self.staging.resident))
        padding = self.scratch.own.shape[0] - self.gates * self.units
        if padding > 0:  # which no gate ever writes, and the product reads: 0 * NaN would be NaN
            zeros = jnp.zeros((padding, self.sizes.tile), self.scratch.own.dtype)
            target = self.scratch.own.at[pl.ds(self.gates * self.units, padding)]
            store(target, mosaic.layout_cast(zeros, layout(*zeros.shape)))

    def epilogue(self) -> None:
        """No copy may be on its way when a block ends."""
        self._await_stages(range(self.staging.resident, self.staging.stages))

    def forward(self, i: Any, tiles: list[Array]) -> list[Array]:
        """Every gate's product of h, of which this block has ``tiles[0]``, with its own units' columns."""
        here, own_units, slot = self.scratch, pl.ds(self.part * self.units, self.units), _remainder(i, 2)
        store(here.own, tiles[0])
        mosaic.commit_smem()
        self._publish(here.own, self.exchange.at[slot, self.tile, own_units])
        mosaic.copy_gmem_to_smem(self.exchange.at[slot, self.tile], here.rhs, here.exchange_arrived)
        mosaic.barrier_wait(here.exchange_arrived)

        def multiply(accumulator):
            def add(j, piece):
                rows = pl.ds(j * self.staging.piece[1], self.staging.piece[1])
                mosaic.wgmma(accumulator, piece, here.rhs.at[rows])

            self._for_every_piece(i, add)
            mosaic.wgmma_wait(0)
            return accumulator[...]

        accumulator = mosaic.WGMMAAccumulatorRef(here.result.shape, here.result.dtype)
        store(here.result, pl.run_scoped(multiply, accumulator))
        mosaic.commit_smem()
        of_gates = [pl.ds(gate * self.units, self.units) for gate in range(self.gates)]
        return [self._load(here.result, some) for some in of_gates]

    def backward(self, i: Any, tiles: list[Array]) -> list[Array]:
        """The gradient of h, this block's units of it, from those of every gate's product."""
        here, own_units, slot = self.scratch, pl.ds(self.part * self.units, self.units), _remainder(i, 2)
        for gate, tile in enumerate(tiles):
            store(here.own.at[pl.ds(gate * self.units, self.units)], tile)
        mosaic.commit_smem()
        store(here.rhs, load(here.own, (), mosaic.Layout.WGMMA))
        mosaic.commit_smem()

        def multiply(j, piece):
            def product(accumulator):
                mosaic.wgmma(accumulator, piece, here.rhs)
                mosaic.wgmma_wait(0)
                return accumulator[...]

            rows = self.staging.piece[0]
            accumulator = mosaic.WGMMAAccumulatorRef((rows, self.sizes.tile), here.result.dtype)
            store(here.result.at[pl.ds(j * rows, rows)], pl.run_scoped(product, accumulator))

        self._for_every_piece(i, multiply)
        mosaic.commit_smem()
        self._publish(here.result, self.exchange.at[slot, self.tile, self.part])
        of_parts = [pl.ds(part * self.units, self.units) for part in range(self.sizes.parts)]
        for part, some in enumerate(of_parts):
            source = self.exchange.at[slot, self.tile, part, own_units]
            mosaic.copy_gmem_to_smem(source, here.result.at[some], here.exchange_arrived)
        mosaic.barrier_wait(here.exchange_arrived)
        return [functools.reduce(operator.add, [self._load(here.result, some) for some in of_parts])]

    def _publish(self, source: Any, target: Any) -> None:
        """Write to the exchange, and wait until all blocks of the cluster have.

        The fences say for the whole cluster, and for copies, what the barrier promises to threads.
        """
        mosaic.copy_smem_to_gmem(source, target)
        mosaic.wait_smem_to_gmem(0)
        if self.fences:
            _ptx("fence.proxy.async.global; fence.acq_rel.cluster;")
        mosaic.barrier_arrive(self.scratch.cluster_barrier)
        mosaic.barrier_wait(self.scratch.cluster_barrier)
        if self.fences:
            _ptx("fence.acq_rel.cluster; fence.proxy.async.global;")

    def _for_every_piece(self, i: Any, use: Callable[[Any, Any], None]) -> None:
        """``use(j, piece)`` for all of them, in the i-th step."""
        resident, streamed = self.staging.resident, self.staging.pieces - self.staging.resident

        def use_resident(j, _):
            use(j, self.scratch.stages.at[j])

        def use_streamed(j, _):
            number = i.astype(jnp.int32) * streamed + j
            stage = resident + _remainder(number, RING)
            mosaic.barrier_wait(self.scratch.piece_arrived.at[stage])
            use(resident + j, self.scratch.stages.at[stage])
            mosaic.wgmma_wait(0)
            self._fetch(resident + _remainder(number + RING, streamed), stage)

        _loop(resident, use_resident)
        _loop(streamed, use_streamed)

    def _await_stages(self, stages: range) -> None:
        for stage in stages:
            mosaic.barrier_wait(self.scratch.piece_arrived.at[stage])

    def _fetch(self, piece: Any, stage: Any) -> None:
        source, target = self.weights.at[self.part, piece], self.scratch.stages.at[stage]
        mosaic.copy_gmem_to_smem(source, target, self.scratch.piece_arrived.at[stage])

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
