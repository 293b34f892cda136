"""The linear path of a network, fitted by robust ridge regression before the network is trained."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.data import take_windows
from jaxrnn.forecasting.network import linear_inputs, smooth_forecast

_ROWS = 12_000
_OPERATIONS = 6e10
_FAR = 10.0
_ROUNDS = 3
_NEAR = 0.1
_PENALTY = 1e-3
_PENALTY_ROWS = 10.0


def with_linear_path(
    params: Any,
    features: np.ndarray,
    targets: np.ndarray,
    starts: np.ndarray,
    weights: np.ndarray,
    *,
    window: int,
    season: int,
) -> Any:
    """The parameters with a linear path from a window to what the smoothings miss.

    It minimises the weighted mean absolute error by iteratively reweighted least squares, with a ridge penalty
    that matters for few windows.

    Args:
      params: parameters of a :class:`jaxrnn.forecasting.network.QuantileNetwork`.
      features, targets: of :class:`jaxrnn.forecasting.windows.Windows`.
      starts: int ``[windows]``, their first steps.
      weights: ``[steps]``, how much an error at each origin counts.
      window, season: steps.
    """
    horizon, columns = targets.shape[1], 2 * window + 1
    most = int(min(_ROWS, max(4 * columns, _OPERATIONS / (2 * _ROUNDS * horizon * columns**2))))
    some = np.random.RandomState(0).permutation(starts)[:most]
    origins = some + window - 1
    inputs = take_windows(jnp.asarray(features), some, window)
    smooth, rows = jax.jit(lambda x: (smooth_forecast(x, horizon, season)[0], linear_inputs(x)))(inputs)
    wanted = np.clip(targets[origins], -2 * _FAR, 2 * _FAR) - np.asarray(smooth, np.float64)
    design = np.concatenate([np.asarray(rows, np.float64), np.ones((len(some), 1))], axis=1)
    solutions = np.zeros((columns, horizon))
    for step in range(horizon):
        known = np.isfinite(wanted[:, step])
        if known.sum() < 10:
            continue
        solutions[:, step] = _solved(
            design[known], np.clip(wanted[known, step], -_FAR, _FAR), weights[origins][known]
        )
    params.linear.kernel[...] = jnp.asarray(solutions[:-1], jnp.float32)
    params.linear.bias[...] = jnp.asarray(solutions[-1], jnp.float32)
    return params


def _solved(design: np.ndarray, wanted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    share = _PENALTY + _PENALTY_ROWS / len(design)
    solution, near = np.zeros(design.shape[1]), np.ones(len(design))
    for _ in range(_ROUNDS):
        weighted = design.T * (weights * near)
        gram = weighted @ design
        penalty = share * np.trace(gram) / len(gram) * np.eye(len(gram))
        solution = np.linalg.solve(gram + penalty, weighted @ wanted)
        near = 1 / np.maximum(np.abs(wanted - design @ solution), _NEAR)
    return solution
