"""Small runs of the first experiment, and what they wrote."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments import forecast

SMALL = ["--hidden", "6", "--epochs", "2"]

WITHOUT_JAX = """
import sys
sys.modules["jax"] = sys.modules["flax"] = sys.modules["jaxrnn"] = None     # whatever needs them fails
import numpy as np
import onnxruntime
model, arrays, results, output = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
with np.load(arrays) as feed:
    np.save(results, session.run([output], dict(feed))[0])
"""


def read_json(path: Path):
    return json.loads(path.read_text())


def run_forecast(out: Path, *options: str) -> int:
    return forecast.main(["--out", str(out), *options])


def without_jax(model: Path, feed: dict[str, Any], folder: Path, output: str) -> np.ndarray:
    """What ONNX Runtime returns in a process of its own."""
    arrays, results = folder / "feed.npz", folder / "results.npy"
    np.savez(arrays, **feed)
    command = [sys.executable, "-c", WITHOUT_JAX, model, arrays, results, output]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return np.load(results)
