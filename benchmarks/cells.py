"""The cells that are measured, and how every peer is given the same cell with the same weights.

A cell is one entry in ``CELLS``: ours, and a :class:`Recipe` for each peer that has the same equations. A recipe
makes the peer's cell (or layer, where the library has no cells) and turns our weights into the peer's. A peer
without a recipe does not have the cell, and is named as such.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxrnn
from benchmarks.shapes import Shape


class Weights(NamedTuple):
    """Our parameters as numpy arrays, gates side by side on the last axis in our order."""

    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray
    recurrent_bias: np.ndarray | None


@dataclass(frozen=True)
class Recipe:
    """One peer's version of a cell.

    Attributes:
      make: ``(module, in_features, hidden)`` to the cell or layer, where ``module`` is the part of the library
        that has the cells: ``flax.nnx``, ``flax.linen``, ``haiku``, ``keras.layers`` or ``torch.nn``. For Keras
        and PyTorch a layer over batch-first sequences that returns every step's output.
      weights: our weights to the cell's parameters: pure dicts for Flax and Haiku, the list of ``set_weights``
        for Keras, the ``state_dict`` for PyTorch.
    """

    make: Callable[[Any, int, int], Any]
    weights: Callable[[Weights], Any]


@dataclass(frozen=True)
class CellEntry:
    """Our cell class, and a recipe for every peer (named as in ``benchmarks.peers.PEERS``) that has it."""

    cell: type[jaxrnn.RecurrentCell]
    recipes: Mapping[str, Recipe]

    def make(self, shape: Shape) -> jaxrnn.RecurrentCell:
        """Our cell with its usual first weights, but random biases: zeros would hide a bias that is wrong."""
        cell = self.cell(shape.in_features, shape.hidden, rngs=nnx.Rngs(0))
        for seed, bias in enumerate((cell.bias, cell.recurrent_bias)):
            if bias is not None:
                values = np.random.default_rng(seed).normal(scale=0.1, size=bias.shape)
                bias[...] = jnp.asarray(values, jnp.float32)
        return cell


def weights_of(cell: jaxrnn.RecurrentCell) -> Weights:
    """The cell's parameters; a ValueError if it has no bias, since not every peer can do without."""
    if cell.bias is None:
        raise ValueError(f"{type(cell).__name__} has no bias, but cells are compared with one")
    recurrent_bias = None if cell.recurrent_bias is None else np.asarray(cell.recurrent_bias[...])
    kernels = np.asarray(cell.kernel[...]), np.asarray(cell.recurrent_kernel[...])
    return Weights(*kernels, np.asarray(cell.bias[...]), recurrent_bias)


def _haiku_simple_rnn(hk: Any, in_features: int, hidden: int) -> Any:
    """Haiku's VanillaRNN with tanh and one bias: its own has ReLU built in."""

    class SimpleRNN(hk.RNNCore):
        def __call__(self, inputs, prev_state):
            out = jnp.tanh(hk.Linear(hidden)(inputs) + hk.Linear(hidden, with_bias=False)(prev_state))
            return out, out

        def initial_state(self, batch_size):
            return jnp.zeros((batch_size, hidden))

    return SimpleRNN(name="core")


def _torch_weights(w: Weights) -> dict[str, np.ndarray]:
    return {
        "weight_ih_l0": w.kernel.T,
        "weight_hh_l0": w.recurrent_kernel.T,
        "bias_ih_l0": w.bias,
        "bias_hh_l0": np.zeros_like(w.bias) if w.recurrent_bias is None else w.recurrent_bias,
    }


SIMPLE_RNN = CellEntry(
    cell=jaxrnn.SimpleRNNCell,
    recipes={
        "nnx": Recipe(
            lambda nnx, in_features, hidden: nnx.SimpleCell(in_features, hidden, rngs=nnx.Rngs(0)),
            lambda w: {
                "dense_i": {"kernel": w.kernel, "bias": w.bias},
                "dense_h": {"kernel": w.recurrent_kernel},
            },
        ),
        "linen": Recipe(
            lambda linen, in_features, hidden: linen.SimpleCell(hidden),
            lambda w: {"i": {"kernel": w.kernel, "bias": w.bias}, "h": {"kernel": w.recurrent_kernel}},
        ),
        "haiku": Recipe(
            _haiku_simple_rnn,
            lambda w: {"core/linear": {"w": w.kernel, "b": w.bias}, "core/linear_1": {"w": w.recurrent_kernel}},
        ),
        "keras": Recipe(
            lambda layers, in_features, hidden: layers.SimpleRNN(hidden, return_sequences=True),
            lambda w: [w.kernel, w.recurrent_kernel, w.bias],
        ),
        "torch": Recipe(
            lambda nn, in_features, hidden: nn.RNN(in_features, hidden, batch_first=True),
            _torch_weights,
        ),
    },
)


def _by_gate(names: str, kernel: np.ndarray) -> dict[str, np.ndarray]:
    """A parameter cut into its gates, which are named by one letter each, in our order."""
    return dict(zip(names, np.split(kernel, len(names), axis=-1)))


def _linen_lstm(w: Weights) -> dict[str, Any]:
    inputs = {f"i{gate}": {"kernel": kernel} for gate, kernel in _by_gate("ifgo", w.kernel).items()}
    biases = _by_gate("ifgo", w.bias)
    hidden = {
        f"h{gate}": {"kernel": kernel, "bias": biases[gate]}
        for gate, kernel in _by_gate("ifgo", w.recurrent_kernel).items()
    }
    return inputs | hidden


def _haiku_lstm(w: Weights) -> dict[str, Any]:
    """One kernel over inputs and hidden state, gates in the order i g f o, and 1 added to the forget gate."""
    gates = _by_gate("ifgo", np.concatenate([w.kernel, w.recurrent_kernel]))
    biases = _by_gate("ifgo", w.bias)
    biases["f"] = biases["f"] - 1

    def joined(part: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([part[gate] for gate in "igfo"], axis=-1)

    return {"core/linear": {"w": joined(gates), "b": joined(biases)}}


LSTM = CellEntry(
    cell=jaxrnn.LSTMCell,
    recipes={
        "nnx": Recipe(
            lambda nnx, in_features, hidden: nnx.OptimizedLSTMCell(in_features, hidden, rngs=nnx.Rngs(0)),
            lambda w: {
                "dense_i": {"kernel": w.kernel},
                "dense_h": {"kernel": w.recurrent_kernel, "bias": w.bias},
            },
        ),
        "linen": Recipe(lambda linen, in_features, hidden: linen.OptimizedLSTMCell(hidden), _linen_lstm),
        "haiku": Recipe(lambda hk, in_features, hidden: hk.LSTM(hidden, name="core"), _haiku_lstm),
        "keras": Recipe(
            lambda layers, in_features, hidden: layers.LSTM(hidden, return_sequences=True),
            lambda w: [w.kernel, w.recurrent_kernel, w.bias],
        ),
        "torch": Recipe(
            lambda nn, in_features, hidden: nn.LSTM(in_features, hidden, batch_first=True), _torch_weights
        ),
    },
)


def _linen_gru(w: Weights) -> dict[str, Any]:
    """Linen keeps a recurrent bias for n only; those of r and z are added to the other bias."""
    assert w.recurrent_bias is not None
    second = _by_gate("rzn", w.recurrent_bias)
    first = _by_gate("rzn", w.bias)
    inputs = {
        f"i{gate}": {"kernel": kernel, "bias": first[gate] + (0 if gate == "n" else second[gate])}
        for gate, kernel in _by_gate("rzn", w.kernel).items()
    }
    hidden: dict[str, Any] = {
        f"h{gate}": {"kernel": kernel} for gate, kernel in _by_gate("rzn", w.recurrent_kernel).items()
    }
    hidden["hn"]["bias"] = second["n"]
    return inputs | hidden


def _keras_gru(w: Weights) -> list[np.ndarray]:
    """Gates in the order z r h."""

    assert w.recurrent_bias is not None

    def reorder(array: np.ndarray) -> np.ndarray:
        gates = _by_gate("rzn", array)
        return np.concatenate([gates["z"], gates["r"], gates["n"]], axis=-1)

    return [reorder(w.kernel), reorder(w.recurrent_kernel), reorder(np.stack([w.bias, w.recurrent_bias]))]


GRU = CellEntry(
    cell=jaxrnn.GRUCell,
    recipes={
        # flax.nnx's GRUCell has no recurrent bias, and Haiku's resets before the product: other cells.
        "linen": Recipe(lambda linen, in_features, hidden: linen.GRUCell(hidden), _linen_gru),
        "keras": Recipe(
            lambda layers, in_features, hidden: layers.GRU(hidden, return_sequences=True, reset_after=True),
            _keras_gru,
        ),
        "torch": Recipe(
            lambda nn, in_features, hidden: nn.GRU(in_features, hidden, batch_first=True), _torch_weights
        ),
    },
)

CELLS: dict[str, CellEntry] = {"simple_rnn": SIMPLE_RNN, "lstm": LSTM, "gru": GRU}
