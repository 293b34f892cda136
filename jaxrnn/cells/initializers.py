"""Initial values of the parameters of cells."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn.ops.compilation import for_one_call
from jaxrnn.ops.dispatch import exported_programs, platform_of
from jaxrnn.ops.native import orthogonal as native
from jaxrnn.ops.native.library import available

Initializer = Callable[..., Array]

glorot_uniform = nnx.initializers.glorot_uniform()
zeros = nnx.initializers.zeros_init()


def orthogonal(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """A uniformly distributed orthogonal matrix, as ``nnx.initializers.orthogonal()`` makes it for this key.

    On a CPU the C++ library computes it, and the two differ by rounding.
    """
    rows, columns = math.prod(shape[:-1]), shape[-1]
    small, large = sorted((rows, columns))
    in_library = platform_of(key) == "cpu" and not exported_programs.value and available()
    known = len(shape) > 1 and 0 < small <= native.LARGEST and dtype in (jnp.float32, jnp.float64)
    if not (in_library and known):
        return _one_after_the_other(key, shape, dtype)
    matrix = native.orthonormal(jax.random.normal(key, (large, small), dtype))
    return (matrix if rows >= columns else matrix.T).reshape(shape)


def _one_after_the_other(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    # On a CPU with few cores, several of jaxlib's batched QR decompositions in one program deadlock, because they
    # wait for each other's threads.
    @jax.custom_batching.sequential_vmap
    def draw(key: Array) -> Array:
        return nnx.initializers.orthogonal()(key, shape, dtype)

    return draw(key)


def by_gates(init: Initializer, keys: list[Array], shape: tuple[int, int], dtype: Any) -> Array:
    """Matrices of one shape, one for each key, side by side."""
    if init not in (glorot_uniform, orthogonal):
        return jnp.concatenate([init(key, shape, dtype) for key in keys], axis=-1)
    return _drawn_together(init, shape, dtype)(keys)


@functools.cache
def _drawn_together(init: Initializer, shape: tuple[int, int], dtype: Any) -> Callable[[list[Array]], Array]:
    """The same numbers as one by one. One vector of random bits takes far less time to compile."""

    def draw(keys: list[Array]) -> Array:
        gates = jax.vmap(lambda key: init(key, shape, dtype))(jnp.stack(keys))
        return jnp.moveaxis(gates, 0, 1).reshape(shape[0], -1)

    return for_one_call(draw)
