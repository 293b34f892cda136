"""Tiles in registers of a GPU's threads, read and written through Mosaic GPU, whatever the version of JAX."""

import inspect
import math
from typing import Any

from jax import Array
from jax.experimental.pallas import mosaic_gpu as mosaic

THREADS = 128
"""Of a block: one warpgroup, which Mosaic GPU programs as one."""


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


def store(reference: Any, value: Array) -> None:
    """Write a tile. Bank conflicts are accepted (``optimized=False``): from 0.12 on JAX reports them otherwise."""
    if hasattr(mosaic, "store"):
        mosaic.store(reference, value, optimized=False)  # pyright: ignore[reportAttributeAccessIssue]
    else:  # before jax 0.12
        reference[...] = value
