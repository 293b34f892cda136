"""The engine: pure functions of arrays with time first, for people who hold their own parameters."""

from jaxrnn.ops.activations import ACTIVATIONS, Activation, named_activation
from jaxrnn.ops.dispatch import IMPLEMENTATIONS, Choice, Implementation, explain, recurrence
from jaxrnn.ops.linear import LINEAR_IMPLEMENTATIONS, explain_linear_recurrence, linear_recurrence
from jaxrnn.ops.pointwise import (
    LSTMCarry,
    gru_pointwise,
    gru_reset_before_pointwise,
    leaky_pointwise,
    lstm_pointwise,
    simple_rnn_pointwise,
)
from jaxrnn.ops.slstm import SLSTMCarry, slstm_pointwise
from jaxrnn.ops.step import Carry, Pointwise, Projection

__all__ = [
    "ACTIVATIONS",
    "IMPLEMENTATIONS",
    "LINEAR_IMPLEMENTATIONS",
    "Activation",
    "Carry",
    "Choice",
    "Implementation",
    "LSTMCarry",
    "Pointwise",
    "Projection",
    "SLSTMCarry",
    "explain",
    "explain_linear_recurrence",
    "gru_pointwise",
    "gru_reset_before_pointwise",
    "leaky_pointwise",
    "linear_recurrence",
    "lstm_pointwise",
    "named_activation",
    "recurrence",
    "simple_rnn_pointwise",
    "slstm_pointwise",
]
