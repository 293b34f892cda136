"""The arrays of a linear recurrence, and how its masks become numbers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from jaxrnn.ops.varying import all_axes, made_to_vary


class LinearArrays(NamedTuple):
    """The arrays of a linear recurrence, time first, all of one dtype; those from Python numbers may be wider.

    Attributes:
      a: ``[time or 1, *batch, channels]``, where an axis of the batch may be 1, too.
      b: ``[time, *batch, channels]``.
      initial_state: ``[*batch, channels]``.
      reset_state: ``[*batch, channels]``; None without resets.
      lengths: int32 ``[*batch]``, from 0 to time, or None. From its length on, a row's state stays as it is.
      resets: bool ``[time, *batch]``, or None. Where true, the state is ``reset_state`` before the step.
    """

    a: Array
    b: Array
    initial_state: Array
    reset_state: Array | None = None
    lengths: Array | None = None
    resets: Array | None = None

    @property
    def time(self) -> int:
        return self.b.shape[0]

    @property
    def batch(self) -> tuple[int, ...]:
        return self.b.shape[1:-1]


def spread_alike(x: LinearArrays) -> LinearArrays:
    """Spread every array over the devices as the others are, on an explicit mesh and within ``jax.shard_map``.

    Loops and hand-written gradients need a carry, a state or a gradient to be of the same type as another array.
    """
    first_axes = {"a": 0, "b": 0, "initial_state": 1, "reset_state": 1, "lengths": 1, "resets": 0}
    arrays = {name: array for name, array in x._asdict().items() if array is not None}
    types = {name: jax.typeof(array) for name, array in arrays.items()}
    axes: list[Any] = [None] * x.b.ndim
    varying = all_axes(arrays)
    for name, of_array in types.items():
        for axis, part in enumerate(of_array.sharding.spec, first_axes[name]):
            axes[axis] = axes[axis] or part
    if not any(axes) and not varying:
        return x
    # Arrays from outside jit may have a sharding without a mesh.
    spread = next((t.sharding for t in types.values() if any(t.sharding.spec)), types["b"].sharding)
    for name, array in arrays.items():
        first = first_axes[name]
        whole = [size == x.b.shape[axis] for axis, size in enumerate(array.shape, first)]
        spec = PartitionSpec(*(part if full else None for part, full in zip(axes[first:], whole)))
        if types[name].sharding.spec != spec:
            array = jax.sharding.reshard(array, spread.update(spec=spec))
        arrays[name] = made_to_vary(array, varying)
    return x._replace(**arrays)


def without_masks(x: LinearArrays) -> tuple[Array, Array, Array | None]:
    """a, b and ``forget`` that give the same states without lengths and resets.

    A step beyond a row's length has a = 1 and b = 0. A step after a reset has b = a * reset_state + b, and is in
    ``forget``, bool ``[time, *batch, 1]``: its state is b, whatever the state before. Multiplying that by a = 0
    would not do, since it may be infinite or NaN.
    """
    a, b, forget = x.a, x.b, None
    if x.resets is not None:
        assert x.reset_state is not None
        forget = x.resets[..., None]
        b = jnp.where(forget, a * x.reset_state[None] + b, b)
    if x.lengths is not None:
        steps = jnp.arange(x.time).reshape(x.time, *([1] * x.lengths.ndim))
        valid = (steps < x.lengths[None])[..., None]
        a, b = jnp.where(valid, a, 1), jnp.where(valid, b, 0)
    return a, b, forget


def sum_to(gradient: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of an array of this shape, from that of what it was broadcast to."""
    axes = [i for i, (size, wanted) in enumerate(zip(gradient.shape, shape, strict=True)) if size != wanted]
    return gradient.sum(axes, keepdims=True) if axes else gradient


def states_before(initial_state: Array, states: Array, reverse: bool) -> Array:
    """The state before every step, from the state after it."""
    first = initial_state[None]
    return jnp.concatenate([states[1:], first] if reverse else [first, states[:-1]])
