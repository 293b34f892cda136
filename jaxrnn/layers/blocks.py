"""A sequence in one block, or in rematerialised blocks: their activations are computed again in the backward pass,
so that only the carries between them are kept."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrnn.ops.step import Carry
from jaxrnn.ops.varying import all_axes, made_to_vary


class Steps(NamedTuple):
    """The steps of a block: inputs, resets, and the number of its first step in the sequence."""

    inputs: Array
    resets: Array | None
    first: Array | int


Block = Callable[[Carry, Steps], tuple[Carry, Array]]


def lengths_from(seq_lengths: Array | None, first: Array | int, inputs: Array) -> Array | None:
    """What is left of the lengths in a block of these inputs."""
    return None if seq_lengths is None else jnp.clip(seq_lengths - first, 0, inputs.shape[0])


def over_time(
    block: Block,
    initial_carry: Carry,
    inputs: Array,
    resets: Array | None,
    remat_every: int | None,
    last_only: bool,
    reverse: bool,
) -> tuple[Carry, Array]:
    """Run a sequence in one block, or in rematerialised blocks of ``remat_every`` steps."""

    def run(carry: Carry, steps: Steps) -> tuple[Carry, Array]:
        carry, outputs = block(carry, steps)
        if last_only:
            outputs = outputs[:1] if reverse else outputs[-1:]
        return carry, outputs

    if remat_every is None:
        return run(initial_carry, Steps(inputs, resets, 0))
    if not isinstance(remat_every, int) or remat_every < 1:
        raise ValueError(f"remat_every must be a positive integer or None, not {remat_every!r}")
    carry, outputs = _in_blocks(jax.checkpoint(run), initial_carry, inputs, resets, remat_every, reverse)
    if last_only:
        outputs = outputs[:1] if reverse else outputs[-1:]
    return carry, outputs


def _in_blocks(
    block: Block, carry: Carry, inputs: Array, resets: Array | None, length: int, reverse: bool
) -> tuple[Carry, Array]:
    """Scan a rematerialised block over the sequence. A remaining shorter block is computed last."""
    time = inputs.shape[0]
    blocks, rest = divmod(time, length)
    start = rest if reverse else 0

    def cut(array: Array) -> Array:
        return array[start : start + blocks * length].reshape(blocks, length, *array.shape[1:])

    firsts = start + jnp.arange(blocks) * length
    steps = Steps(cut(inputs), None if resets is None else cut(resets), firsts)
    varying = all_axes(inputs)  # within jax.shard_map, where a carry of zeros does not vary
    carry = jax.tree.map(lambda part: made_to_vary(part, varying), carry)
    carry, outputs = lax.scan(block, carry, steps, reverse=reverse)
    outputs = outputs.reshape(blocks * outputs.shape[1], *outputs.shape[2:])
    if rest:
        part = slice(0, rest) if reverse else slice(blocks * length, time)
        last = Steps(inputs[part], None if resets is None else resets[part], part.start)
        carry, remainder = block(carry, last)
        outputs = jnp.concatenate([remainder, outputs] if reverse else [outputs, remainder])
    return carry, outputs
