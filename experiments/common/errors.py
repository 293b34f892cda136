"""The errors of a network's outputs, in which values that were missing do not count."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrnn.training import huber


def huber_where_known(predictions: Array, targets: Array) -> Array:
    """The Huber loss of each element, zero where the target is NaN.

    >>> huber_where_known(jnp.array([0.5, 3.0]), jnp.array([0.0, jnp.nan])).tolist()
    [0.125, 0.0]
    """
    return huber(predictions, jnp.where(jnp.isfinite(targets), targets, jax.lax.stop_gradient(predictions)))


def weighted_errors(
    outputs: Array, wanted: Array, weights: Array, scales: Any, scale: Any, *, some_missing: bool
) -> dict[str, Array]:
    """The weighted means over the rows of the loss at all steps and of the absolute error at the last step.

    Args:
      outputs, wanted: ``[rows, ...]``, in units of the targets. With ``some_missing``, steps whose values were
        missing are NaN in ``wanted`` and do not count.
      weights: ``[rows]``.
      scales: ``[rows]``, the unit of the targets, which is used if ``scale`` is an array.
      scale: the unit of the targets at all steps.
    """
    rows = len(weights)
    if some_missing:
        known = jnp.isfinite(wanted)
        counts = known.reshape(rows, -1).sum(axis=1)
        losses = huber_where_known(outputs, wanted).reshape(rows, -1).sum(axis=1) / jnp.maximum(counts, 1)
        wanted = jnp.where(known, wanted, outputs)
    else:
        losses = huber(outputs, wanted).reshape(rows, -1).mean(axis=1)
    last = jnp.abs(outputs - wanted).reshape(rows, -1)[:, -1]
    if isinstance(scale, np.ndarray):
        last, scale = last * scales, 1.0
    return {"valid_loss": losses @ weights, "valid_mae": last @ weights * scale}
