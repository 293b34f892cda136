"""This library: its cells and their first weights, layers, single steps and trainings."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxrnn
from benchmarks.common.rows import OURS
from benchmarks.common.tasks import Data, SequenceData, Task
from benchmarks.libraries import base
from experiments.common.devices import batch_mesh
from jaxrnn import training
from jaxrnn.data import bucket_by_length
from jaxrnn.export import quantize
from jaxrnn.layers import streaming_step
from jaxrnn.models import SequenceClassifier
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


def first_cell(name: str, in_features: int, hidden: int, *, seed: int = 0, dtype: Any = "float32") -> Any:
    """The cell whose weights all libraries get: the usual ones, but random biases, since zeros would hide a bias
    that is wrong."""
    options: Any = {"use_recurrent_bias": False} if name == "gru_one_bias" else {}
    options |= {"bias_init": nnx.initializers.normal(0.1), "dtype": dtype, "param_dtype": dtype}
    return CELLS[name.removesuffix("_one_bias")](in_features, hidden, rngs=nnx.Rngs(seed), **options)


def steps(cell: Any, inputs: np.ndarray) -> dict[str, base.Steps]:
    """``streaming_step`` in the C++ library and compiled by JAX, and a plain ``jax.jit`` of the cell."""
    native, first_carry = streaming_step(cell, inputs)
    compiled, donated_carry = streaming_step(cell, inputs, implementation="jax")
    carry = jax.tree.map(jnp.array, cell.initialize_carry(inputs.shape))
    return {
        # The C++ library returns NumPy arrays: there is nothing to wait for, and asking would take time.
        OURS: base.repeated(native, first_carry, inputs, wait=False),
        COMPILED: base.repeated(compiled, donated_carry, jnp.asarray(inputs)),
        PLAIN: base.steps_in_nnx(cell, carry, inputs),
    }


def streams(cell: Any, inputs: np.ndarray) -> dict[str, base.Steps]:
    """``jaxrnn.Streams`` in the C++ library, also with int8 weights, and compiled by JAX: steps of all streams."""

    def steps_of(cell: Any, x: Any, **options: Any) -> base.Steps:
        many = jaxrnn.Streams(cell, len(inputs), **options)
        return base.repeated(lambda carry, x: (carry, many.step(x)), None, x)

    return {
        OURS: steps_of(cell, inputs),
        INT8: steps_of(quantize(cell), inputs),
        COMPILED: steps_of(cell, jnp.asarray(inputs), implementation="jax"),
    }


def initial_model(task: Task, data: Data | SequenceData, key: Any = 0, implementation: str | None = None) -> Any:
    """The model that every library's training starts from."""
    options: Any = {"cell": task.cell, "rngs": nnx.Rngs(key)}
    if task.lengths:
        options |= {"num_classes": task.outputs, "bidirectional": True, "pooling": "mean"}
        return SequenceClassifier(data.valid_inputs[0].shape[-1], task.hidden, **options)
    options |= {"out_features": task.outputs, "output_scale": task.output_scale}
    model = jaxrnn.RNNForecaster(1, task.hidden, return_sequences=task.every_step, **options)
    model.layers.implementation = implementation
    return model


def first_weights(task: Task, data: Data | SequenceData) -> tuple[Any, list[np.ndarray]]:
    """The stack of recurrent layers in that model, and kernel and bias of its head."""
    model = initial_model(task, data)
    head = [np.array(model.head.kernel[...]), np.array(model.head.bias[...])]
    return model.layers[0] if task.lengths else model.layers, head


def windowed_epoch(task: Task, data: Data, apply: Any, optimizer: Any, **options: Any) -> Epoch:
    """One epoch over shuffled windows, as one compiled program."""
    arrays = map(jnp.asarray, (data.features, data.targets, data.starts))
    sizes: Any = {"window": task.time, "batch_size": task.batch, "every_step": task.every_step}
    return training.make_windowed_epoch(apply, optimizer, _loss(task), *arrays, **sizes, **options)


def _loss(task: Task) -> Any:
    return optax.losses.softmax_cross_entropy if task.classifies else training.huber


def trainer(
    task: Task,
    data: Any,
    *,
    shuffle: bool = True,
    seed: int = 0,
    implementation: str | None = None,
    one_device: bool = False,
) -> base.Trainer:
    """One compiled program an epoch; unless ``one_device``, each batch is spread over the cores, as in
    ``experiments.forecast``. Sequences of many lengths are padded to as many as pay."""
    apply, params = training.pure_apply(lambda: initial_model(task, data, implementation=implementation))
    optimizer = training.make_optimizer(task.optimizer, task.learning_rate)
    outputs = jax.jit(lambda params, inputs: apply(params, inputs, None)[1])
    carry, valid = None, data.valid_inputs
    if task.lengths:
        number = None if shuffle else 1  # without shuffling, the same batches as in every library
        buckets = bucket_by_length(data.inputs, batch_size=task.batch, num_buckets=number)
        epoch = training.make_bucketed_epoch(apply, optimizer, _loss(task), buckets, data.targets, shuffle=shuffle)
        outputs, valid = functools.partial(training.bucketed_outputs, apply), buckets.of(valid)
    elif task.stateful:
        carry = jax.jit(lambda: initial_model(task, data).initialize_carry(1))()
        arrays = map(jnp.asarray, (data.features, data.targets, data.starts[:, None]))
        options: Any = {"window": task.time, "initial_carry": carry}
        epoch = training.make_sequential_epoch(apply, optimizer, _loss(task), *arrays, **options)
    else:
        mesh = None if one_device else batch_mesh(task.batch, None)
        epoch = windowed_epoch(task, data, apply, optimizer, shuffle=shuffle, mesh=mesh)
    state = training.TrainState.create(params, optimizer, carry=carry, seed=seed)

    def train() -> float:
        nonlocal state
        state, metrics = epoch(state)
        return float(metrics.loss)  # waits, as a training loop that looks at its losses does

    def predict() -> np.ndarray:
        params: Any = jax.device_put(state.params, jax.devices()[0])
        return data.judged(task, np.asarray(outputs(params, valid)))

    return base.Trainer(train, predict)


JAXRNN = base.Library(OURS, {"jax": "jax"}, trainer=trainer, imports=("jaxrnn.models", "jaxrnn.training"))
ONE_DEVICE = replace(JAXRNN, label="jaxrnn, one device", trainer=functools.partial(trainer, one_device=True))
REFERENCE = replace(
    JAXRNN,
    label="jaxrnn, reference",
    trainer=functools.partial(trainer, implementation="reference", one_device=True),
)
