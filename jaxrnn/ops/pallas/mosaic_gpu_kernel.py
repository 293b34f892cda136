"""The loops over time as a kernel of Mosaic GPU: arrays in tiles, their reading and writing, and the launch.

Units of a tile are shared by several parts, each a warpgroup: blocks of a cluster (``mosaic_gpu.py``) or of one
block (``mosaic_gpu_sm.py``). What tells these apart is a :class:`Design`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.pallas import mosaic_gpu as mosaic

from jaxrnn.ops.pallas.interface import Blocks, Kernel, Sizes, TileOps
from jaxrnn.ops.pallas.registers import (
    in_thread_order,
    load,
    load_in_thread_order,
    out_of_thread_order,
    store,
    store_in_thread_order,
)
from jaxrnn.ops.pallas.simplify import IN_HALF_PRECISION, REPLACEMENTS, simplify
from jaxrnn.ops.varying import all_axes, made_to_vary


class Design(NamedTuple):
    """How the parts of a tile work together.

    Attributes:
      weights: ``[heads, gates, hidden, hidden]`` as the kernel wants them.
      exchange: arrays in global memory that the kernel uses.
      scratch: what it needs in shared memory.
      layout: of a tile in the registers of a part.
      make: ``(tile, part, weights, exchange, scratch)`` to the part, which has ``prologue``, ``forward``,
        ``backward`` and ``epilogue``; the arguments are references, the first two numbers.
      launch: how a kernel is launched whose axis "part" numbers the parts, for ``mosaic.kernel``.
      thread_order: whether arrays of half precision lie in memory as threads have them in registers; the layout is
        that of a product's results then.
      waits: whether the compiler adds waits between the threads of a warpgroup around every reading and writing.
        Not needed where no memory is both read and written by the threads of one warpgroup, except by copies and
        products that are waited for.
    """

    weights: Array
    exchange: list[jax.ShapeDtypeStruct]
    scratch: list[Any]
    layout: Any
    make: Callable[..., Any]
    launch: dict[str, Any]
    thread_order: bool = False
    waits: bool = True


def call_design(
    design: Design,
    kernel: Kernel,
    inputs: Blocks,
    outputs: Blocks,
    sizes: Sizes,
    *,
    reverse: bool,
    interpret: Any,
) -> Blocks:
    """Run a kernel. ``inputs.whole`` has the kernels of the cell, which ``design.weights`` stands for."""
    cell = kernel.cell
    time = jax.tree.leaves(outputs.steps)[0].shape[0]
    whole = {name: value for name, value in inputs.whole.items() if name != "kernels"}
    whole = jax.tree.map(lambda array: jnp.moveaxis(array[..., 0, :], 0, -2), whole)  # a row for every head
    if cell.hidden != sizes.hidden:
        whole["real"] = (jnp.arange(sizes.hidden) < cell.hidden).astype(jnp.float32)[None]
    arguments = in_tiles(inputs._replace(whole=whole), sizes, design.thread_order), design.weights
    results = jax.eval_shape(lambda blocks: in_tiles(blocks, sizes, False), outputs), design.exchange
    structure = jax.tree.structure((arguments, results, design.scratch))
    narrow = cell.dtype.itemsize == 2
    replacements = REPLACEMENTS | IN_HALF_PRECISION if narrow else REPLACEMENTS

    def body(*references):
        (inputs, weights), (outputs, exchange), scratch = jax.tree.unflatten(structure, references)
        tile, part = lax.axis_index("tile"), lax.axis_index("part")
        made = design.make(tile, part, weights, exchange, scratch)

        def place(reference, *index):
            *_, tiles, parts, _, _ = reference.shape  # one for all, one for each, or of tiles one for every head
            tile_or_head = (
                tile if tiles != sizes.heads or sizes.tiles_of_head == 1 else tile // sizes.tiles_of_head
            )
            return *index, tile_or_head if tiles > 1 else 0, part if parts > 1 else 0

        def read(reference, *index):
            if design.thread_order and _is_narrow(reference):
                return load_in_thread_order(reference.at[place(reference, *index)], reference.dtype)
            return load(reference, place(reference, *index), design.layout)

        def hold(value):
            return mosaic.layout_cast(value, design.layout)

        def write(reference, value, *index):
            write_tile = store_in_thread_order if design.thread_order and _is_narrow(reference) else store
            write_tile(reference.at[place(reference, *index)], hold(value))

        ops = TileOps(
            count=time,
            position=(lambda i: time - 1 - i) if reverse else (lambda i: i),
            prefetch=True,
            shape=(sizes.hidden // sizes.parts, sizes.tile),
            read=read,
            write=write,
            product=made.backward if kernel.backward else made.forward,
            hold=hold,
            simplify=functools.partial(simplify, replacements=replacements),
            real=read(inputs.whole["real"]) != 0 if "real" in inputs.whole else None,
        )
        made.prologue()
        state = kernel.run(inputs, outputs, ops, kernel.start(inputs, ops))
        made.epilogue()
        for target, value in zip(jax.tree.leaves(outputs.rows), jax.tree.leaves(state), strict=True):
            write(target, value)

    body.__name__ = kernel.name
    found = mosaic.kernel(
        body,
        out_type=jax.tree.leaves(results),
        scratch_types=design.scratch,
        grid=(sizes.rows // sizes.tile,),
        grid_names=("tile",),
        compiler_params=mosaic.CompilerParams(
            approx_math=narrow,  # tanh to 11 bits in one instruction, for some twenty
            unsafe_no_auto_barriers=not design.waits,
            lowering_semantics=mosaic.LoweringSemantics.Lane,
        ),
        interpret=interpret,
        **design.launch,
    )(*jax.tree.leaves(arguments))
    # JAX does not know that the results vary over a mesh as the arguments do.
    axes = all_axes(arguments)
    found = [made_to_vary(result, axes) for result in found]
    return out_of_tiles(jax.tree.unflatten(jax.tree.structure(results), found)[0], sizes, design.thread_order)


def _is_narrow(array: Any) -> bool:
    return array.dtype.itemsize == 2


BY_GATES = ("xw", "drh", "dxw")
MASKS = ("valid", "resets")


def in_tiles(blocks: Blocks, sizes: Sizes, thread_order: bool) -> Blocks:
    """Arrays ``[..., rows, hidden]`` as ``[..., tiles, parts, units, rows of a tile]``, gates in front of that.

    With ``thread_order``, a tile of half precision has its numbers in the order of the threads. What is the same
    for all rows of a head is repeated for those of one tile; for all units, for those of one part.
    """
    units = sizes.hidden // sizes.parts

    def tiled(array):
        *leading, rows, columns = array.shape
        if rows != sizes.rows:  # one for every head, or one
            array = jnp.repeat(array, sizes.tile, axis=-2)
        if columns == 1:
            array = jnp.broadcast_to(array, (*array.shape[:-1], units))
        array = array.reshape(*leading, -1, sizes.tile, array.shape[-1] // units, units)
        array = jnp.moveaxis(array, -3, -1)
        return in_thread_order(array) if thread_order and _is_narrow(array) else array

    def gates_first(array):
        return jnp.moveaxis(array.reshape(*array.shape[:-1], -1, sizes.hidden), -2, 1)

    def prepared(name, part):
        if name in MASKS:  # repeated as they are, they should at least be narrow
            return part.astype(jnp.bfloat16)
        return gates_first(part) if name in BY_GATES else part

    steps = {name: prepared(name, part) for name, part in blocks.steps.items()}
    return jax.tree.map(tiled, blocks._replace(steps=steps))


def out_of_tiles(blocks: Blocks, sizes: Sizes, thread_order: bool) -> Blocks:
    """What :func:`in_tiles` made, as it was."""

    def whole(array):
        if thread_order and _is_narrow(array):
            array = out_of_thread_order(array)
        array = jnp.moveaxis(array, -1, -3)
        return array.reshape(*array.shape[:-4], sizes.rows, sizes.hidden)

    def gates_last(array):
        array = jnp.moveaxis(array, 1, -2)
        return array.reshape(*array.shape[:-2], -1)

    found = jax.tree.map(whole, blocks)
    steps = {name: gates_last(part) if name in BY_GATES else part for name, part in found.steps.items()}
    return found._replace(steps=steps)
