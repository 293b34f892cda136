"""Recurrent networks on JAX and Flax: one engine, hand-written backpropagation through time for every cell."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrnn import data, export, forecasting, interop, ops, training
    from jaxrnn.cells import (
        GRUCell,
        LeakyCell,
        LinearRecurrentCell,
        LRUCell,
        LSTMCell,
        MinGRUCell,
        MinLSTMCell,
        RecurrentCell,
        RGLRUCell,
        SimpleRNNCell,
        SLSTMCell,
    )
    from jaxrnn.layers import GRU, LSTM, RNN, SLSTM, Bidirectional, SimpleRNN, StackedRNN, Streams, streaming_step
    from jaxrnn.models import LanguageModel, RNNForecaster, SequenceClassifier
    from jaxrnn.ops import LSTMCarry, SLSTMCarry

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SLSTM",
    "Bidirectional",
    "GRUCell",
    "LRUCell",
    "LSTMCarry",
    "LSTMCell",
    "LanguageModel",
    "LeakyCell",
    "LinearRecurrentCell",
    "MinGRUCell",
    "MinLSTMCell",
    "RGLRUCell",
    "RNNForecaster",
    "RecurrentCell",
    "SLSTMCarry",
    "SLSTMCell",
    "SequenceClassifier",
    "SimpleRNN",
    "SimpleRNNCell",
    "StackedRNN",
    "Streams",
    "data",
    "export",
    "forecasting",
    "interop",
    "ops",
    "streaming_step",
    "training",
]


# Everything is loaded when it is first used, since Flax alone takes a second, and brings Optax with it. Who only
# runs layers needs no optimisers, checkpoints or other formats.
_MODULES = ("cells", "checks", "data", "export", "forecasting", "interop", "layers", "models", "ops", "training")
_HOMES = {
    **dict.fromkeys(
        (
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
        ),
        "cells",
    ),
    **dict.fromkeys(
        ("GRU", "LSTM", "RNN", "SLSTM", "Bidirectional", "SimpleRNN", "StackedRNN", "Streams", "streaming_step"),
        "layers",
    ),
    "RNNForecaster": "models",
    "SequenceClassifier": "models",
    **dict.fromkeys(("LanguageModel", "RNNForecaster"), "models"),
    "LSTMCarry": "ops",
    "SLSTMCarry": "ops",
}
"""The module of each public name."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"jaxrnn.{name}")
    if name in _HOMES:
        found = getattr(importlib.import_module(f"jaxrnn.{_HOMES[name]}"), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'jaxrnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
