"""Recurrent networks on JAX and Flax: one engine, hand-written backpropagation through time for every cell."""

from jaxrnn import ops
from jaxrnn.cells import RecurrentCell, SimpleRNNCell
from jaxrnn.layers import RNN, SimpleRNN, StackedRNN
from jaxrnn.models import RNNForecaster

__version__ = "0.1.0"

__all__ = ["RNN", "RNNForecaster", "RecurrentCell", "SimpleRNN", "SimpleRNNCell", "StackedRNN", "ops"]
