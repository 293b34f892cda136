"""The norm of many arrays as one call of the C++ library, where XLA would compile up to three loops for each."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.ops.varying import all_axes, made_to_vary


@jax.custom_jvp
def norm(arrays: list[Array]) -> Array:
    """The square root of the sum of all squares; of arrays of one dtype, float32 or float64.

    Sums are in float64, and nothing overflows but a norm itself. The bits do not depend on the number of threads.
    """
    shape = jax.ShapeDtypeStruct((), arrays[0].dtype)
    result = jax.ffi.ffi_call("jaxrnn_norm", shape, vmap_method="broadcast_all")(*arrays)
    return made_to_vary(result, all_axes(arrays))


@norm.defjvp
def _jvp(primals: tuple[list[Array]], tangents: tuple[list[Array]]) -> tuple[Array, Array]:
    (arrays,), (along,) = primals, tangents
    size = norm(arrays)
    products = [jnp.vdot(a / size, d) for a, d in zip(arrays, along)]
    return size, sum(products[1:], products[0])
