"""Flax's older interface: ``linen.RNN`` and its cells."""

from typing import Any

import jax
import numpy as np
from flax import linen

from benchmarks.libraries.base import (
    Contestant,
    Library,
    PeerCell,
    Steps,
    Weights,
    by_gate,
    layer_in_jax,
    steps_in_jax,
)


def _simple_rnn(w: Weights) -> dict[str, Any]:
    return {"i": {"kernel": w.kernel, "bias": w.bias}, "h": {"kernel": w.recurrent_kernel}}


def _lstm(w: Weights) -> dict[str, Any]:
    biases = by_gate("ifgo", w.bias)
    inputs = {f"i{gate}": {"kernel": kernel} for gate, kernel in by_gate("ifgo", w.kernel).items()}
    kernels = by_gate("ifgo", w.recurrent_kernel)
    return inputs | {f"h{gate}": {"kernel": kernel, "bias": biases[gate]} for gate, kernel in kernels.items()}


def _gru(w: Weights) -> dict[str, Any]:
    """Linen has a recurrent bias for n only; those of r and z are added to the other bias."""
    first, second = by_gate("rzn", w.bias), by_gate("rzn", w.recurrent_bias)
    inputs = {
        f"i{gate}": {"kernel": kernel, "bias": first[gate] + (0 if gate == "n" else second[gate])}
        for gate, kernel in by_gate("rzn", w.kernel).items()
    }
    hidden: dict[str, Any] = {f"h{gate}": {"kernel": k} for gate, k in by_gate("rzn", w.recurrent_kernel).items()}
    hidden["hn"]["bias"] = second["n"]
    return inputs | hidden


CELLS = {
    "simple_rnn": PeerCell(lambda _, hidden: linen.SimpleCell(hidden), _simple_rnn),
    "lstm": PeerCell(lambda _, hidden: linen.OptimizedLSTMCell(hidden), _lstm),
    "gru": PeerCell(lambda _, hidden: linen.GRUCell(hidden), _gru),
}


def layer(cell: PeerCell, weights: Weights, inputs: np.ndarray) -> Contestant:
    made: Any = linen.RNN(cell.make(*weights.sizes))
    return layer_in_jax(made.apply, {"params": {"cell": cell.weights(weights)}}, inputs)


def steps(cell: PeerCell, weights: Weights, inputs: np.ndarray) -> Steps:
    made = cell.make(*weights.sizes)
    carry = made.initialize_carry(jax.random.key(0), inputs.shape)
    return steps_in_jax(made.apply, {"params": cell.weights(weights)}, carry, inputs)


LINEN = Library("Flax linen", {"flax": "flax"}, CELLS, layer, steps)
