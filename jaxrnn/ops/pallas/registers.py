"""Tiles in registers of a GPU's threads, read and written through Mosaic GPU, whatever the version of JAX."""

import inspect
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
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


UNITS, ROWS = PRODUCT = 64, 16
"""The smallest tile that is a product's result, ``[units, rows]``. The tensor cores decide which 8 of its numbers
are in which thread: four pairs."""


def in_thread_order(array: Array) -> Array:
    """``[..., UNITS, ROWS]`` with the numbers of each thread side by side, to be read or written by one access."""
    *leading, _, _ = array.shape
    split = array.reshape(*leading, *_WARP_HALF_LANE_PIECE_LANE_PAIR)
    return jnp.moveaxis(split, (-4, -2), (-5, -4)).swapaxes(-3, -2).reshape(array.shape)


def out_of_thread_order(array: Array) -> Array:
    """What :func:`in_thread_order` made, as it was."""
    *leading, _, _ = array.shape
    warp, half, lane, piece, other_lane, pair = _WARP_HALF_LANE_PIECE_LANE_PAIR
    split = array.reshape(*leading, warp, lane, other_lane, piece, half, pair)
    return jnp.moveaxis(split.swapaxes(-3, -2), (-5, -4), (-4, -2)).reshape(array.shape)


_WARP_HALF_LANE_PIECE_LANE_PAIR = 4, 2, 8, 2, 4, 2


def load_in_thread_order(reference: Any, dtype: Any) -> Array:
    """A tile of half precision that is in the order of threads, as a product's result lies in registers."""
    from jax.experimental.mosaic.gpu import fragmented_array, utils

    def emit(_, memory):
        strided = fragmented_array.FragmentedArray.load_strided(memory, vec_size=math.prod(PRODUCT) // THREADS)
        (numbers,) = strided.registers
        registers = np.empty(fragmented_array.WGMMA_LAYOUT.registers_shape(PRODUCT), object)
        for i, place in enumerate(np.ndindex(registers.shape)):
            registers[place] = utils.vector_slice(numbers, slice(2 * i, 2 * i + 2))
        return fragmented_array.FragmentedArray(
            _registers=registers, _layout=fragmented_array.WGMMA_LAYOUT, _is_signed=None
        )

    result = mosaic.ShapeDtypeStruct(PRODUCT, dtype, layout=mosaic.Layout.WGMMA)
    return mosaic.inline_mgpu(arg_types=(mosaic.RefType(),), return_type=result)(emit)(reference)


def store_in_thread_order(reference: Any, value: Array) -> None:
    """Write a product's result, of half precision, as :func:`load_in_thread_order` reads it."""
    from jax.experimental.mosaic.gpu import fragmented_array, utils

    def emit(_, memory, tile):
        registers = np.empty((1,), object)
        registers[0] = utils.vector_concat(list(tile.registers.flat))
        strided = fragmented_array.WGStridedFragLayout(PRODUCT, vec_size=math.prod(PRODUCT) // THREADS)
        fragmented_array.FragmentedArray(_registers=registers, _layout=strided, _is_signed=None).store_untiled(
            memory, optimized=False
        )

    mosaic.inline_mgpu(arg_types=(mosaic.RefType(), mosaic.Layout.WGMMA))(emit)(reference, value)
