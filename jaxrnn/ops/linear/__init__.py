"""Linear recurrences, h_t = a_t * h_{t-1} + b_t, channel by channel: one entry, several implementations.

``recurrence.py`` checks the arguments and picks an implementation; ``loops.py`` has those in plain JAX,
``native.py`` calls the C++ library, ``kernel.py`` has the kernels for GPUs and TPUs; ``arrays.py`` is what they
share.
"""

from jaxrnn.ops.linear.recurrence import (
    LINEAR_IMPLEMENTATIONS,
    broadcasts,
    checked_arrays,
    explain_linear_recurrence,
    linear_recurrence,
    run_linear_recurrence,
)

__all__ = [
    "LINEAR_IMPLEMENTATIONS",
    "broadcasts",
    "checked_arrays",
    "explain_linear_recurrence",
    "linear_recurrence",
    "run_linear_recurrence",
]
