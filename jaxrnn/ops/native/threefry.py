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
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir

from jaxrnn.ops.native.library import available


def _threefry(*keys_and_counts: Array) -> Sequence[Array]:
    arrays = jnp.broadcast_arrays(*keys_and_counts)
    return jax.ffi.ffi_call("jaxrnn_threefry", [jax.typeof(arrays[0])] * 2)(*arrays)


@functools.cache
def lowering_parameters() -> Any:
    """What ``lower`` of a traced function on a CPU takes as ``_private_parameters``.

    None without the library, and with a JAX in which these parameters, which are not public, have another form.
    """
    known = "_private_parameters" in inspect.signature(jax.stages.Traced.lower).parameters
    if not (known and hasattr(mlir, "LoweringParameters") and available()):
        return None
    rule = mlir.lower_fun(_threefry, multiple_results=True)
    return mlir.LoweringParameters(override_lowering_rules=((threefry2x32_p, rule),))
