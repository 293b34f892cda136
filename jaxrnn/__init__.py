"""Recurrent networks on JAX and Flax: one engine, hand-written backpropagation through time for every cell."""

from jaxrnn import data, interop, ops, training
from jaxrnn.cells import GRUCell, LeakyCell, LSTMCell, RecurrentCell, SimpleRNNCell
from jaxrnn.layers import GRU, LSTM, RNN, Bidirectional, SimpleRNN, StackedRNN, streaming_step
from jaxrnn.models import RNNForecaster
from jaxrnn.ops import LSTMCarry

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Bidirectional",
    "GRUCell",
    "LSTMCarry",
    "LSTMCell",
    "LeakyCell",
    "RNNForecaster",
    "RecurrentCell",
    "SimpleRNN",
    "SimpleRNNCell",
    "StackedRNN",
    "data",
    "interop",
    "ops",
    "streaming_step",
    "training",
]
