"""What does not fit a device, in words for people, and sizes in units of its own."""

import math
from collections.abc import Callable

import jax

from jaxrnn.ops.step import Recurrence, dtype_of


def too_large(a: Recurrence, padded: Callable[[int], int], limit: int, where: str) -> str | None:
    """Why the weights do not fit, with the largest hidden size that does; None where they do.

    Args:
      padded: hidden size to what a kernel makes of it.
      limit: of the bytes of the recurrent kernel.
      where: words for what is too small.
    """
    hidden, width = a.recurrent_kernel.shape[-2:]  # of one head
    gates, itemsize = width // hidden, a.recurrent_kernel.dtype.itemsize

    def fits(size):
        return gates * padded(size) ** 2 * itemsize <= limit

    if fits(hidden):
        return None
    largest, step = 0, padded(1)
    while fits(largest + step):
        largest = padded(largest + step)
    return (
        f"the recurrent kernel, {gates} x {hidden} x {hidden} in {a.recurrent_kernel.dtype}, does not fit "
        f"{where}; the largest hidden size that does is {largest}"
    )


OTHER_DTYPE = "the kernels for the tensor cores of Hopper multiply bfloat16 and float16"


def other_dtype(a: Recurrence, dtypes: tuple[str, ...], where: str) -> str | None:
    """Which array has a dtype that a device does not run, or None."""
    named = {
        "xw": a.xw,
        "recurrent_kernel": a.recurrent_kernel,
        "initial_carry": a.initial_carry,
        "params": a.params,
    }
    for name, tree in named.items():
        for leaf in jax.tree.leaves(tree):
            if dtype_of(leaf).name not in dtypes:
                return f"{name} is {dtype_of(leaf)}, but {where} runs {', '.join(dtypes)}"
    return None


def rounded_up(size: int, unit: int) -> int:
    """The next multiple.

    >>> rounded_up(17, 16)
    32
    """
    return math.ceil(size / unit) * unit
