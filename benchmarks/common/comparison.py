"""The check before every timing: do all contestants compute the same?"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.common.timing import FirstCalls


class Tolerance(NamedTuple):
    """The largest difference that is accepted, absolute or relative to the baseline's value."""

    largest: float
    relative: bool = False


Results = Mapping[str, Any]
"""Numbers or arrays, by what they are."""


def differences(
    results: Mapping[str, Results], baseline: str, tolerances: Mapping[str, Tolerance]
) -> dict[str, str]:
    """The contestants whose results differ from the baseline's: in what, and by how much. NaN always differs. A
    contestant need not have all of them."""
    found = {}
    for name, values in results.items():
        for what in values:
            tolerance = tolerances[what]
            value, expected = np.asarray(values[what]), np.asarray(results[baseline][what])
            if value.shape != expected.shape:
                found[name] = f"{what} have the shape {value.shape} instead of {expected.shape}"
                break
            difference = np.abs(value / expected - 1 if tolerance.relative else value - expected).max()
            if not difference <= tolerance.largest:
                found[name] = f"{what} differ by {difference:.2g}, more than {tolerance.largest:g}"
                break
    return found


def check(results: Mapping[str, Results], baseline: str, tolerances: Mapping[str, Tolerance], where: str) -> None:
    """Raise a ValueError that names the first contestant that does not compute what the baseline does."""
    for name, why in differences(results, baseline, tolerances).items():
        raise ValueError(f"{where}: {name} is not like {baseline}, so their times cannot be compared: {why}")


def check_training(layers: Mapping[str, Any], where: str, baseline: str, tolerance: Tolerance) -> None:
    """Compare losses and norms of all gradients of layers (contestants that can train) as :func:`check` does."""
    results = {}
    for name, layer in layers.items():
        loss, gradients = layer.train()
        results[name] = {"losses": float(loss), "norms of the gradients": norm(jax.tree.leaves(gradients))}
    check(results, baseline, dict.fromkeys(results[baseline], tolerance), where)


def layer_tolerances(outputs: float, relative: float) -> dict[str, Tolerance]:
    """Of :func:`layer_results`. Outputs of tanh lie within (-1, 1), so theirs is absolute."""
    norms = dict.fromkeys(("losses", "norms of the gradients"), Tolerance(relative, relative=True))
    return {"outputs": Tolerance(outputs), **norms}


def layer_results(calls: FirstCalls) -> Results:
    """The outputs that ``forward`` gave, and the loss and the norm of the gradients of all weight matrices from
    ``train``, if it was called."""
    outputs = {"outputs": as_numpy(calls["forward"][1])}
    if "train" not in calls:
        return outputs
    loss, gradients = calls["train"][1]
    losses = as_numpy(loss)
    ensemble = losses.ndim  # an axis in front of every array
    # Not of the biases: PyTorch has two where others have one, and Keras's GRU has two as rows of one array.
    kernels = [g for g in jax.tree.leaves(gradients) if g.ndim == ensemble + 2 and g.shape[ensemble] != 2]
    return outputs | {"losses": losses, "norms of the gradients": norm(kernels)}


def norm(arrays: Iterable[Any]) -> float:
    return float(np.sqrt(sum(np.sum(np.square(as_numpy(a), dtype=np.float64)) for a in arrays)))


def as_numpy(array: Any) -> np.ndarray:
    """A JAX or NumPy array, or a PyTorch tensor on any device, as float32."""
    return np.asarray(array.float().cpu() if hasattr(array, "cpu") else array, np.float32)
