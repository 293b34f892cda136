"""Haiku's ``dynamic_unroll`` and ``static_unroll`` around its cells.

Haiku's GRU applies the reset gate before the matrix product, which makes it another cell than ours.
"""

import functools
import importlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.libraries import base
from jaxrnn import RecurrentCell

CELLS = ("simple_rnn", "lstm")

STATIC_UNROLL_LIMIT = 32
"""Steps; a program with a copy of the cell for every step takes minutes to compile for long sequences."""


def _core(name: str, hidden: int) -> Any:
    """Haiku's LSTM, or its VanillaRNN with tanh and one bias; the original can only use ReLU."""
    hk: Any = importlib.import_module("haiku")

    class SimpleRNN(hk.RNNCore):
        def __call__(self, inputs, prev_state):
            out = jnp.tanh(hk.Linear(hidden)(inputs) + hk.Linear(hidden, with_bias=False)(prev_state))
            return out, out

        def initial_state(self, batch_size):
            return jnp.zeros((batch_size, hidden))

    return SimpleRNN(name="core") if name == "simple_rnn" else hk.LSTM(hidden, name="core")


def _params(name: str, cell: Any) -> dict[str, Any]:
    kernel, recurrent, bias = (np.asarray(p[...]) for p in (cell.kernel, cell.recurrent_kernel, cell.bias))
    if name == "simple_rnn":
        return {"core/linear": {"w": kernel, "b": bias}, "core/linear_1": {"w": recurrent}}

    def in_order(array: np.ndarray, more: int = 0) -> np.ndarray:
        i, f, g, o = np.split(array, 4, axis=-1)
        return np.concatenate([i, g, f - more, o], axis=-1)

    # One kernel over inputs and hidden state, and 1 is added to the forget gate.
    return {"core/linear": {"w": in_order(np.concatenate([kernel, recurrent])), "b": in_order(bias, 1)}}


def _pure(function: Any) -> Any:
    """A function that makes and calls modules as one that takes their parameters first."""
    hk: Any = importlib.import_module("haiku")
    return hk.without_apply_rng(hk.transform(function)).apply


def layer(
    name: str, cell: RecurrentCell, inputs: np.ndarray, *, unroll: str = "dynamic_unroll"
) -> base.Contestant:
    hk: Any = importlib.import_module("haiku")

    def outputs(x: Any) -> Any:
        core = _core(name, cell.hidden_features)
        return getattr(hk, unroll)(core, x, core.initial_state(x.shape[0]), time_major=False)[0]

    return base.layer_in_jax(_pure(outputs), _params(name, cell), inputs)


def steps(name: str, cell: RecurrentCell, inputs: np.ndarray) -> base.Steps:
    carry = _pure(lambda: _core(name, cell.hidden_features).initial_state(1))({})
    step = _pure(lambda carry, x: _core(name, cell.hidden_features)(x, carry)[::-1])
    return base.steps_in_jax(step, _params(name, cell), carry, inputs)


HAIKU = base.Library("Haiku", {"haiku": "dm-haiku"}, CELLS, layer, steps)

_static = functools.partial(layer, unroll="static_unroll")
HAIKU_STATIC = base.Library("Haiku static_unroll", HAIKU.packages, CELLS, _static, max_time=STATIC_UNROLL_LIMIT)
