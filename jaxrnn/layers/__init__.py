"""Layers, which apply cells over whole sequences, alone or stacked."""

from jaxrnn.layers.kinds import GRU, LSTM, SLSTM, SimpleRNN
from jaxrnn.layers.rnn import RNN, Bidirectional
from jaxrnn.layers.stack import StackedRNN
from jaxrnn.layers.streaming import streaming_step
from jaxrnn.layers.streams import Streams

__all__ = ["GRU", "LSTM", "RNN", "SLSTM", "Bidirectional", "SimpleRNN", "StackedRNN", "Streams", "streaming_step"]
