"""JAX's random bits from the C++ library: the same bits, with nothing for XLA to compile.

XLA takes longer to compile JAX's generator, once for every array, than everything else in the initial values of a
small model. Source: Salmon, Moraes, Dror, Shaw (2011), Parallel random numbers: as easy as 1, 2, 3,
doi:10.1145/2063384.2063405.
"""

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import ShapedArray
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir

from jaxrnn.ops.native.library import available


def _threefry(*keys_and_counts: Array) -> Sequence[Array]:
    arrays = jnp.broadcast_arrays(*keys_and_counts)
    return jax.ffi.ffi_call("jaxrnn_threefry", [jax.typeof(arrays[0])] * 2)(*arrays)


def _random_bits(keys: Array, *, bit_width: int, shape: tuple[int, ...]) -> Array:
    """``jax.random.bits`` of keys ``[..., 2]``, as JAX's own equations divide and join the words."""
    words = jax.ShapeDtypeStruct((*keys.shape[:-1], *shape), jnp.uint32)
    first, second = jax.ffi.ffi_call("jaxrnn_random_words", [words] * 2)(keys)
    dtype = jnp.dtype(f"uint{bit_width}")
    if bit_width == 64:
        return first.astype(dtype) << jnp.asarray(32, dtype) | second.astype(dtype)
    return (first ^ second).astype(dtype)


def _lower_random_bits(context: Any, keys: Any, *, bit_width: int, shape: tuple[int, ...]) -> Any:
    """Other generators, and Threefry as older versions of JAX had it, stay as they are."""
    (given,) = context.avals_in
    by_numbers = jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]
    function: Any = functools.partial(_random_bits, bit_width=bit_width, shape=shape)
    if str(given.dtype) != "key<fry>" or not by_numbers:
        function = functools.partial(given.dtype._impl.random_bits, bit_width=bit_width, shape=shape)
        for _ in given.shape:
            function = jax.vmap(function)
    words = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(given.shape, given.dtype))
    context = context.replace(avals_in=[ShapedArray(words.shape, words.dtype)])
    return mlir.lower_fun(function, multiple_results=False)(context, keys)


def _primitive_of_random_bits() -> Any:
    """JAX does not make it public. None if it is called something else, or its keys have another form."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    equations = jax.make_jaxpr(jax.random.bits)(key).eqns
    found = [equation.primitive for equation in equations if equation.primitive.name == "random_bits"]
    return found[0] if found and hasattr(getattr(key.dtype, "_impl", None), "random_bits") else None


@functools.cache
def lowering_parameters() -> Any:
    """What ``lower`` of a traced function on a CPU takes as ``_private_parameters``.

    None without the library, and with a JAX in which these parameters, which are not public, have another form.
    """
    known = "_private_parameters" in inspect.signature(jax.stages.Traced.lower).parameters
    if not (known and hasattr(mlir, "LoweringParameters") and available()):
        return None
    rules: Any = {threefry2x32_p: mlir.lower_fun(_threefry, multiple_results=True)}
    if (random_bits := _primitive_of_random_bits()) is not None:
        rules[random_bits] = _lower_random_bits
    all_rules: Any = tuple(rules.items())
    return mlir.LoweringParameters(override_lowering_rules=all_rules)
