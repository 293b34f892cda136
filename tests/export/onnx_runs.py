"""ONNX models run in ONNX Runtime, and how far two results are apart."""

from typing import Any

import jax
import numpy as np

TOLERANCE = 1e-5


def session(data: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(
    data: bytes, inputs: Any, seq_lengths: Any = None, initial_carry: Any = None, resets: Any = None
) -> dict[str, np.ndarray]:
    """All outputs by name; the leaves of ``initial_carry`` go to the inputs in their order."""
    return run_session(session(data), inputs, seq_lengths, initial_carry, resets)


def run_session(
    opened: Any, inputs: Any, seq_lengths: Any = None, initial_carry: Any = None, resets: Any = None
) -> dict[str, np.ndarray]:
    names = [value.name for value in opened.get_inputs()]
    feed = {"inputs": np.asarray(inputs)}
    if seq_lengths is not None:
        feed["seq_lengths"] = np.asarray(seq_lengths, np.int32)
    if resets is not None:
        feed["resets"] = np.asarray(resets)
    carries = [name for name in names if name.startswith("initial_carry")]
    feed |= dict(zip(carries, map(np.asarray, jax.tree.leaves(initial_carry)), strict=True))
    assert set(feed) == set(names)
    outputs = [value.name for value in opened.get_outputs()]
    return dict(zip(outputs, opened.run(None, feed), strict=True))


def distance(result: Any, expected: Any) -> float:
    """The largest difference, relative to the largest number where that is above one."""
    result, expected = np.asarray(result, np.float64), np.asarray(expected, np.float64)
    assert result.shape == expected.shape, (result.shape, expected.shape)
    assert np.isfinite(result).all()
    return float(np.abs(result - expected).max(initial=0) / max(1.0, np.abs(expected).max(initial=0)))
