"""The contestants of benchmarks.accelerator: one layer each, with the same weights, time first.

A layer computes the outputs of every step from inputs ``[time, batch, hidden]``, as many features as hidden units,
and in a training step the mean of their squares with its gradients with respect to the parameters.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxrnn
from benchmarks.cells import CELLS, Recipe, Weights, weights_of
from benchmarks.shapes import Shape

GRU_OF_FLAX = Recipe(
    lambda nnx, in_features, hidden: nnx.GRUCell(in_features, hidden, rngs=nnx.Rngs(0)),
    lambda w: {"dense_i": {"kernel": w.kernel, "bias": w.bias}, "dense_h": {"kernel": w.recurrent_kernel}},
)


class Program(NamedTuple):
    """What is compiled, for any inputs: ``(params, inputs) -> outputs``, and ``-> (loss, gradients)``."""

    forward: Callable[..., Any]
    train: Callable[..., Any]
    params: Any


class Contestant(NamedTuple):
    """One layer at one shape, ready to be called and timed."""

    forward: Callable[[], Any]
    train: Callable[[], tuple[Any, Any]]


def weights(cell: str, hidden: int, seed: int) -> Weights:
    """As a layer begins, with random biases, and recurrent kernels of half the size.

    Rounding errors shrink from step to step then, so that after thousands of steps in half precision results of
    different programs can still be compared.
    """
    random = np.random.default_rng(seed)
    w = weights_of(_cell(cell, hidden, rngs=nnx.Rngs(seed)))
    bias = random.normal(scale=0.1, size=w.bias.shape).astype(np.float32)
    return w._replace(recurrent_kernel=0.5 * w.recurrent_kernel, bias=bias)


def _cell(name: str, hidden: int, **options: Any) -> jaxrnn.RecurrentCell:
    if name == "gru":
        options["use_recurrent_bias"] = False  # Flax's has none
    return CELLS[name].cell(hidden, hidden, **options)


def inputs(shape: Shape, dtype: str, seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (shape.time, shape.batch, shape.in_features), dtype)


def ours(cell: str, w: Weights, dtype: str, implementation: str | None) -> Program:
    """jaxrnn.RNN."""
    hidden = len(w.recurrent_kernel)
    made = _cell(cell, hidden, rngs=nnx.Rngs(0), dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))
    for name in ("kernel", "recurrent_kernel", "bias"):
        getattr(made, name)[...] = jnp.asarray(getattr(w, name), dtype)
    graphdef, params = nnx.split(jaxrnn.RNN(made, time_major=True, implementation=implementation))
    return _in_jax(lambda params, x: nnx.merge(graphdef, params)(x), params)


def flax(cell: str, w: Weights, dtype: str) -> Program:
    """flax.nnx.RNN."""
    recipe = GRU_OF_FLAX if cell == "gru" else CELLS[cell].recipes["nnx"]
    hidden = len(w.recurrent_kernel)
    graphdef, params, rest = nnx.split(nnx.RNN(recipe.make(nnx, hidden, hidden), time_major=True), nnx.Param, ...)
    nnx.replace_by_pure_dict(params, {"cell": recipe.weights(w)})
    params = jax.tree.map(lambda a: jnp.asarray(a, dtype), params)

    def apply(params, x):
        merged = nnx.merge(graphdef, params, rest)
        carry = merged.cell.initialize_carry(x[0].shape, nnx.Rngs(0))
        return merged(x, initial_carry=jax.tree.map(lambda a: a.astype(dtype), carry))

    return _in_jax(apply, params)


def _in_jax(apply: Callable[[Any, Any], Any], params: Any) -> Program:
    def loss(params, x):
        return jnp.mean(apply(params, x).astype(jnp.float32) ** 2)

    return Program(apply, jax.value_and_grad(loss), params)


def compiled(program: Program, x: jax.Array) -> dict[str, Any]:
    """Both functions, for inputs like these."""
    params = jax.tree.map(jnp.asarray, program.params)
    forward = jax.jit(program.forward).lower(params, x).compile()
    train = jax.jit(program.train).lower(params, x).compile()
    return {"params": params, "forward": forward, "train": train}


def ready(found: dict[str, Any], x: jax.Array) -> Contestant:
    return Contestant(lambda: found["forward"](found["params"], x), lambda: found["train"](found["params"], x))


def cudnn_is_missing() -> str | None:
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    if not importlib.import_module("torch").cuda.is_available():
        return "PyTorch finds no CUDA"
    return None


def cudnn(cell: str, w: Weights, dtype: str, x: jax.Array) -> Contestant:
    """PyTorch's nn.RNN, nn.LSTM or nn.GRU on CUDA, which is cuDNN; its float32 is TF32 too."""
    torch = importlib.import_module("torch")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    layer_class = {"simple_rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell]
    hidden = len(w.recurrent_kernel)
    layer = layer_class(hidden, hidden)
    state = CELLS[cell].recipes["torch"].weights(w)
    layer.load_state_dict({name: torch.tensor(np.ascontiguousarray(a)) for name, a in state.items()})
    layer = layer.to("cuda", getattr(torch, dtype))
    layer.flatten_parameters()
    params, data = list(layer.parameters()), torch.from_dlpack(x)

    def forward():
        with torch.inference_mode():
            outputs = layer(data)[0]
        torch.cuda.synchronize()
        return outputs

    def train():
        loss = layer(data)[0].float().square().mean()
        gradients = torch.autograd.grad(loss, params)
        torch.cuda.synchronize()
        return loss.detach(), gradients

    return Contestant(forward, train)


def results(contestant: Contestant) -> tuple[np.ndarray, float, float]:
    """Outputs, the loss, and the norm of the gradients of matrices: biases are two in some, and one in others."""
    outputs = _numpy(contestant.forward())
    loss, gradients = contestant.train()
    matrices = [_numpy(g) for g in jax.tree.leaves(gradients) if g.ndim == 2]
    return outputs, float(loss), float(np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in matrices)))


def _numpy(array: Any) -> np.ndarray:
    return np.asarray(array if isinstance(array, jax.Array) else array.float().cpu(), np.float32)
