"""Keras on JAX: its layers called as pure functions, its cells, and ``model.fit``.

Keras keeps the carry of a stateful layer in variables. On JAX ``fit`` does not hand them from batch to batch (seen
with 3.15), so its stateful training differs from the others there, and is timed all the same.
"""

import importlib
import os
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxrnn
from benchmarks.common.tasks import Task
from benchmarks.libraries import base
from benchmarks.libraries.ours import first_weights
from jaxrnn.interop import keras_weights


def import_keras() -> Any:
    """Keras on JAX, whichever backend it is otherwise configured to use."""
    os.environ["KERAS_BACKEND"] = "jax"
    keras = importlib.import_module("keras")
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Keras was imported before with the backend {keras.backend.backend()!r}; 'jax' is needed"
        )
    return keras


CELLS = {"simple_rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}  # reset_after=True is the default

PADDING = -1e9
"""What Keras finds in the steps to mask: no scaled feature is so small."""


def _layer(name: str, cell: jaxrnn.RecurrentCell, shape: tuple[int, ...]) -> Any:
    """Keras's layer with our weights."""
    made = getattr(import_keras().layers, CELLS[name])(cell.hidden_features, return_sequences=True)
    made.build(shape)
    made.set_weights(keras_weights(cell))
    return made


def layer(name: str, cell: jaxrnn.RecurrentCell, inputs: np.ndarray) -> base.Contestant:
    made = _layer(name, cell, inputs.shape)
    rest = [jnp.asarray(v.value) for v in made.non_trainable_variables]
    params = [v.value for v in made.trainable_variables]
    return base.layer_in_jax(lambda params, x: made.stateless_call(params, rest, x)[0], params, inputs)


def steps(name: str, cell: jaxrnn.RecurrentCell, inputs: np.ndarray) -> base.Steps:
    made = _layer(name, cell, (1, *inputs.shape)).cell
    params, rest = ([v.value for v in of] for of in (made.trainable_variables, made.non_trainable_variables))

    def apply(params: Any, carry: Any, x: Any) -> tuple[Any, Any]:
        (output, carry), _ = made.stateless_call(params, rest, x, carry)
        return list(carry), output

    return base.steps_in_jax(apply, params, [jnp.asarray(a) for a in made.get_initial_state(1)], inputs)


def trainer(task: Task, data: Any, *, shuffle: bool = True, seed: int = 0) -> base.Trainer:
    """On the backend that the environment variable KERAS_BACKEND names."""
    keras: Any = importlib.import_module("keras")
    keras.utils.set_random_seed(seed)
    layers: Any = keras.layers
    cell = getattr(layers, CELLS[task.cell])
    stack, head = first_weights(task, data)
    if task.lengths:
        longest = max(map(len, (*data.inputs, *data.valid_inputs)))
        inputs, valid = (_padded(sequences, longest) for sequences in (data.inputs, data.valid_inputs))
        targets = data.targets
        parts = [layers.Input(shape=inputs.shape[1:]), layers.Masking(PADDING)]
        parts += [layers.Bidirectional(cell(task.hidden[0], return_sequences=True))]
        parts += [layers.GlobalAveragePooling1D(), layers.Dense(task.outputs)]
    else:
        (inputs, targets), valid = data.windows(task), data.valid_inputs
        parts = [layers.Input(**{"batch_shape": (1, None, 1)} if task.stateful else {"shape": (task.time, 1)})]
        for number, size in enumerate(task.hidden, 1):
            whole = task.every_step or number < len(task.hidden)
            parts.append(cell(size, return_sequences=whole, stateful=task.stateful))
        parts += [layers.Dense(task.outputs), layers.Rescaling(task.output_scale)]
    model = keras.Sequential(parts)
    weights = keras_weights(stack) + head
    # Some versions list the carries of stateful layers among the weights.
    carries = [np.zeros(w.shape, np.float32) for w in model.weights[len(weights) :]]
    model.set_weights(weights + carries)
    optimizer: Any = keras.optimizers.SGD(task.learning_rate, momentum=0.9)
    if task.optimizer == "adam":
        optimizer = keras.optimizers.Adam(task.learning_rate, epsilon=1e-8)  # the value of Optax and PyTorch
    loss = keras.losses.CategoricalCrossentropy(from_logits=True) if task.classifies else keras.losses.Huber()
    model.compile(optimizer=optimizer, loss=loss, jit_compile=True)
    options = {"batch_size": task.batch, "shuffle": shuffle and not task.stateful, "epochs": 1, "verbose": 0}

    def epoch() -> float:
        return float(model.fit(inputs, targets, **options).history["loss"][0])

    def predict() -> np.ndarray:
        outputs = model.predict(valid, batch_size=1 if task.stateful else 512, verbose=0)
        return data.judged(task, np.asarray(outputs))

    return base.Trainer(epoch, predict)


def _padded(sequences: list[np.ndarray], longest: int) -> np.ndarray:
    """JAX compiles for fixed shapes, so all sequences are padded to the longest, and Keras masks."""
    found = np.full((len(sequences), longest, sequences[0].shape[1]), PADDING, np.float32)
    for row, one in zip(found, sequences):
        row[: len(one)] = one
    return found


KERAS = base.Library(
    "Keras on JAX", {"keras": "keras"}, CELLS, layer, steps, trainer, environment={"KERAS_BACKEND": "jax"}
)
KERAS_TENSORFLOW = base.Library(
    "Keras on TensorFlow",
    {"tensorflow": "tensorflow", "keras": "keras"},
    trainer=trainer,
    environment={"KERAS_BACKEND": "tensorflow"},
)
