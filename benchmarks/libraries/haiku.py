"""Haiku's ``dynamic_unroll`` and ``static_unroll`` around its cells.

Haiku's GRU applies the reset gate before the matrix product, which makes it another cell than ours.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.libraries import base

STATIC_UNROLL_LIMIT = 32
"""Steps; a program with a copy of the cell for every step takes minutes to compile for long sequences."""


def _haiku() -> Any:
    return importlib.import_module("haiku")


def _simple_rnn(_: int, hidden: int) -> Any:
    """Haiku's VanillaRNN with tanh and one bias; the original can only use ReLU."""
    hk = _haiku()

    class SimpleRNN(hk.RNNCore):
        def __call__(self, inputs, prev_state):
            out = jnp.tanh(hk.Linear(hidden)(inputs) + hk.Linear(hidden, with_bias=False)(prev_state))
            return out, out

        def initial_state(self, batch_size):
            return jnp.zeros((batch_size, hidden))

    return SimpleRNN(name="core")


def _simple_rnn_weights(w: base.Weights) -> dict[str, Any]:
    return {"core/linear": {"w": w.kernel, "b": w.bias}, "core/linear_1": {"w": w.recurrent_kernel}}


def _lstm_weights(w: base.Weights) -> dict[str, Any]:
    """One kernel over inputs and hidden state, gates in the order i g f o, and 1 added to the forget gate."""
    gates = base.by_gate("ifgo", np.concatenate([w.kernel, w.recurrent_kernel]))
    biases = base.by_gate("ifgo", w.bias)
    biases["f"] = biases["f"] - 1
    return {"core/linear": {"w": base.joined("igfo", gates), "b": base.joined("igfo", biases)}}


CELLS = {
    "simple_rnn": base.PeerCell(_simple_rnn, _simple_rnn_weights),
    "lstm": base.PeerCell(lambda _, hidden: _haiku().LSTM(hidden, name="core"), _lstm_weights),
}


def _pure(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that makes and calls modules as one that takes their parameters first."""
    return _haiku().without_apply_rng(_haiku().transform(function)).apply


def layer(
    cell: base.PeerCell, weights: base.Weights, inputs: np.ndarray, *, unroll: str = "dynamic_unroll"
) -> base.Contestant:
    def outputs(x: Any) -> Any:
        core = cell.make(*weights.sizes)
        return getattr(_haiku(), unroll)(core, x, core.initial_state(x.shape[0]), time_major=False)[0]

    return base.layer_in_jax(_pure(outputs), cell.weights(weights), inputs)


def steps(cell: base.PeerCell, weights: base.Weights, inputs: np.ndarray) -> base.Steps:
    def core(carry: Any, x: Any) -> tuple[Any, Any]:
        return cell.make(*weights.sizes)(x, carry)[::-1]

    carry = _pure(lambda: cell.make(*weights.sizes).initial_state(1))({})
    return base.steps_in_jax(_pure(core), cell.weights(weights), carry, inputs)


HAIKU = base.Library("Haiku", {"haiku": "dm-haiku"}, CELLS, layer, steps)

_static = functools.partial(layer, unroll="static_unroll")
HAIKU_STATIC = base.Library("Haiku static_unroll", HAIKU.packages, CELLS, _static, max_time=STATIC_UNROLL_LIMIT)
