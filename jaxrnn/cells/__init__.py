"""Cells: Flax parameters and the equations of one step."""

from jaxrnn.cells.base import RecurrentCell
from jaxrnn.cells.gru import GRUCell
from jaxrnn.cells.leaky import LeakyCell
from jaxrnn.cells.lstm import LSTMCell
from jaxrnn.cells.simple import SimpleRNNCell
from jaxrnn.cells.slstm import SLSTMCell

CELLS: dict[str, type[RecurrentCell]] = {
    "simple_rnn": SimpleRNNCell,
    "lstm": LSTMCell,
    "gru": GRUCell,
    "leaky": LeakyCell,
    "slstm": SLSTMCell,
}
"""The cells that scripts and configurations may name."""

__all__ = ["CELLS", "GRUCell", "LSTMCell", "LeakyCell", "RecurrentCell", "SLSTMCell", "SimpleRNNCell"]
