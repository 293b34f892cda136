"""The engine: pure functions of arrays with time first, for people who hold their own parameters."""

from jaxrnn.ops.activations import ACTIVATIONS, Activation, named_activation
from jaxrnn.ops.dispatch import IMPLEMENTATIONS, recurrence
from jaxrnn.ops.pointwise import simple_rnn_pointwise
from jaxrnn.ops.step import Carry, Pointwise

__all__ = [
    "ACTIVATIONS",
    "IMPLEMENTATIONS",
    "Activation",
    "Carry",
    "Pointwise",
    "named_activation",
    "recurrence",
    "simple_rnn_pointwise",
]
