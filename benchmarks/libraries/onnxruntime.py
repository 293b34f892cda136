"""ONNX Runtime on the file of ``jaxrnn.export.to_onnx``: one recurrent operator, on its own choice of threads.

It runs models that are trained already, so that there is no training step.
"""

import functools
import importlib
from typing import Any

import numpy as np

import jaxrnn
from benchmarks.libraries import ours
from benchmarks.libraries.base import Contestant, Library, PeerCell, Weights
from jaxrnn.export import to_onnx

CELLS = {
    name: PeerCell(functools.partial(ours.make_cell, name), functools.partial(ours.cell_with, name))
    for name in (*ours.CELLS, "gru_one_bias")
}
"""Our cells, which the export translates; ``weights`` makes one with its parameters."""


def layer(cell: PeerCell, weights: Weights, inputs: np.ndarray) -> Contestant:
    runtime: Any = importlib.import_module("onnxruntime")
    model = to_onnx(jaxrnn.RNN(cell.weights(weights)))
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return Contestant(lambda: session.run(None, {"inputs": inputs})[0], None)


ONNXRUNTIME = Library(
    "ONNX Runtime",
    {"onnx": "onnx", "onnxruntime": "onnxruntime"},
    CELLS,
    layer,
    in_jax=False,
    forward_only=True,
)
