"""The kernels on a Hopper GPU for weights that one SM cannot hold, through Pallas and Mosaic GPU.

A cluster of up to 16 blocks, each on an SM of its own, shares the units of a tile of the batch. A block has its
units' columns of the recurrent kernel in shared memory (or, of the largest, one piece after the other), its units'
carry in registers, and does for them everything that is elementwise. Only the product needs what the other blocks
have (``mosaic_gpu_product.py``)::

    forward     h_{t-1}, all of it, times the block's columns    every block sends its part of h, and reads all
    backward    the block's columns times its part of drh        every block sends what its units add to the
                                                                 gradient of h, and reads all sums for its own

Tiles are ``[units, rows]``: on Hopper a product has at least 64 rows, which are units here, so that 16 rows of the
batch cost no padding. A product's result goes through shared memory, whence threads read every gate in the same
contiguous pieces as all other arrays, which are arranged in such tiles before and after the kernel.

Hidden sizes are padded to multiples of 64, or of 8 times the number of blocks, batches to multiples of 16, many
rows to 32. Products are of bfloat16 or float16, and accumulate in float32.

What one SM can hold runs there instead (``mosaic_gpu_sm.py``, ``triton.py``).
"""

import math
from typing import Any, NamedTuple

import jax

from jaxrnn.ops.pallas.cell import Cell
from jaxrnn.ops.pallas.interface import Blocks, Kernel, Sizes
from jaxrnn.ops.pallas.limits import OTHER_DTYPE, other_dtype, rounded_up
from jaxrnn.ops.pallas.mosaic_gpu_kernel import Design, call_design
from jaxrnn.ops.pallas.mosaic_gpu_product import (
    PIECE,
    RING,
    Block,
    Scratch,
    exchange_buffers,
    scratch_types,
    staging_for,
    weight_pieces,
)
from jaxrnn.ops.pallas.recurrence import Device
from jaxrnn.ops.pallas.registers import THREADS, layout
from jaxrnn.ops.step import Recurrence
from jaxrnn.ops.varying import all_axes

SHARED = 224 * 1024
"""Bytes of shared memory for one block: of 227 KiB, what barriers and alignment leave."""

ROWS = (16, 32)
"""Of the batch, in one tile."""

PARTS = (2, 4, 8, 16)
"""Blocks of a cluster; more than 8 only Hopper has."""

SMS = 132
"""Of an H200. On one with fewer, nobody has looked whether 16 of them can be had together."""

CONCURRENT_BLOCKS = 128
"""Blocks that run at the same time, if every one of eight clusters of 16 finds its place."""


class Width(NamedTuple):
    """How much there is of everything, by units.

    Attributes:
      gates: matrices of the recurrent kernel.
      arrays: gates of both products, parts of the carry and parameters: what threads have in registers.
      itemsize: of the recurrent kernel.
    """

    gates: int
    arrays: int
    itemsize: int


def sizes_for(batch: int, hidden: int, width: Width) -> Sizes | None:
    """The smallest tiles whose clusters run all at once, with the fewest blocks that can hold the weights.

    >>> sizes_for(batch=64, hidden=512, width=Width(gates=4, arrays=10, itemsize=2))
    Sizes(rows=64, tile=16, hidden=512, parts=16, heads=1)
    """
    found = [size for rows in ROWS if (size := _shared(batch, rows, hidden, width)) is not None]

    def blocks(size):
        return size.rows // size.tile * size.parts

    return min(found, key=lambda size: (max(blocks(size), CONCURRENT_BLOCKS), size.tile), default=None)


def _shared(batch: int, rows: int, hidden: int, width: Width) -> Sizes | None:
    streaming = None
    for parts in PARTS:
        units = rounded_up(math.ceil(hidden / parts), 8)
        while parts * units % PIECE:
            units += 8
        # Numbers that a thread has in registers, of one array and of all: with more, they spill.
        if units * rows > 8 * THREADS or width.arrays * units * rows > 80 * THREADS:
            continue
        size = Sizes(rounded_up(batch, rows), rows, parts * units, parts)
        both = [
            staging_for(size, width.gates, width.itemsize, SHARED, backward=backward) for backward in (False, True)
        ]
        if all(staging.all_resident for staging in both):
            return size
        if all(staging.stages >= RING for staging in both):
            streaming = size  # with the most blocks
    return streaming


def unable(a: Recurrence) -> str | None:
    if a.recurrent_kernel.ndim == 3:
        return "several streaming multiprocessors do not share the units of heads, only those of one large kernel"
    if all_axes(a):
        return "the kernels of clusters do not run on arrays that vary over a mesh within jax.shard_map"
    (hidden, columns), dtype = a.recurrent_kernel.shape, a.recurrent_kernel.dtype
    gates = columns // hidden
    arrays = gates + a.xw.shape[-1] // hidden + len(jax.tree.leaves((a.initial_carry, a.params)))
    width = Width(gates, arrays, dtype.itemsize)
    try:
        device = jax.local_devices(backend="gpu")[0]
    except RuntimeError:
        pass
    else:
        if str(device.compute_capability) != "9.0":
            capability = device.compute_capability
            return f"clusters of streaming multiprocessors need compute capability 9.0, not {capability}"
        if (cores := getattr(device, "core_count", SMS)) < SMS:
            return f"clusters of streaming multiprocessors need a GPU with {SMS} of them, not {cores}"
    reason = other_dtype(a, ("float32", "bfloat16", "float16"), "the GPU kernel")
    if reason is None and dtype.itemsize != 2:
        reason = f"{OTHER_DTYPE}, not {dtype}"
    if reason is None and sizes_for(1, hidden, width) is None:
        largest = max((size for size in range(PIECE, 8192, PIECE) if sizes_for(1, size, width)), default=None)
        reason = (
            f"neither does it fit a cluster of {PARTS[-1]} streaming multiprocessors; "
            f"{f'the largest hidden size that does is {largest}' if largest else 'no size of this cell does'}"
        )
    return reason


def not_preferred(a: Recurrence) -> str | None:
    """With more blocks than run at once, some wait until others have taken all their steps: the scan is faster."""
    hidden, columns = a.recurrent_kernel.shape
    arrays = (columns + a.xw.shape[-1]) // hidden + len(jax.tree.leaves((a.initial_carry, a.params)))
    rows = math.prod(a.xw.shape[1:-1])
    found = sizes_for(rows, hidden, Width(columns // hidden, arrays, a.recurrent_kernel.dtype.itemsize))
    if found is None or (blocks := found.rows // found.tile * found.parts) <= CONCURRENT_BLOCKS:
        return None
    return f"a batch of {rows} needs {blocks} blocks in clusters, of which {CONCURRENT_BLOCKS} run at once"


def sizes(batch: int, cell: Cell) -> Sizes:
    arrays = cell.gates + cell.recurrent_gates + len(cell.carry_dtypes) + len(cell.params_dtypes)
    found = sizes_for(batch, cell.hidden, Width(cell.recurrent_gates, arrays, cell.kernel_dtype.itemsize))
    if found is None:
        raise ValueError(f"{cell.recurrent_gates} x {cell.hidden} x {cell.hidden} does not fit a cluster")
    return found


def call(
    kernel: Kernel, inputs: Blocks, outputs: Blocks, sizes: Sizes, *, reverse: bool, interpret: Any
) -> Blocks:
    gates, dtype, backward = kernel.cell.recurrent_gates, kernel.cell.kernel_dtype, kernel.backward
    staging = staging_for(sizes, gates, dtype.itemsize, SHARED, backward=backward)

    def make(tile, part, weights, exchange, scratch):
        (buffers,) = exchange
        return Block(tile, part, weights, buffers, Scratch(*scratch), sizes, staging, gates, fences=not interpret)

    design = Design(
        weights=weight_pieces(inputs.whole["kernels"][0], sizes, staging, backward=backward),
        exchange=[exchange_buffers(sizes, dtype, backward=backward)],
        scratch=list(scratch_types(sizes, staging, dtype, backward=backward)),
        layout=layout(sizes.hidden // sizes.parts, sizes.tile),
        make=make,
        launch={"cluster": (sizes.parts,), "cluster_names": ("part",)},
    )
    return call_design(design, kernel, inputs, outputs, sizes, reverse=reverse, interpret=interpret)


MOSAIC_GPU = Device(
    sizes,
    call,
    unable,
    lacks=frozenset(("ceil", "floor", "pow")),
    not_preferred=not_preferred,
)
