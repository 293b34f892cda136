"""Cells: Flax parameters and the equations of one step."""

from jaxrnn.cells.base import RecurrentCell
from jaxrnn.cells.gru import GRUCell
from jaxrnn.cells.leaky import LeakyCell
from jaxrnn.cells.linear import LinearRecurrentCell
from jaxrnn.cells.lru import LRUCell
from jaxrnn.cells.lstm import LSTMCell
from jaxrnn.cells.minimal import MinGRUCell, MinLSTMCell
from jaxrnn.cells.rg_lru import RGLRUCell
from jaxrnn.cells.simple import SimpleRNNCell
from jaxrnn.cells.slstm import SLSTMCell

CELLS: dict[str, type[RecurrentCell] | type[LinearRecurrentCell]] = {
    "simple_rnn": SimpleRNNCell,
    "lstm": LSTMCell,
    "gru": GRUCell,
    "leaky": LeakyCell,
    "slstm": SLSTMCell,
    "lru": LRUCell,
    "rg_lru": RGLRUCell,
    "min_gru": MinGRUCell,
    "min_lstm": MinLSTMCell,
}
"""The cells that scripts and configurations may name."""

__all__ = [
    "CELLS",
    "GRUCell",
    "LRUCell",
    "LSTMCell",
    "LeakyCell",
    "LinearRecurrentCell",
    "MinGRUCell",
    "MinLSTMCell",
    "RGLRUCell",
    "RecurrentCell",
    "SLSTMCell",
    "SimpleRNNCell",
]
