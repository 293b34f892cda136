"""This library: its cells and their first weights, layers, single steps and trainings."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import jaxrnn
from benchmarks.common.rows import OURS
from benchmarks.common.tasks import Data, Task
from benchmarks.libraries import base, classifiers
from experiments.common.devices import batch_mesh
from jaxrnn import training
from jaxrnn.export import quantize
from jaxrnn.layers import streaming_step
from jaxrnn.training import Epoch

CELLS: dict[str, type[jaxrnn.RecurrentCell]] = {
    "simple_rnn": jaxrnn.SimpleRNNCell,
    "lstm": jaxrnn.LSTMCell,
    "gru": jaxrnn.GRUCell,
}
"""The cells that are compared. ``gru_one_bias`` is the GRU without recurrent bias, as Flax's nnx has it."""

COMPILED = "jaxrnn, compiled"
INT8 = "jaxrnn, int8"
PLAIN = "jaxrnn, plain jit"


def make_cell(name: str, in_features: int, hidden: int, *, seed: int = 0, **options: Any) -> jaxrnn.RecurrentCell:
    if name == "gru_one_bias":
        name, options = "gru", {"use_recurrent_bias": False, **options}
    return CELLS[name](in_features, hidden, rngs=nnx.Rngs(seed), **options)


def first_weights(name: str, in_features: int, hidden: int, *, seed: int = 0) -> base.Weights:
    """The usual first weights, but random biases: zeros would hide a bias that is wrong."""
    cell = make_cell(name, in_features, hidden, seed=seed)
    random = np.random.default_rng(seed)

    def bias(param: Any) -> Any:
        return None if param is None else random.normal(scale=0.1, size=param.shape).astype(np.float32)

    kernels = np.asarray(cell.kernel[...]), np.asarray(cell.recurrent_kernel[...])
    return base.Weights(*kernels, bias(cell.bias), bias(cell.recurrent_bias))


def cell_with(name: str, weights: base.Weights, dtype: Any = jnp.float32) -> jaxrnn.RecurrentCell:
    """Our cell with these weights."""
    cell = make_cell(name, *weights.sizes, dtype=dtype, param_dtype=dtype)
    for attribute, value in weights._asdict().items():
        if value is not None:
            getattr(cell, attribute)[...] = jnp.asarray(value, dtype)
    return cell


def layer(name: str, weights: base.Weights, inputs: Any) -> base.Contestant:
    return base.layer_in_nnx(jaxrnn.RNN(cell_with(name, weights, inputs.dtype)), inputs)


def steps(name: str, weights: base.Weights, inputs: np.ndarray) -> dict[str, base.Steps]:
    """``streaming_step`` in the C++ library and compiled by JAX, and a plain ``jax.jit`` of the cell."""
    cell: Any = cell_with(name, weights)
    native, first_carry = streaming_step(cell, inputs)
    compiled, donated_carry = streaming_step(cell, inputs, implementation="jax")
    graphdef, params = nnx.split(cell)
    carry = jax.tree.map(jnp.array, cell.initialize_carry(inputs.shape))
    return {
        # The C++ library returns NumPy arrays: there is nothing to wait for, and asking would take time.
        OURS: base.repeated(native, first_carry, inputs, wait=False),
        COMPILED: base.repeated(compiled, donated_carry, jnp.asarray(inputs)),
        PLAIN: base.steps_in_jax(lambda p, carry, x: nnx.merge(graphdef, p)(carry, x), params, carry, inputs),
    }


def streams(name: str, weights: base.Weights, inputs: np.ndarray) -> dict[str, base.Steps]:
    """``jaxrnn.Streams`` in the C++ library, also with int8 weights, and compiled by JAX: steps of all streams."""
    cell = cell_with(name, weights)

    def steps_of(many: jaxrnn.Streams, x: Any) -> base.Steps:
        return base.repeated(lambda carry, x: (carry, many.step(x)), None, x)

    return {
        OURS: steps_of(jaxrnn.Streams(cell, len(inputs)), inputs),
        INT8: steps_of(jaxrnn.Streams(quantize(cell), len(inputs)), inputs),
        COMPILED: steps_of(jaxrnn.Streams(cell, len(inputs), implementation="jax"), jnp.asarray(inputs)),
    }


def initial_model(task: Task, key: Any = 0, implementation: str | None = None) -> jaxrnn.RNNForecaster:
    """The model that every library's training starts from."""
    sizes: Any = {"cell": task.cell, "out_features": task.outputs, "output_scale": task.output_scale}
    model = jaxrnn.RNNForecaster(1, task.hidden, return_sequences=task.every_step, rngs=nnx.Rngs(key), **sizes)
    model.layers.implementation = implementation
    return model


def head_weights(model: Any) -> list[np.ndarray]:
    return [np.asarray(model.head.kernel[...]), np.asarray(model.head.bias[...])]


def windowed_epoch(task: Task, data: Data, apply: Any, optimizer: Any, **options: Any) -> Epoch:
    """One epoch over shuffled windows, as one compiled program."""
    loss = optax.losses.softmax_cross_entropy if task.classifies else training.huber
    arrays = map(jnp.asarray, (data.features, data.targets, data.starts))
    sizes: Any = {"window": task.time, "batch_size": task.batch, "every_step": task.every_step}
    return training.make_windowed_epoch(apply, optimizer, loss, *arrays, **sizes, **options)


def trainer(
    task: Task, data: Data, *, shuffle: bool = True, implementation: str | None = None, one_device: bool = False
) -> base.Trainer:
    """One compiled program an epoch; unless ``one_device``, each batch is spread over the cores, as in
    ``experiments.forecast``."""
    apply, params = training.pure_apply(lambda: initial_model(task, implementation=implementation))
    optimizer = training.make_optimizer(task.optimizer, task.learning_rate)
    carry = None
    if task.stateful:
        carry = jax.jit(lambda: initial_model(task).initialize_carry(1))()
        arrays = map(jnp.asarray, (data.features, data.targets, data.starts[:, None]))
        options: Any = {"window": task.time, "initial_carry": carry}
        epoch = training.make_sequential_epoch(apply, optimizer, training.huber, *arrays, **options)
    else:
        mesh = None if one_device else batch_mesh(task.batch, None)
        epoch = windowed_epoch(task, data, apply, optimizer, shuffle=shuffle, mesh=mesh)
    state = training.TrainState.create(params, optimizer, carry=carry)
    outputs = jax.jit(lambda params, inputs: apply(params, inputs, None)[1])
    inputs = jnp.asarray(data.valid_inputs)

    def train() -> float:
        nonlocal state
        state, metrics = epoch(state)
        return float(metrics.loss)  # waits, as a training loop that looks at its losses does

    def predict() -> np.ndarray:
        params: Any = jax.device_put(state.params, jax.devices()[0])
        found: Array = outputs(params, inputs)
        return data.judged(task, np.asarray(found))

    return base.Trainer(train, predict)


def _library(label: str, sequence_trainer: Any = None, **options: Any) -> base.Library:
    trainers: Any = {"trainer": functools.partial(trainer, **options), "sequence_trainer": sequence_trainer}
    return base.Library(label, {"jax": "jax"}, **trainers)


JAXRNN = _library(OURS, classifiers.ours)
ONE_DEVICE = _library("jaxrnn, one device", one_device=True)
REFERENCE = _library("jaxrnn, reference", implementation="reference", one_device=True)
