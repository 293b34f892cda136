"""The kernels on a TPU, through Pallas and Mosaic.

The grid goes over tiles of the batch and, for each, over chunks of time. The weights are read from memory once
and stay; of the sequence only a chunk is in fast memory (VMEM), while Pallas brings the next one and writes the
last one back, so that sequences may be of any length. The state of the loop is in the output blocks that it ends
in, which stay where they are as long as the grid moves through time.

Hidden sizes are padded to multiples of 128 (lanes), rows to multiples of 16 (sublanes of bfloat16): a hidden size
of 100 costs the time and the memory of 128, a batch of 1 those of 16.

Products of float32 are as precise as JAX makes them on a TPU elsewhere: by default of bfloat16's mantissa, in one
pass; ``with jax.default_matmul_precision("highest")`` for float32. Products of bfloat16 accumulate in float32.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu

from jaxrnn.ops.pallas.cell import Cell
from jaxrnn.ops.pallas.interface import Blocks, Kernel, Sizes, TileOps, in_rows
from jaxrnn.ops.pallas.limits import other_dtype, rounded_up, too_large
from jaxrnn.ops.pallas.recurrence import Device
from jaxrnn.ops.step import Recurrence
from jaxrnn.ops.varying import varying_results

LANES = 128
SUBLANES = 16
MOST_ROWS = 128
"""In one tile: the matrix unit's own size."""

MOST_STEPS = 64
"""In one chunk: more would only make the first one come later."""

V5E = 128 * 2**20
"""Bytes of VMEM of a v5e or v6e core; assumed where no TPU is at hand."""


def vmem() -> int:
    """Bytes that one core has."""
    try:
        return tpu.get_tpu_info().vmem_capacity_bytes
    except (ValueError, RuntimeError):
        return V5E


def unable(a: Recurrence) -> str | None:
    reason = other_dtype(a, ("float32", "bfloat16"), "the TPU kernel")
    # A quarter for the weights, of three that the kernel may have: a chunk of time and a step's tiles need some.
    return reason or too_large(a, padded, vmem() // 4, "a quarter of a core's VMEM")


def sizes(batch: int, cell: Cell) -> Sizes:
    tiles = math.ceil(batch / MOST_ROWS)
    tile = rounded_up(math.ceil(batch / tiles), SUBLANES)
    return Sizes(tiles * tile, tile, padded(cell.hidden))


def padded(hidden: int) -> int:
    """
    >>> padded(3), padded(100), padded(129)
    (128, 128, 256)
    """
    return rounded_up(hidden, LANES)


def chunk(inputs: Blocks, outputs: Blocks, tile: int) -> int:
    """How many steps one block holds: two blocks of every array take at most a sixteenth of VMEM."""
    arrays = jax.tree.leaves((inputs.steps, outputs.steps))
    step = sum(tile * rounded_up(array.shape[2], LANES) * array.dtype.itemsize for array in arrays)
    return max(1, min(MOST_STEPS, arrays[0].shape[0], vmem() // 16 // (2 * step)))


def call(
    kernel: Kernel, inputs: Blocks, outputs: Blocks, sizes: Sizes, *, reverse: bool, interpret: Any
) -> Blocks:
    time = jax.tree.leaves(outputs.steps)[0].shape[0]
    steps = chunk(inputs, outputs, sizes.tile)
    chunks = math.ceil(time / steps)

    def block(i):
        """In which block of the arrays the i-th chunk is."""
        return chunks - 1 - i if reverse else i

    def body(inputs, outputs):
        number = pl.program_id(1)
        count = steps if time % steps == 0 else jnp.minimum(steps, time - block(number) * steps)
        kernels = inputs.whole["kernels"]
        targets, structure = jax.tree.flatten(outputs.rows)
        position = (lambda i: count - 1 - i) if reverse else (lambda i: i)
        ops = TileOps(count, position, False, **in_rows(kernel, sizes, lambda gate: kernels[gate]))

        @pl.when(number == 0)
        def _():
            for target, value in zip(targets, jax.tree.leaves(kernel.start(inputs, ops)), strict=True):
                target[...] = value

        state = jax.tree.unflatten(structure, [target[...] for target in targets])
        state = kernel.run(inputs, outputs, ops, state)
        for target, value in zip(targets, jax.tree.leaves(state), strict=True):
            target[...] = value

    def specs(blocks: Blocks) -> Any:
        def every_step(array):
            return pl.BlockSpec((steps, sizes.tile, array.shape[2]), lambda i, j: (block(j), i, 0))

        def row(array):
            return pl.BlockSpec((sizes.tile, array.shape[1]), lambda i, j: (i, 0))

        def whole(array):
            rest = array.shape[1:]
            once = {"pipeline_mode": pl.Buffered(1)} if sizes.heads == 1 else {}  # one buffer will do
            return pl.BlockSpec((None, *rest), lambda i, j: (i // sizes.tiles_of_head, *[0] * len(rest)), **once)

        return Blocks(*(jax.tree.map(spec, group) for spec, group in zip((every_step, row, whole), blocks)))

    (found,) = pl.pallas_call(
        body,
        grid=(sizes.rows // sizes.tile, chunks),
        in_specs=[specs(inputs)],
        out_specs=(specs(outputs),),
        out_shape=(varying_results(outputs, inputs),),
        compiler_params=tpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=vmem() * 3 // 4
        ),
        interpret=interpret,
        name=kernel.name,
    )(inputs)
    return found


MOSAIC_TPU = Device(
    sizes,
    call,
    unable,
    not_preferred=lambda a: "not measured against scan on a tpu, where a step costs no launch; name it to use it",
)
