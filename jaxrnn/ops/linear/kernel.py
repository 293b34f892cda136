"""A linear recurrence in one kernel, through Pallas: with Triton on a GPU, with Mosaic on a TPU.

On a GPU, one program has some channels and runs all steps, with the state in registers. The numbers of several
steps are on their way from memory while those before are used. Where there are few channels, time is cut into
chunks, which are computed twice: first only what each chunk does to its first state, then, from the right first
states, the states. On a TPU the grid moves through time, with the state in VMEM, while Pallas brings the next
block.

The gradients are those of ``loops.py``: the kernels run them, too, reversed.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrnn.ops.linear.arrays import LinearArrays, states_before
from jaxrnn.ops.linear.loops import associative, loop_recurrence, next_state
from jaxrnn.ops.pallas import accelerator

LANES = 128
"""Channels of one program."""

AHEAD = 16
"""Steps whose numbers are read at once."""

PROGRAMS = 528
"""How many programs keep a large GPU busy: four on each of its 132 multiprocessors."""

LEAST_STEPS = 128
"""In a chunk."""

TPU_STEPS = 128
"""In one block of a TPU: of 32 x 128 numbers each, 2 MiB."""


def unable(x: LinearArrays, platform: str) -> str | None:
    dtypes = {"gpu": ("float16", "bfloat16", "float32", "float64"), "tpu": ("bfloat16", "float32")}
    if platform not in dtypes:
        return f"the kernels run on a gpu or a tpu, not on a {platform}"
    if x.b.dtype.name not in dtypes[platform]:
        return f"the kernel of a {platform} computes {', '.join(dtypes[platform])}, not {x.b.dtype}"
    return None


def not_preferred(x: LinearArrays, platform: str) -> str | None:
    return None if platform == "gpu" else f"not measured against the others on a {platform}; name it to use it"


def kernel_recurrence(x: LinearArrays, *, reverse: bool, batch_major: bool) -> Array:
    loop = tpu_loop if accelerator() == "tpu" else gpu_loop
    return loop_recurrence(loop, x, reverse=reverse, batch_major=batch_major)


def _flat(a: Array, b: Array, initial_state: Array, unit: int) -> tuple[Array, Array, Array]:
    """The arrays as ``[time or 1, channels]``, with all batch axes in the channels, and zeros up to a multiple."""
    state = b.shape[1:]
    width = math.prod(state)

    def flat(array: Array) -> Array:
        array = jnp.broadcast_to(array, (array.shape[0], *state)).reshape(array.shape[0], width)
        return jnp.pad(array, [(0, 0), (0, -width % unit)]) if width % unit else array

    return flat(a), flat(b), flat(initial_state[None])


def gpu_loop(
    a: Array, b: Array, initial_state: Array, reverse: bool, forget: Array | None, *, interpret: bool = False
) -> Array:
    """A loop, see ``loops.py``."""
    time, state = b.shape[0], b.shape[1:]
    forgets = forget is not None
    if forget is not None:
        a, forget = jnp.where(forget, 0, a), jnp.broadcast_to(forget, b.shape)
    a, b, first = _flat(a, b, initial_state, LANES)
    programs = b.shape[1] // LANES
    chunks = 1 if 4 * programs >= PROGRAMS else min(-(-PROGRAMS // programs), -(-time // LEAST_STEPS))
    length = -(-time // chunks)
    chunks = -(-time // length)
    if chunks > 1:
        totals, ends = _call(a, b, None, length, reverse, forgets, interpret)
        forgotten = None if forget is None else _any_of_chunk(forget, length, b.shape[1], reverse)
        first = states_before(first[0], associative(totals, ends, first[0], False, forgotten), False)
    states = _call(a, b, first, length, reverse, forgets, interpret)
    return states[:, : math.prod(state)].reshape(time, *state)


def _any_of_chunk(forget: Array, length: int, width: int, reverse: bool) -> Array:
    """Which channels a step of a chunk forgets, bool ``[chunks, width]``, in the order of computation."""
    flat = forget.reshape(forget.shape[0], -1)
    flat = flat[::-1] if reverse else flat
    flat = jnp.pad(flat, [(0, -flat.shape[0] % length), (0, width - flat.shape[1])])
    return flat.reshape(-1, length, width).any(axis=1)


def tpu_loop(
    a: Array, b: Array, initial_state: Array, reverse: bool, forget: Array | None, *, interpret: Any = False
) -> Array:
    """A loop, see ``loops.py``."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu

    time, state = b.shape[0], b.shape[1:]
    forgets = forget is not None
    a = a if forget is None else jnp.where(forget, 0, a)
    a, b, first = _flat(a, b, initial_state, LANES)
    # A step of a block fills whole registers of 8 x 128.
    a, b = a.reshape(a.shape[0], -1, LANES), b.reshape(time, -1, LANES)
    first = first.reshape(1, -1, LANES)
    rows = b.shape[1]
    tile = rows if rows < 8 else 8 * min(4, rows // 8)
    steps = min(TPU_STEPS, time)
    blocks = -(-time // steps)
    constant = a.shape[0] == 1

    def block(i: Any) -> Any:
        return blocks - 1 - i if reverse else i

    def body(a_ref: Any, b_ref: Any, first_ref: Any, states_ref: Any, h_ref: Any) -> None:
        number = pl.program_id(1)
        count = jnp.minimum(steps, time - block(number) * steps)

        @pl.when(number == 0)
        def _() -> None:
            h_ref[...] = first_ref[0]

        def step(i: Any, h: Array) -> Array:
            t = count - 1 - i if reverse else i
            h = _next(a_ref[0 if constant else t], b_ref[t], h, forgets)
            states_ref[t] = h
            return h

        h_ref[...] = lax.fori_loop(0, count, step, h_ref[...])

    of_steps = pl.BlockSpec((steps, tile, LANES), lambda i, j: (block(j), i, 0))
    once = pl.BlockSpec((1, tile, LANES), lambda i, j: (0, i, 0))
    states = pl.pallas_call(
        body,
        grid=(-(-rows // tile), blocks),
        in_specs=[once if constant else of_steps, of_steps, once],
        out_specs=of_steps,
        out_shape=jax.ShapeDtypeStruct(b.shape, b.dtype),
        scratch_shapes=[tpu.VMEM((tile, LANES), b.dtype)],
        compiler_params=tpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="recurrence_linear",
    )(a, b, first)
    return states.reshape(time, -1)[:, : math.prod(state)].reshape(time, *state)


def _next(a: Array, b: Array, h: Array, forgets: bool) -> Array:
    """The next state. With ``forgets``, where a = 0 it does not read the state before, which may be NaN."""
    return next_state(a, b, h, a == 0 if forgets else None)


def _call(
    a: Array, b: Array, first: Array | None, length: int, reverse: bool, forgets: bool, interpret: bool
) -> Any:
    """The states, from the first state of every chunk; without these, what every chunk does to its first state."""
    from jax.experimental import pallas as pl  # takes a quarter of a second to import
    from jax.experimental.pallas import triton

    from jaxrnn.ops.pallas.triton import expect_deprecation

    expect_deprecation()
    time, width = b.shape
    chunks = -(-time // length)

    def body(*references: Any) -> None:
        a_ref, b_ref = references[:2]
        start = pl.program_id(1) * length
        count = jnp.minimum(length, time - start)

        def position(i: Any) -> Any:
            i = start + jnp.minimum(i, count - 1)
            return time - 1 - i if reverse else i

        def read(i: Any) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
            steps = [position(i + k) for k in range(AHEAD)]
            decays = tuple(a_ref[0 if a.shape[0] == 1 else t] for t in steps)
            return decays, tuple(b_ref[t] for t in steps)

        def some_steps(j: Any, state: Any) -> Any:
            total, h, (decays, added) = state
            i = j * AHEAD
            following = read(i + AHEAD)
            for k in range(AHEAD):
                inside = i + k < count  # beyond the end, the state stays, and is written to its place again
                decay = jnp.where(inside, decays[k], 1)
                h = _next(decay, jnp.where(inside, added[k], 0), h, forgets)
                if first is None:
                    total = total * decay
                else:
                    references[3][position(i + k)] = h
            return total, h, following

        one = jnp.ones((LANES,), b.dtype)
        h = jnp.zeros_like(one) if first is None else references[2][0]
        state = (one, h, read(0))
        total, h, _ = lax.fori_loop(0, (count + AHEAD - 1) // AHEAD, some_steps, state)
        if first is None:
            references[2][0] = total
            references[3][0] = h

    def steps(array: Any) -> pl.BlockSpec:
        return pl.BlockSpec((array.shape[0], LANES), lambda i, j: (0, i))

    of_chunk = pl.BlockSpec((1, LANES), lambda i, j: (j, i))
    ends = jax.ShapeDtypeStruct((chunks, width), b.dtype)
    inputs = (a, b) if first is None else (a, b, first)
    return pl.pallas_call(
        body,
        grid=(width // LANES, chunks),
        in_specs=[steps(a), steps(b), *([] if first is None else [of_chunk])],
        out_specs=(of_chunk, of_chunk) if first is None else steps(b),
        out_shape=(ends, ends) if first is None else jax.ShapeDtypeStruct(b.shape, b.dtype),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="recurrence_linear_ends" if first is None else "recurrence_linear",
    )(*inputs)
