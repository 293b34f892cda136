"""The kernels on a GPU, through Pallas and Triton.

One program runs a tile of 16 rows of the batch (the least that a tensor core takes) over all steps: the weights stay
in its multiprocessor's shared memory, the carry in registers, and the next step's arrays are on their way from
memory while this one's product is computed. Tiles know nothing of each other, so nothing has to be synchronised over
the grid. Hidden sizes are padded to the next power of two from 16 on, since Triton takes no others, and rows to the
next multiple of 16: a hidden size of 100 costs the time and the memory of 128.

Why Triton, which JAX announces to remove some day, and not its successor Mosaic GPU: Triton's matrix product takes
tiles of 16 rows, where Mosaic GPU's on Hopper takes 64, so that a batch of 16 would waste three quarters of it, and
runs on Ampere, Ada and Hopper alike; and of the versions supported here, the older lack what Mosaic GPU kernels are
written with in the newer. What depends on the backend is this file. The loops themselves (``loops.py``) are
``jax.numpy`` on tiles, and serve a TPU already; moving on is writing this file again.

Products of float32 use TF32 (10 bits of mantissa), as JAX does on these GPUs elsewhere. For all 24 bits, at a price:
``with jax.default_matmul_precision("highest")``. Products of bfloat16 and float16 accumulate in float32.
"""

import math
import warnings
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxrnn.ops.pallas.loops import Blocks, Kernel, Walk
from jaxrnn.ops.pallas.recurrence import Device, Sizes

ROWS = 16


def sizes(batch: int, hidden: int, dtype: Any) -> Sizes:
    return Sizes(math.ceil(batch / ROWS) * ROWS, ROWS, padded(hidden))


def padded(hidden: int) -> int:
    """
    >>> padded(3), padded(100), padded(128)
    (16, 128, 128)
    """
    return max(16, 1 << (hidden - 1).bit_length())


def call(
    kernel: Kernel, inputs: Blocks, outputs: Blocks, sizes: Sizes, *, reverse: bool, interpret: Any, name: str
) -> Blocks:
    _expect_deprecation()
    time = jax.tree.leaves(outputs.steps)[0].shape[0]

    def body(inputs, outputs):
        kernels = inputs.whole["kernels"]
        weights = [kernels[gate] for gate in range(kernels.shape[0])]
        walk = Walk(time, (lambda i: time - 1 - i) if reverse else (lambda i: i), True, weights.__getitem__)
        state = kernel.run(inputs, outputs, walk, kernel.start(inputs))
        for target, value in zip(jax.tree.leaves(outputs.rows), jax.tree.leaves(state), strict=True):
            target[...] = value

    body.__name__ = name
    narrow = inputs.whole["kernels"].dtype.itemsize < 4
    warps = 4 if narrow and sizes.hidden <= 64 else 8  # with fewer for float32, registers spill
    (found,) = pl.pallas_call(
        body,
        grid=(sizes.rows // sizes.tile,),
        in_specs=[_specs(inputs, sizes.tile)],
        out_specs=(_specs(outputs, sizes.tile),),
        out_shape=(outputs,),
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
        interpret=interpret,
        name=name,
    )(inputs)
    return found


def _specs(blocks: Blocks, tile: int) -> Any:
    def steps(array):
        return pl.BlockSpec((array.shape[0], tile, array.shape[2]), lambda i: (0, i, 0))

    def rows(array):
        return pl.BlockSpec((tile, array.shape[1]), lambda i: (i, 0))

    def whole(array):
        return pl.BlockSpec(array.shape, lambda i: (0,) * len(array.shape))

    return Blocks(*(jax.tree.map(spec, group) for spec, group in zip((steps, rows, whole), blocks)))


def _expect_deprecation() -> None:
    """From 0.11 on JAX warns when it lowers such a kernel. It is known here, and nothing that a user could act on.

    A filter, since lowering happens later and elsewhere than the call that is traced here.
    """
    warnings.filterwarnings("ignore", message="The Pallas Triton backend is deprecated", category=DeprecationWarning)


GPU = Device(sizes, call)
