"""Flax's older interface: ``linen.RNN`` and its cells."""

from typing import Any

import jax
import numpy as np
from flax import linen

from benchmarks.libraries import base


def _simple_rnn(w: base.Weights) -> dict[str, Any]:
    return {"i": {"kernel": w.kernel, "bias": w.bias}, "h": {"kernel": w.recurrent_kernel}}


def _lstm(w: base.Weights) -> dict[str, Any]:
    biases = base.by_gate("ifgo", w.bias)
    inputs = {f"i{gate}": {"kernel": kernel} for gate, kernel in base.by_gate("ifgo", w.kernel).items()}
    kernels = base.by_gate("ifgo", w.recurrent_kernel)
    return inputs | {f"h{gate}": {"kernel": kernel, "bias": biases[gate]} for gate, kernel in kernels.items()}


def _gru(w: base.Weights) -> dict[str, Any]:
    """Linen has a recurrent bias for n only; those of r and z are added to the other bias."""
    first, second = base.by_gate("rzn", w.bias), base.by_gate("rzn", w.recurrent_bias)
    inputs = {
        f"i{gate}": {"kernel": kernel, "bias": first[gate] + (0 if gate == "n" else second[gate])}
        for gate, kernel in base.by_gate("rzn", w.kernel).items()
    }
    hidden: dict[str, Any] = {
        f"h{gate}": {"kernel": k} for gate, k in base.by_gate("rzn", w.recurrent_kernel).items()
    }
    hidden["hn"]["bias"] = second["n"]
    return inputs | hidden


CELLS = {
    "simple_rnn": base.PeerCell(lambda _, hidden: linen.SimpleCell(hidden), _simple_rnn),
    "lstm": base.PeerCell(lambda _, hidden: linen.OptimizedLSTMCell(hidden), _lstm),
    "gru": base.PeerCell(lambda _, hidden: linen.GRUCell(hidden), _gru),
}


def layer(cell: base.PeerCell, weights: base.Weights, inputs: np.ndarray) -> base.Contestant:
    made: Any = linen.RNN(cell.make(*weights.sizes))
    return base.layer_in_jax(made.apply, {"params": {"cell": cell.weights(weights)}}, inputs)


def steps(cell: base.PeerCell, weights: base.Weights, inputs: np.ndarray) -> base.Steps:
    made = cell.make(*weights.sizes)
    carry = made.initialize_carry(jax.random.key(0), inputs.shape)
    return base.steps_in_jax(made.apply, {"params": cell.weights(weights)}, carry, inputs)


LINEN = base.Library("Flax linen", {"flax": "flax"}, CELLS, layer, steps)
