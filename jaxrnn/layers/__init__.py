"""Layers: cells over whole sequences, alone and stacked."""

from jaxrnn.layers.rnn import RNN
from jaxrnn.layers.stack import SimpleRNN, StackedRNN

__all__ = ["RNN", "SimpleRNN", "StackedRNN"]
