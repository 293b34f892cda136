"""The kernels on a GPU, through Pallas and Triton.

One program runs a tile of 16 rows of the batch (the least that a tensor core takes) over all steps. The weights
stay in the shared memory of its SM, the carry in registers, and the next step's arrays are on their way from
memory while this step's product is computed. Tiles know nothing of each other, so that nothing has to be
synchronised over the grid. Triton takes powers of two only: hidden sizes are padded to the next one from 16 on,
rows to the next multiple of 16. A hidden size of 100 costs the time and the memory of 128, a batch of 1 those of
16.

Why Triton, which JAX intends to remove one day (it warns from 0.11 on), and not its successor Mosaic GPU: it runs
on Ampere and Ada too, multiplies float32 on tensor cores, and takes every elementwise operation. Where Triton is
gone, half precision on Hopper runs as ``mosaic_gpu.py`` does it, through Mosaic GPU, in the same loops.

Products of float32 use TF32 (10 bits of mantissa), as JAX does elsewhere on these GPUs. For all 24 bits, at a
price, ``with jax.default_matmul_precision("highest")``, up to a hidden size of 64; "TF32_TF32_F32_X3" comes near
to that with three products of TF32, at any size. Products of bfloat16 and float16 accumulate in float32.
"""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxrnn.ops.pallas.cell import Cell
from jaxrnn.ops.pallas.interface import Blocks, Kernel, Sizes, TileOps, in_rows
from jaxrnn.ops.pallas.limits import other_dtype, rounded_up, too_large
from jaxrnn.ops.pallas.recurrence import Device
from jaxrnn.ops.step import Recurrence
from jaxrnn.ops.varying import varying_results

ROWS = 16

HOPPER = 227 * 1024
"""Bytes of shared memory that one program may have on an H100 or H200; assumed where no GPU is at hand."""


def unable(a: Recurrence) -> str | None:
    shared = HOPPER
    try:
        device = jax.local_devices(backend="gpu")[0]
    except RuntimeError:
        pass
    else:
        capability = str(device.compute_capability)
        if not capability.replace(".", "").isdigit() or float(capability) < 8:
            return f"it needs an NVIDIA GPU of compute capability 8.0 or more, not {capability}"
        shared = getattr(device, "shared_memory_per_block_optin", HOPPER)
    reason = other_dtype(a, ("float32", "bfloat16", "float16"), "the GPU kernel")
    exact = _all_bits() and a.recurrent_kernel.dtype == jnp.float32
    if reason is None and exact and a.recurrent_kernel.shape[-2] > MOST_HIDDEN_ALL_BITS:
        return (
            "products of float32 with all bits (jax_default_matmul_precision) spill registers; the largest hidden "
            f'size where they do not is {MOST_HIDDEN_ALL_BITS}, or ask for the precision "TF32_TF32_F32_X3"'
        )
    # Four sevenths for the weights, 128 KiB on Hopper. With more, tiles on their way to the tensor cores do not
    # fit beside them, or registers spill (GRU, H = 128, float32: 192 KiB), as benchmarks.aot finds.
    return reason or too_large(a, padded, shared * 4 // 7, "the shared memory of one streaming multiprocessor")


MOST_HIDDEN_ALL_BITS = 64


def _all_bits() -> bool:
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return precision in ("highest", "float32", "F32_F32_F32")


def sizes(batch: int, cell: Cell) -> Sizes:
    return Sizes(rounded_up(batch, ROWS), ROWS, padded(cell.hidden))


def padded(hidden: int) -> int:
    """
    >>> padded(3), padded(100), padded(128)
    (16, 128, 128)
    """
    return max(16, 1 << (hidden - 1).bit_length())


def call(
    kernel: Kernel, inputs: Blocks, outputs: Blocks, sizes: Sizes, *, reverse: bool, interpret: Any
) -> Blocks:
    expect_deprecation()
    time = jax.tree.leaves(outputs.steps)[0].shape[0]

    def body(inputs, outputs):
        kernels = inputs.whole["kernels"]
        weights = [kernels[gate] for gate in range(kernels.shape[0])]
        position = (lambda i: time - 1 - i) if reverse else (lambda i: i)
        ops = TileOps(time, position, True, **in_rows(kernel, sizes, weights.__getitem__))
        state = kernel.run(inputs, outputs, ops, kernel.start(inputs, ops))
        for target, value in zip(jax.tree.leaves(outputs.rows), jax.tree.leaves(state), strict=True):
            target[...] = value

    body.__name__ = kernel.name
    narrow = inputs.whole["kernels"].dtype.itemsize < 4
    warps = 4 if narrow and sizes.hidden <= 64 else 8  # with fewer for float32, registers spill
    (found,) = pl.pallas_call(
        body,
        grid=(sizes.rows // sizes.tile,),
        in_specs=[_specs(inputs, sizes)],
        out_specs=(_specs(outputs, sizes),),
        out_shape=(varying_results(outputs, inputs),),
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
        interpret=interpret,
        name=kernel.name,
    )(inputs)
    return found


def _specs(blocks: Blocks, sizes: Sizes) -> Any:
    def steps(array):
        return pl.BlockSpec((array.shape[0], sizes.tile, array.shape[2]), lambda i: (0, i, 0))

    def rows(array):
        return pl.BlockSpec((sizes.tile, array.shape[1]), lambda i: (i, 0))

    def whole(array):
        rest = array.shape[1:]
        return pl.BlockSpec((None, *rest), lambda i: (i // sizes.tiles_of_head, *[0] * len(rest)))

    return Blocks(*(jax.tree.map(spec, group) for spec, group in zip((steps, rows, whole), blocks)))


def expect_deprecation() -> None:
    """From 0.11 on JAX warns when it lowers such a kernel. It is known here, and nothing that a user could act on.

    A filter, since lowering happens later and elsewhere than the call that is traced here.
    """
    warnings.filterwarnings(
        "ignore", message="The Pallas Triton backend is deprecated", category=DeprecationWarning
    )


TRITON = Device(sizes, call, unable)
