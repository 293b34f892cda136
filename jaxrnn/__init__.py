"""Recurrent networks on JAX and Flax: one engine, hand-written backpropagation through time for every cell."""

import importlib
from typing import TYPE_CHECKING, Any

from jaxrnn import data, interop, ops
from jaxrnn.cells import GRUCell, LeakyCell, LSTMCell, RecurrentCell, SimpleRNNCell
from jaxrnn.layers import GRU, LSTM, RNN, Bidirectional, SimpleRNN, StackedRNN, Streams, streaming_step
from jaxrnn.models import RNNForecaster
from jaxrnn.ops import LSTMCarry

if TYPE_CHECKING:
    from jaxrnn import export, training

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
    "Streams",
    "data",
    "export",
    "interop",
    "ops",
    "streaming_step",
    "training",
]


def __getattr__(name: str) -> Any:
    # Loaded when they are first used: who only runs layers needs no optimisers, checkpoints or other formats.
    if name in ("export", "training"):
        return importlib.import_module(f"jaxrnn.{name}")
    raise AttributeError(f"module 'jaxrnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
