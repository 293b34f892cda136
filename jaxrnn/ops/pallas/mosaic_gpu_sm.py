"""The kernels on one SM of a Hopper GPU, for weights that fit its shared memory, through Pallas and Mosaic GPU.

A block has 16 rows of the batch and runs them over all steps, like ``triton.py``, which runs what this cannot
(float32, other GPUs). Its warpgroups share the units, 64 each. Tiles are ``[units, rows]``: a product of the
tensor cores has at least 64 rows, which are units here, so that 16 rows of the batch cost no padding. Every tile,
from memory or from a product, has the layout of the tensor cores' results in registers, so nothing is rearranged
between the product and the cell's equations. All that goes from thread to thread is what the next product reads,
through shared memory, with one wait a step::

    forward     h_{t-1}, to which every warpgroup adds its units, times the columns of the warpgroup's units
    backward    drh of all units and gates, times the rows of the warpgroup's units

There are two buffers in turns: who writes to one has passed the wait that all others reach only after reading it.

Hidden sizes are padded to multiples of 64, batches to multiples of 16. Products are of bfloat16 or float16, and
accumulate in float32.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as mosaic

from jaxrnn.ops.pallas.cell import Cell
from jaxrnn.ops.pallas.interface import Blocks, Kernel, Sizes
from jaxrnn.ops.pallas.limits import OTHER_DTYPE, other_dtype, rounded_up, too_large
from jaxrnn.ops.pallas.mosaic_gpu_kernel import Design, call_design
from jaxrnn.ops.pallas.recurrence import Device
from jaxrnn.ops.pallas.registers import ROWS, UNITS, store
from jaxrnn.ops.pallas.runs import with_runs
from jaxrnn.ops.step import Recurrence, accumulation_dtype, units_of

SHARED = 224 * 1024
"""Bytes of shared memory for one block: of 227 KiB, what barriers and alignment leave."""

MOST_PARTS = 4
"""Warpgroups of a block. A thread of more than four would have fewer registers than 128."""


def unable(a: Recurrence) -> str | None:
    try:
        device = jax.local_devices(backend="gpu")[0]
    except RuntimeError:
        pass
    else:
        if str(device.compute_capability) != "9.0":
            return f"the kernels of warpgroups need compute capability 9.0, not {device.compute_capability}"
    (hidden, columns), dtype = a.recurrent_kernel.shape[-2:], a.recurrent_kernel.dtype
    reason = other_dtype(a, ("float32", "bfloat16", "float16"), "the GPU kernel")
    if reason is None and dtype.itemsize != 2:
        return f"{OTHER_DTYPE}, not {dtype}"
    if reason is not None:
        return reason
    gates = columns // hidden
    # Both buffers of what the products read: backward, all gates of all units.
    buffers = 2 * columns // hidden * padded(hidden) * ROWS * dtype.itemsize
    reason = too_large(a, padded, SHARED - buffers, "the shared memory of one streaming multiprocessor")
    if reason is None and padded(hidden) // UNITS > MOST_PARTS:
        reason = f"one streaming multiprocessor runs hidden sizes up to {MOST_PARTS * UNITS}, not {hidden}"
    parts = jax.tree.leaves((a.initial_carry, a.params))
    arrays = gates + a.xw.shape[-1] // units_of(a.recurrent_kernel) + len(parts)
    numbers = arrays + MORE_OF_WIDE * sum(part.dtype.itemsize > dtype.itemsize for part in parts)
    if reason is None and (arrays > MOST_ARRAYS or numbers > MOST_NUMBERS // padded(hidden)):
        reason = f"{arrays} gates, parts of the carry and parameters of {hidden} units need too many registers"
    return reason


MOST_ARRAYS, MOST_NUMBERS = 20, 2560
"""In the registers of a thread, and of one row of the batch in those of a block; with more, they spill."""

MORE_OF_WIDE = 3
"""How many arrays more a part of the carry in float32 counts for: it is read ahead, kept and saved in twice the
registers. With three such parts and 128 units they spill, with 64 they do not (benchmarks.aot)."""


def padded(hidden: int) -> int:
    """
    >>> padded(3), padded(100), padded(128)
    (64, 128, 128)
    """
    return rounded_up(hidden, UNITS)


def sizes(batch: int, cell: Cell) -> Sizes:
    hidden = padded(cell.hidden)
    return Sizes(rounded_up(batch, ROWS), ROWS, hidden, hidden // UNITS)


def call(
    kernel: Kernel, inputs: Blocks, outputs: Blocks, sizes: Sizes, *, reverse: bool, interpret: Any
) -> Blocks:
    def launch(inputs: Blocks, outputs: Blocks, sizes: Sizes) -> Blocks:
        gates, dtype, backward = kernel.cell.recurrent_gates, kernel.cell.kernel_dtype, kernel.backward

        def make(tile, part, weights, exchange, scratch):
            head = tile // sizes.tiles_of_head if sizes.heads > 1 else 0
            return Warpgroup(head, part, weights, Scratch(*scratch), sizes, gates)

        design = Design(
            weights=weight_pieces(inputs.whole["kernels"], sizes),
            exchange=[],
            scratch=list(scratch_types(sizes, gates, dtype, backward=backward)),
            layout=mosaic.Layout.WGMMA,
            make=make,
            launch={"num_threads": sizes.parts, "thread_name": "part"},
            thread_order=not interpret,  # which has no registers
            waits=False,
        )
        return call_design(design, kernel, inputs, outputs, sizes, reverse=reverse, interpret=interpret)

    return with_runs(launch, outputs, sizes)(inputs)


class Scratch(NamedTuple):
    """What a block has in shared memory.

    Attributes:
      weights: pieces ``[UNITS, UNITS]`` of the recurrent kernel, as :func:`weight_pieces` orders them.
      rhs: right side of the product, ``[2, summed units, rows]``.
      weights_arrived: barriers, one for each warpgroup.
      written: barrier, which all warpgroups pass when all have written to rhs.
    """

    weights: Any
    rhs: Any
    weights_arrived: Any
    written: Any


def scratch_types(sizes: Sizes, gates: int, dtype: jnp.dtype, *, backward: bool) -> Scratch:
    def operand(*shape):  # the tensor cores want both sides of a product in pieces of the same width
        transforms = mosaic.TilingTransform((8, ROWS)), mosaic.SwizzleTransform(ROWS * dtype.itemsize)
        return mosaic.SMEM(shape, dtype, transforms=transforms)

    return Scratch(
        operand(sizes.parts * gates * sizes.parts, UNITS, UNITS),
        operand(2, sizes.hidden * (gates if backward else 1), ROWS),
        mosaic.Barrier(num_barriers=sizes.parts),
        mosaic.Barrier(num_arrivals=sizes.parts),
    )


def weight_pieces(kernels: Array, sizes: Sizes) -> Array:
    """``[heads * parts * gates * parts, UNITS, UNITS]`` from ``[heads, gates, hidden, hidden]``.

    Backward, ``kernels`` is transposed.

    A piece has the warpgroup's units in its rows, and the units that are summed over in its columns: the rows of
    ``kernels``. Pieces are in the order of heads, of warpgroups, of gates, and of the summed units.
    """
    heads, gates = kernels.shape[:2]
    split = kernels.reshape(heads, gates, sizes.parts, UNITS, sizes.parts, UNITS)
    return split.transpose(0, 4, 1, 2, 5, 3).reshape(-1, UNITS, UNITS)


class Warpgroup(NamedTuple):
    """One part of a block: which units are its own, its weights in memory, and the shared memory of the block."""

    head: Any
    part: Any
    weights: Any
    scratch: Scratch
    sizes: Sizes
    gates: int

    def prologue(self) -> None:
        """Copy the weights to shared memory."""
        arrived, pieces = self.scratch.weights_arrived.at[self.part], self.gates * self.sizes.parts
        own, first = pl.ds(self.part * pieces, pieces), self.head * self.sizes.parts * pieces
        of_head = pl.ds(first + self.part * pieces, pieces)
        mosaic.copy_gmem_to_smem(self.weights.at[of_head], self.scratch.weights.at[own], arrived)
        mosaic.barrier_wait(arrived)

    def epilogue(self) -> None:
        """Nothing is on its way."""

    def forward(self, i: Any, tiles: list[Array]) -> list[Array]:
        """Every gate's product of h, of which this warpgroup has ``tiles[0]``, with its own units' columns."""
        h = self._shared(i, tiles)

        def multiply(*accumulators):
            for gate, accumulator in enumerate(accumulators):
                for summed in range(self.sizes.parts):
                    mosaic.wgmma(accumulator, self._piece(gate, summed), self._units(h, summed))
            mosaic.wgmma_wait(0)
            return [accumulator[...] for accumulator in accumulators]

        return pl.run_scoped(multiply, *[self._accumulator()] * self.gates)

    def backward(self, i: Any, tiles: list[Array]) -> list[Array]:
        """The gradient of h, this warpgroup's units of it, from those of every gate's product."""
        drh = self._shared(i, tiles)

        def multiply(accumulator):
            for gate in range(self.gates):
                for summed in range(self.sizes.parts):
                    number = gate * self.sizes.parts + summed
                    mosaic.wgmma(accumulator, self._piece(gate, summed), self._units(drh, number))
            mosaic.wgmma_wait(0)
            return accumulator[...]

        return [pl.run_scoped(multiply, self._accumulator())]

    def _shared(self, i: Any, tiles: list[Array]) -> Any:
        """The tiles of all warpgroups, in shared memory, ``[gates * hidden, rows]``."""
        target = self.scratch.rhs.at[lax.rem(i, jnp.asarray(2, i.dtype))]
        for gate, tile in enumerate(tiles):
            store(self._units(target, gate * self.sizes.parts + self.part), tile)
        mosaic.commit_smem()
        if self.sizes.parts > 1:
            mosaic.barrier_arrive(self.scratch.written)
            mosaic.barrier_wait(self.scratch.written)
        return target

    def _units(self, reference: Any, number: Any) -> Any:
        return reference.at[pl.ds(number * UNITS, UNITS)]

    def _piece(self, gate: int, summed: int) -> Any:
        return self.scratch.weights.at[(self.part * self.gates + gate) * self.sizes.parts + summed]

    def _accumulator(self) -> Any:
        return mosaic.WGMMAAccumulatorRef((UNITS, ROWS), accumulation_dtype(self.scratch.weights.dtype))


MOSAIC_GPU_SM = Device(sizes, call, unable, lacks=frozenset(("ceil", "floor", "pow")))
