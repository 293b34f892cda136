"""Flax's ``nnx.RNN`` and its cells."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from benchmarks.libraries import base


def _dense(w: base.Weights) -> dict[str, Any]:
    return {"dense_i": {"kernel": w.kernel, "bias": w.bias}, "dense_h": {"kernel": w.recurrent_kernel}}


def _lstm_dense(w: base.Weights) -> dict[str, Any]:
    return {"dense_i": {"kernel": w.kernel}, "dense_h": {"kernel": w.recurrent_kernel, "bias": w.bias}}


CELLS = {
    "simple_rnn": base.PeerCell(lambda inputs, hidden: nnx.SimpleCell(inputs, hidden, rngs=nnx.Rngs(0)), _dense),
    "lstm": base.PeerCell(
        lambda inputs, hidden: nnx.OptimizedLSTMCell(inputs, hidden, rngs=nnx.Rngs(0)), _lstm_dense
    ),
    # Flax's GRUCell has no recurrent bias, which makes it another cell than "gru".
    "gru_one_bias": base.PeerCell(lambda inputs, hidden: nnx.GRUCell(inputs, hidden, rngs=nnx.Rngs(0)), _dense),
}


def layer(cell: base.PeerCell, weights: base.Weights, inputs: Any, *, time_major: bool = False) -> base.Contestant:
    made = nnx.RNN(cell.make(*weights.sizes), time_major=time_major)
    graphdef, params, rest = nnx.split(made, nnx.Param, ...)
    nnx.replace_by_pure_dict(params, {"cell": cell.weights(weights)})

    def apply(params: Any, x: Any) -> Any:
        merged = nnx.merge(graphdef, params, rest)
        # Without a given carry nnx.RNN counts a random number in the module, which value_and_grad does not allow.
        first = x[0] if time_major else x[:, 0]
        carry = merged.cell.initialize_carry(first.shape, nnx.Rngs(0))
        return merged(x, initial_carry=jax.tree.map(lambda a: a.astype(x.dtype), carry))

    return base.layer_in_jax(apply, params, inputs)


def steps(cell: base.PeerCell, weights: base.Weights, inputs: np.ndarray) -> base.Steps:
    made = cell.make(*weights.sizes)
    graphdef, params, rest = nnx.split(made, nnx.Param, ...)
    nnx.replace_by_pure_dict(params, cell.weights(weights))
    carry = made.initialize_carry(inputs.shape, nnx.Rngs(0))
    return base.steps_in_jax(lambda p, carry, x: nnx.merge(graphdef, p, rest)(carry, x), params, carry, inputs)


NNX = base.Library("Flax nnx", {"flax": "flax"}, CELLS, layer, steps)
