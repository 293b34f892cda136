"""What a library brings to be compared: one function for each benchmark that it takes part in.

Every function starts from the weights of one of our cells (a training from our model) and the same inputs. JAX
libraries run under ``jax.jit`` with parameters and inputs as arguments, as their documents show.
"""

import importlib.util
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.common.rows import Shape


class Contestant(NamedTuple):
    """One layer at one shape, ready to be timed.

    Attributes:
      forward: the outputs of every step, from a zero carry.
      train: the mean of the squared outputs, and its gradients with respect to the parameters. The inputs get no
        gradient, as in the first layer of a network. None for a library that only runs trained models.
    """

    forward: Callable[[], Any]
    train: Callable[[], tuple[Any, Any]] | None

    def calls(self) -> dict[str, Callable[[], Any]]:
        """What it can do, by name."""
        return {name: call for name, call in self._asdict().items() if call is not None}


Steps = Callable[[int], Any]
"""Runs a number of single steps with a batch of one, from where the last call ended; returns the last output."""


class Trainer(NamedTuple):
    """A model in training: ``epoch`` trains one more epoch and returns its mean loss; ``predict`` returns the
    outputs for the validation data ``[n, outputs]``."""

    epoch: Callable[[], float]
    predict: Callable[[], Any]


@dataclass(frozen=True)
class Library:
    """A library that is measured. A function that is None means that it does not take part in that benchmark.

    Attributes:
      label: its name in tables.
      packages: what it imports, and what to install for that.
      cells: the names of our cells that it has, with the same equations.
      layer: ``(name, our cell, inputs [batch, time, in_features])`` to a :class:`Contestant`.
      steps: ``(name, our cell, inputs [1, in_features])`` to :data:`Steps`.
      trainer: ``(task, data, shuffle=True, seed=0)`` to a :class:`Trainer`; the seed is that of the shuffling.
      max_time: the longest sequence that it is timed with; None for any.
      in_jax: whether it runs on JAX.
      forward_only: whether it only runs trained models.
      environment: variables that its process needs.
      imports: the modules that a training imports, if they are not its packages.
    """

    label: str
    packages: Mapping[str, str]
    cells: Collection[str] = ()
    layer: Any = None
    steps: Any = None
    trainer: Any = None
    max_time: int | None = None
    in_jax: bool = True
    forward_only: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    imports: Collection[str] = ()

    def missing(self) -> str | None:
        """Why it cannot take part at all, or None."""
        for package, install in self.packages.items():
            if importlib.util.find_spec(package) is None:
                return f"not installed (pip install {install})"
        if not self.in_jax and jax.default_backend() != "cpu":
            return f"compared on the CPU only, but JAX runs on {jax.default_backend()}"
        return None

    def takes(self, cell: str, shape: Shape) -> bool:
        """Whether it takes part with this cell at this shape."""
        return cell in self.cells and (self.max_time is None or shape.time <= self.max_time)

    def absences(self, cell: str) -> dict[str, str]:
        """Why it is left out of some or all rows of a cell."""
        if cell not in self.cells:
            return {f"{self.label}, {cell}": "has no such cell"}
        if self.max_time is not None:
            return {self.label: f"unrolls its loop, so it is timed with at most {self.max_time} steps"}
        return {self.label: "runs trained models, so it has no training step"} if self.forward_only else {}


def layer_in_jax(apply: Callable[[Any, Any], Any], params: Any, inputs: Any) -> Contestant:
    """A layer from ``apply(params, inputs)``; parameters take the dtype of the inputs, the loss is float32.

    Inputs ``[members, batch, time, in_features]`` are for an ensemble: under ``jax.vmap``, each of its members has
    parameters, inputs and gradients of its own.
    """
    x = jnp.asarray(inputs)
    params = jax.tree.map(lambda a: jnp.asarray(a, x.dtype), params)

    def loss(params: Any, x: Any) -> Any:
        return jnp.mean(apply(params, x).astype(jnp.float32) ** 2)

    run, gradients = apply, jax.value_and_grad(loss)
    if x.ndim == 4:
        params = jax.tree.map(lambda a: jnp.stack([a] * len(x)), params)
        run, gradients = jax.vmap(run), jax.vmap(gradients)
    forward, train = jax.jit(run), jax.jit(gradients)
    return Contestant(lambda: forward(params, x), lambda: train(params, x))


def layer_in_nnx(module: Any, inputs: Any, **options: Any) -> Contestant:
    """A layer from a Flax module, which is called with the inputs and these options."""
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    return layer_in_jax(lambda params, x: nnx.merge(graphdef, params, rest)(x, **options), params, inputs)


def steps_in_jax(apply: Callable[[Any, Any, Any], tuple[Any, Any]], params: Any, carry: Any, inputs: Any) -> Steps:
    """Single steps from ``apply(params, carry, inputs)`` to ``(carry, output)``."""
    compiled = jax.jit(apply)
    params = jax.tree.map(jnp.asarray, params)
    return repeated(lambda carry, x: compiled(params, carry, x), carry, jnp.asarray(inputs))


def steps_in_nnx(cell: Any, carry: Any, inputs: Any) -> Steps:
    """Single steps of a Flax cell."""
    graphdef, params, rest = nnx.split(cell, nnx.Param, ...)
    return steps_in_jax(lambda p, carry, x: nnx.merge(graphdef, p, rest)(carry, x), params, carry, inputs)


def repeated(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, x: Any, *, wait: bool = True) -> Steps:
    """Single steps from ``step(carry, x)``, each waited for if there is something to wait for."""

    def steps(number: int) -> Any:
        nonlocal carry
        y = None
        for _ in range(number):
            carry, y = step(carry, x)
            if wait:
                jax.block_until_ready(y)
        return y

    return steps
