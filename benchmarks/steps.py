"""One cell, one step at a time, in every library: what benchmarks.streaming times, in a process of its own.

A step gets the carry of the one before and inputs ``[1, in_features]`` that are an array of the library already
(NumPy's for our native step), and is over when its output is there. Every JAX library's cell runs under
``jax.jit`` with its parameters as an argument, as their documents have it; ours also by ``streaming_step``, in the
C++ library and compiled. PyTorch's runs in inference mode on one thread: a second one has nothing to do at this
size, and waiting for it costs.
"""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.cells import CELLS, Recipe, Weights, weights_of
from benchmarks.peers import OURS, PEERS, import_keras
from benchmarks.process import answer
from benchmarks.shapes import Shape
from benchmarks.timing import Timing, interleave, seconds_of
from jaxrnn.layers.streaming import streaming_step

COMPILED = "jaxrnn, compiled"
PLAIN = "jaxrnn, plain jit"
TOLERANCE = 1e-5
CHECKED_STEPS = 16

Steps = Callable[[int], Any]
"""So many steps from where the last ones ended; the last output."""


def contestants(cell: str, in_features: int, hidden: int) -> dict[str, Steps]:
    """Ours and every installed peer that has the cell, with the same weights and inputs, from a zero carry."""
    entry = CELLS[cell]
    made = entry.make(Shape(1, 1, in_features, hidden))
    weights = weights_of(made)
    inputs = np.random.default_rng(0).normal(size=(1, in_features)).astype(np.float32)
    native, first_carry = streaming_step(made, inputs)
    compiled, donated_carry = streaming_step(made, inputs, implementation="jax")
    graphdef, params = nnx.split(made)
    first = jax.tree.map(jnp.array, made.initialize_carry(inputs.shape))
    found: dict[str, Steps] = {
        OURS: _in_numpy(native, first_carry, inputs),
        COMPILED: _in_jax(compiled, donated_carry, inputs),
        PLAIN: _jitted(lambda params, carry, x: nnx.merge(graphdef, params)(carry, x), params, first, inputs),
    }
    for name, make in MAKERS.items():
        if name in entry.recipes and PEERS[name].missing() is None:
            found[LABELS[name]] = make(entry.recipes[name], weights, inputs)
    return found


def _in_numpy(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, x: np.ndarray) -> Steps:
    def steps(number: int) -> Any:
        nonlocal carry
        y = None
        for _ in range(number):
            carry, y = step(carry, x)
        return y

    return steps


def _in_jax(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, inputs: np.ndarray) -> Steps:
    x = jnp.asarray(inputs)

    def steps(number: int) -> Any:
        nonlocal carry
        y = None
        for _ in range(number):
            carry, y = step(carry, x)
            y.block_until_ready()
        return y

    return steps


def _jitted(apply: Callable[..., tuple[Any, Any]], params: Any, carry: Any, inputs: np.ndarray) -> Steps:
    compiled = jax.jit(apply)
    params = jax.tree.map(jnp.asarray, params)
    return _in_jax(lambda carry, x: compiled(params, carry, x), carry, inputs)


def _nnx(recipe: Recipe, weights: Weights, inputs: np.ndarray) -> Steps:
    cell = recipe.make(nnx, inputs.shape[-1], len(weights.recurrent_kernel))
    graphdef, params, rest = nnx.split(cell, nnx.Param, ...)
    nnx.replace_by_pure_dict(params, recipe.weights(weights))
    carry = cell.initialize_carry(inputs.shape, nnx.Rngs(0))
    return _jitted(lambda p, carry, x: nnx.merge(graphdef, p, rest)(carry, x), params, carry, inputs)


def _linen(recipe: Recipe, weights: Weights, inputs: np.ndarray) -> Steps:
    linen = importlib.import_module("flax.linen")
    cell = recipe.make(linen, inputs.shape[-1], len(weights.recurrent_kernel))
    carry = cell.initialize_carry(jax.random.key(0), inputs.shape)
    return _jitted(cell.apply, {"params": recipe.weights(weights)}, carry, inputs)


def _haiku(recipe: Recipe, weights: Weights, inputs: np.ndarray) -> Steps:
    hk = importlib.import_module("haiku")

    def make() -> Any:
        return recipe.make(hk, inputs.shape[-1], len(weights.recurrent_kernel))

    def core(carry, x):
        output, carry = make()(x, carry)
        return carry, output

    first = hk.without_apply_rng(hk.transform(lambda: make().initial_state(1))).apply({})
    return _jitted(hk.without_apply_rng(hk.transform(core)).apply, recipe.weights(weights), first, inputs)


def _keras(recipe: Recipe, weights: Weights, inputs: np.ndarray) -> Steps:
    layer = recipe.make(import_keras().layers, inputs.shape[-1], len(weights.recurrent_kernel))
    layer.build((1, *inputs.shape))
    layer.set_weights(recipe.weights(weights))
    cell = layer.cell
    params = [v.value for v in cell.trainable_variables]
    rest = [v.value for v in cell.non_trainable_variables]

    def apply(params, carry, x):
        (output, carry), _ = cell.stateless_call(params, rest, x, carry)
        return list(carry), output

    states = [jnp.zeros((1, len(weights.recurrent_kernel)))]
    return _jitted(apply, params, states * (2 if len(params[0][0]) == 4 * len(params[1]) else 1), inputs)


def _torch(recipe: Recipe, weights: Weights, inputs: np.ndarray) -> Steps:
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    hidden = len(weights.recurrent_kernel)
    layer = recipe.make(torch.nn, inputs.shape[-1], hidden)
    cell = getattr(torch.nn, f"{type(layer).__name__}Cell")(inputs.shape[-1], hidden)
    state = {name.removesuffix("_l0"): value for name, value in recipe.weights(weights).items()}
    cell.load_state_dict({name: torch.tensor(np.ascontiguousarray(value)) for name, value in state.items()})
    x, carry = torch.tensor(inputs), None

    def steps(number: int) -> Any:
        nonlocal carry
        with torch.inference_mode():
            for _ in range(number):
                carry = cell(x, carry)
        return carry[0] if isinstance(carry, tuple) else carry

    return steps


LABELS = {"nnx": "Flax nnx", "linen": "Flax linen", "haiku": "Haiku", "keras": "Keras on JAX", "torch": "PyTorch"}
"""Cells, where PEERS names layers."""

MAKERS: dict[str, Callable[[Recipe, Weights, np.ndarray], Steps]] = {
    "nnx": _nnx,
    "linen": _linen,
    "haiku": _haiku,
    "keras": _keras,
    "torch": _torch,
}


def check(found: dict[str, Steps], where: str) -> None:
    """A ValueError if a contestant's output after some steps from a zero carry is not ours."""
    outputs = {name: np.asarray(steps(CHECKED_STEPS)) for name, steps in found.items()}
    for name, output in outputs.items():
        difference = np.abs(output - outputs[OURS]).max()
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{where}: after {CHECKED_STEPS} steps outputs of {name} and {OURS} differ by {difference:.2g}, "
                f"more than {TOLERANCE:g}, so their times cannot be compared"
            )


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds a step: ``{"timings": {contestant: Timing.as_json()}, "ratios": {contestant: Spread}}``.

    Args:
      request: cell, in_features, hidden, repetitions, steps (in every timed call) and synchronous: whether JAX
        runs programs in the caller's thread.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", not request["synchronous"])
    where = f"{request['cell']}, {request['in_features']} to {request['hidden']}"
    found = contestants(request["cell"], request["in_features"], request["hidden"])
    check(found, where)
    number = request["steps"]
    calls = {name: lambda steps=steps: steps(number) for name, steps in found.items()}
    first = {name: seconds_of(call) for name, call in calls.items()}
    timings = interleave(calls, request["repetitions"], first_calls=first)
    return {name: _per_step(timing, number) for name, timing in timings.items()}


def _per_step(timing: Timing, number: int) -> dict[str, Any]:
    calls = [[seconds / number for seconds in pair] for pair in timing.calls]
    return {"calls_s": [[round(seconds, 10) for seconds in pair] for pair in calls]}


if __name__ == "__main__":
    answer(measure)
