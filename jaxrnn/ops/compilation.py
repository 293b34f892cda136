"""How a program that runs once is compiled."""

from typing import Any

import jax

from jaxrnn.ops.dispatch import platform_of

_LESS_OPTIMISED: dict[str, Any] = {
    "xla_backend_optimization_level": 1,
    "xla_llvm_disable_expensive_passes": True,
    # XLA's older way of making loops of a fusion takes less time. Newer versions do not have it any more.
    **({"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}),
}


def options_for_one_call() -> dict[str, Any]:
    """Options of ``jax.jit`` for a program that runs once: on a CPU, LLVM optimises less.

    The initial values of a small model take about half of the time to compile, with the same bits. Without any
    optimisation LLVM would not fuse products with sums, which changes the bits. Within another transformation JAX
    takes no options for a program, and raises a ValueError.
    """
    if platform_of(()) != "cpu" or jax.config.read("jax_disable_most_optimizations"):
        return {}
    return {"compiler_options": _LESS_OPTIMISED}
