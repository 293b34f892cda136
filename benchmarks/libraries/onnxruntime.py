"""ONNX Runtime on the file of ``jaxrnn.export.to_onnx``: one recurrent operator, on its own choice of threads.

It runs models that are trained already, so that there is no training step.
"""

import importlib
from typing import Any

import numpy as np

import jaxrnn
from benchmarks.libraries.base import Contestant, Library
from benchmarks.libraries.ours import CELLS
from jaxrnn.export import to_onnx


def session(model: bytes, options: Any = None) -> Any:
    """A function of inputs ``[batch, time, in_features]``."""
    runtime: Any = importlib.import_module("onnxruntime")
    made = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda inputs: made.run(None, {"inputs": inputs})[0]


def layer(name: str, cell: jaxrnn.RecurrentCell, inputs: np.ndarray) -> Contestant:
    run = session(to_onnx(jaxrnn.RNN(cell)))
    return Contestant(lambda: run(inputs), None)


ONNXRUNTIME = Library(
    "ONNX Runtime", {"onnx": "onnx", "onnxruntime": "onnxruntime"}, CELLS, layer, in_jax=False, forward_only=True
)
