"""How a program that runs once is compiled."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxrnn.ops.dispatch import platform_of
from jaxrnn.ops.native.threefry import lowering_parameters

_LESS_OPTIMISED: dict[str, Any] = {
    "xla_backend_optimization_level": 1,
    "xla_llvm_disable_expensive_passes": True,
    # XLA's older way of making loops of a fusion takes less time. Newer versions do not have it any more.
    **({"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}),
}


def options_for_one_call() -> dict[str, Any]:
    """Options of ``jax.jit`` for a program that runs once: on a CPU, LLVM optimises less.

    A program compiles sooner, with the same bits. Without any optimisation LLVM would not fuse products with sums,
    which changes the bits. Within another transformation JAX takes no options, and raises a ValueError.
    """
    if platform_of(()) != "cpu" or jax.config.read("jax_disable_most_optimizations"):
        return {}
    return {"compiler_options": _LESS_OPTIMISED}


def for_one_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """As ``jax.jit``, for a program that runs once: compiled as fast as possible, with the same bits.

    On a CPU, JAX's random bits come from the C++ library. Within another transformation this is ``jax.jit``.

    >>> normal = for_one_call(lambda key: jax.random.normal(key, (2,)))
    >>> bool((normal(jax.random.key(0)) == jax.random.normal(jax.random.key(0), (2,))).all())
    True
    """
    plain, programs = jax.jit(function), {}

    def call(*arguments: Any) -> Any:
        leaves = jax.tree.leaves(arguments)
        disabled = jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]
        if disabled or platform_of(leaves) != "cpu" or _is_transformed(leaves):
            return plain(*arguments)
        options, traced = options_for_one_call(), plain.trace(*arguments)
        # JAX keeps what it has traced, for every shape and for settings such as that of its random generator.
        kind = traced.jaxpr, *options, *(getattr(leaf, "sharding", None) for leaf in leaves)
        if kind not in programs:
            programs[kind] = _lowered(traced).compile(**options)
        try:
            return programs[kind](*arguments)
        except TypeError:  # what the function itself holds may come from another transformation
            return plain(*arguments)

    return call


def lower(function: Any, *arguments: Any) -> jax.stages.Lowered:
    """What ``function.lower`` of ``jax.jit`` returns; on a CPU with the random bits of the C++ library."""
    traced = function.trace(*arguments)
    return _lowered(traced) if platform_of(jax.tree.leaves(arguments)) == "cpu" else traced.lower()


def _lowered(traced: Any) -> jax.stages.Lowered:
    parameters = lowering_parameters()
    return traced.lower() if parameters is None else traced.lower(_private_parameters=parameters)


def _is_transformed(leaves: Iterable[Any]) -> bool:
    """Whether another transformation, such as ``jax.jit``, traces this: then a number becomes a tracer too."""
    return any(isinstance(leaf, Tracer) for leaf in (*leaves, jax.device_put(np.zeros(()))))
