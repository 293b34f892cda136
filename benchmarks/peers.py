"""Who takes part: our layer and other libraries' layers, each as two functions without arguments.

``forward`` returns every step's outputs, ``[batch, time, hidden]``. ``train`` returns the loss, the mean of the
squared outputs, and its gradients with respect to the parameters; the inputs get no gradient, as in the first
layer of a network. All get the same float32 inputs ``[batch, time, in_features]`` and start from a zero carry.

JAX libraries run under one ``jax.jit`` with parameters and inputs as arguments; PyTorch runs as it is used,
eagerly, its forward pass in inference mode.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxrnn
from benchmarks.cells import CellEntry, Recipe, Weights, weights_of
from benchmarks.shapes import Shape

OURS = "jaxrnn"


class Contestant(NamedTuple):
    """One layer at one shape, ready to be called and timed."""

    forward: Callable[[], Any]
    train: Callable[[], tuple[Any, Any]]


@dataclass(frozen=True)
class Peer:
    """A library that has recurrent layers.

    Attributes:
      label: its name in tables.
      package, install: what to import, and what to install for that.
      build: ``(recipe, weights, inputs)`` to a contestant.
      recipe: the key of its recipes in ``benchmarks.cells``.
      max_time: the longest sequence that it is asked to run; None for any.
      in_jax: whether it runs on JAX.
    """

    label: str
    package: str
    install: str
    build: Callable[[Recipe, Weights, np.ndarray], Contestant]
    recipe: str
    max_time: int | None = None
    in_jax: bool = True

    def missing(self) -> str | None:
        """Why it cannot take part at all, or None."""
        if importlib.util.find_spec(self.package) is None:
            return f"not installed (pip install {self.install})"
        if not self.in_jax and jax.default_backend() != "cpu":
            return f"compared on the CPU only, but JAX runs on {jax.default_backend()}"
        return None

    def takes(self, entry: CellEntry, shape: Shape) -> bool:
        """Whether it takes part with this cell at this shape."""
        return self.recipe in entry.recipes and (self.max_time is None or shape.time <= self.max_time)


def ours(cell: jaxrnn.RecurrentCell, inputs: np.ndarray, *, implementation: str | None = None) -> Contestant:
    """jaxrnn.RNN around the cell."""
    graphdef, params = nnx.split(jaxrnn.RNN(cell, implementation=implementation))
    return _in_jax(lambda params, x: nnx.merge(graphdef, params)(x), params, inputs)


def contestants(entry: CellEntry, shape: Shape, peers: dict[str, Peer]) -> dict[str, Contestant]:
    """Ours and every peer that can take part, all with the same weights and inputs."""
    cell = entry.make(shape)
    weights = weights_of(cell)
    inputs = np.random.default_rng(0).normal(size=shape[:3]).astype(np.float32)
    found = {OURS: ours(cell, inputs)}
    for name, peer in peers.items():
        if peer.takes(entry, shape):
            found[name] = peer.build(entry.recipes[peer.recipe], weights, inputs)
    return found


def import_keras() -> Any:
    """Keras on JAX, whichever backend it is otherwise set to use."""
    os.environ["KERAS_BACKEND"] = "jax"
    keras = importlib.import_module("keras")
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Keras was imported before with the backend {keras.backend.backend()!r}; 'jax' is needed"
        )
    return keras


def _in_jax(apply: Callable[[Any, Any], Any], params: Any, inputs: np.ndarray) -> Contestant:
    params, x = jax.tree.map(jnp.asarray, params), jnp.asarray(inputs)
    forward = jax.jit(apply)
    train = jax.jit(jax.value_and_grad(lambda params, x: jnp.mean(apply(params, x) ** 2)))
    return Contestant(lambda: forward(params, x), lambda: train(params, x))


def _nnx(recipe: Recipe, weights: Weights, inputs: np.ndarray) -> Contestant:
    layer = nnx.RNN(recipe.make(nnx, inputs.shape[-1], len(weights.recurrent_kernel)))
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
    nnx.replace_by_pure_dict(params, {"cell": recipe.weights(weights)})

    def apply(params, x):
        merged = nnx.merge(graphdef, params, rest)
        # Given, since nnx.RNN otherwise counts a random number in the module, which value_and_grad refuses.
        carry = merged.cell.initialize_carry(x[:, 0].shape, nnx.Rngs(0))
        return merged(x, initial_carry=carry)

    return _in_jax(apply, params, inputs)


def _linen(recipe: Recipe, weights: Weights, inputs: np.ndarray) -> Contestant:
    linen = importlib.import_module("flax.linen")
    layer = linen.RNN(recipe.make(linen, inputs.shape[-1], len(weights.recurrent_kernel)))
    return _in_jax(layer.apply, {"params": {"cell": recipe.weights(weights)}}, inputs)


def _haiku(recipe: Recipe, weights: Weights, inputs: np.ndarray, *, unroll: str = "dynamic_unroll") -> Contestant:
    hk = importlib.import_module("haiku")

    def layer(x):
        core = recipe.make(hk, x.shape[-1], len(weights.recurrent_kernel))
        return getattr(hk, unroll)(core, x, core.initial_state(x.shape[0]), time_major=False)[0]

    transformed = hk.without_apply_rng(hk.transform(layer))
    return _in_jax(transformed.apply, recipe.weights(weights), inputs)


def _haiku_static(recipe: Recipe, weights: Weights, inputs: np.ndarray) -> Contestant:
    return _haiku(recipe, weights, inputs, unroll="static_unroll")


def _keras(recipe: Recipe, weights: Weights, inputs: np.ndarray) -> Contestant:
    layer = recipe.make(import_keras().layers, inputs.shape[-1], len(weights.recurrent_kernel))
    layer.build(inputs.shape)
    layer.set_weights(recipe.weights(weights))
    rest = [jnp.asarray(v.value) for v in layer.non_trainable_variables]
    params = [v.value for v in layer.trainable_variables]
    return _in_jax(lambda params, x: layer.stateless_call(params, rest, x)[0], params, inputs)


def _torch(recipe: Recipe, weights: Weights, inputs: np.ndarray) -> Contestant:
    torch = importlib.import_module("torch")
    layer = recipe.make(torch.nn, inputs.shape[-1], len(weights.recurrent_kernel))
    layer.load_state_dict({k: torch.tensor(np.ascontiguousarray(v)) for k, v in recipe.weights(weights).items()})
    params, x = list(layer.parameters()), torch.tensor(inputs)

    def forward():
        with torch.inference_mode():
            return layer(x)[0]

    def train():
        loss = layer(x)[0].square().mean()
        return loss.detach(), torch.autograd.grad(loss, params)

    return Contestant(forward, train)


STATIC_UNROLL_LIMIT = 32
"""Steps; a program with a copy of the cell for every step takes minutes to compile for long sequences."""

PEERS: dict[str, Peer] = {
    "nnx": Peer("Flax nnx.RNN", "flax", "flax", _nnx, "nnx"),
    "linen": Peer("Flax linen.RNN", "flax", "flax", _linen, "linen"),
    "haiku": Peer("Haiku dynamic_unroll", "haiku", "dm-haiku", _haiku, "haiku"),
    "haiku-static": Peer(
        "Haiku static_unroll", "haiku", "dm-haiku", _haiku_static, "haiku", max_time=STATIC_UNROLL_LIMIT
    ),
    "keras": Peer("Keras on JAX", "keras", "keras", _keras, "keras"),
    "torch": Peer("PyTorch", "torch", "torch", _torch, "torch", in_jax=False),
}
