"""Flax: ``nnx.RNN`` and its cells, and the older interface ``linen.RNN``."""

from typing import Any

import jax
import numpy as np
from flax import linen, nnx

from benchmarks.libraries import base
from jaxrnn import RecurrentCell

# Flax's nnx.GRUCell has no recurrent bias, which makes it another cell than "gru".
NNX_CELLS = {"simple_rnn": nnx.SimpleCell, "lstm": nnx.OptimizedLSTMCell, "gru_one_bias": nnx.GRUCell}
LINEN_CELLS = {"simple_rnn": linen.SimpleCell, "lstm": linen.OptimizedLSTMCell, "gru": linen.GRUCell}
LINEN_GATES = {"simple_rnn": ("",), "lstm": tuple("ifgo"), "gru": tuple("rzn")}


def _nnx_cell(name: str, cell: Any) -> Any:
    made: Any = NNX_CELLS[name](cell.in_features, cell.hidden_features, rngs=nnx.Rngs(0))
    made.dense_i.kernel[...], made.dense_h.kernel[...] = cell.kernel[...], cell.recurrent_kernel[...]
    biased = made.dense_h if name == "lstm" else made.dense_i
    biased.bias[...] = cell.bias[...]
    return made


def in_nnx_rnn(cell: Any, inputs: Any, *, time_major: bool = False) -> base.Contestant:
    """Any cell in ``nnx.RNN``."""
    # Without a given carry nnx.RNN counts a random number in the module, which value_and_grad does not allow.
    member = inputs.reshape(-1, *inputs.shape[-3:])[0]  # of an ensemble
    first = cell.initialize_carry((member[0] if time_major else member[:, 0]).shape, nnx.Rngs(0))
    first = jax.tree.map(lambda a: a.astype(inputs.dtype), first)
    return base.layer_in_nnx(nnx.RNN(cell, time_major=time_major), inputs, initial_carry=first)


def nnx_layer(name: str, cell: RecurrentCell, inputs: Any, *, time_major: bool = False) -> base.Contestant:
    return in_nnx_rnn(_nnx_cell(name, cell), inputs, time_major=time_major)


def nnx_steps(name: str, cell: RecurrentCell, inputs: np.ndarray) -> base.Steps:
    made = _nnx_cell(name, cell)
    return base.steps_in_nnx(made, made.initialize_carry(inputs.shape, nnx.Rngs(0)), inputs)


def _linen_params(name: str, cell: Any) -> dict[str, Any]:
    """One kernel for each gate, whose biases are those of h in an LSTM."""

    def by_gate(param: Any) -> Any:
        return zip(LINEN_GATES[name], np.split(np.asarray(param[...]), len(LINEN_GATES[name]), axis=-1))

    params: dict[str, Any] = {f"i{gate}": {"kernel": kernel} for gate, kernel in by_gate(cell.kernel)}
    params |= {f"h{gate}": {"kernel": kernel} for gate, kernel in by_gate(cell.recurrent_kernel)}
    for gate, bias in by_gate(cell.bias):
        params[f"{'h' if name == 'lstm' else 'i'}{gate}"]["bias"] = bias
    if name == "gru":  # Linen has a recurrent bias for n only; those of r and z are added to the other bias
        second = dict(by_gate(cell.recurrent_bias))
        params["hn"]["bias"] = second["n"]
        params |= {f"i{g}": params[f"i{g}"] | {"bias": params[f"i{g}"]["bias"] + second[g]} for g in "rz"}
    return params


def linen_layer(name: str, cell: RecurrentCell, inputs: np.ndarray) -> base.Contestant:
    made: Any = linen.RNN(LINEN_CELLS[name](cell.hidden_features))
    return base.layer_in_jax(made.apply, {"params": {"cell": _linen_params(name, cell)}}, inputs)


def linen_steps(name: str, cell: RecurrentCell, inputs: np.ndarray) -> base.Steps:
    made: Any = LINEN_CELLS[name](cell.hidden_features)
    carry = made.initialize_carry(jax.random.key(0), inputs.shape)
    return base.steps_in_jax(made.apply, {"params": _linen_params(name, cell)}, carry, inputs)


NNX = base.Library("Flax nnx", {"flax": "flax"}, NNX_CELLS, nnx_layer, nnx_steps)
LINEN = base.Library("Flax linen", {"flax": "flax"}, LINEN_CELLS, linen_layer, linen_steps)
