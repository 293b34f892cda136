"""Layers: cells over whole sequences, alone and stacked."""

from jaxrnn.layers.rnn import RNN, Bidirectional
from jaxrnn.layers.stack import GRU, LSTM, SimpleRNN, StackedRNN

__all__ = ["GRU", "LSTM", "RNN", "Bidirectional", "SimpleRNN", "StackedRNN"]
