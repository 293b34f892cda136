"""Keras on JAX: its layers called as pure functions, its cells, and ``model.fit``.

Keras keeps the carry of a stateful layer in variables. On JAX ``fit`` does not hand them from batch to batch (seen
with 3.15), so its stateful training differs from the others there, and is timed all the same.
"""

import importlib
import os
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.common.tasks import Data, Task
from benchmarks.libraries import base, classifiers
from benchmarks.libraries.ours import head_weights, initial_model
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


def _weights(w: base.Weights) -> list[np.ndarray]:
    return [w.kernel, w.recurrent_kernel, w.bias]


def _gru_weights(w: base.Weights) -> list[np.ndarray]:
    """Gates in the order z r h."""
    assert w.recurrent_bias is not None
    biases = np.stack([w.bias, w.recurrent_bias])
    return [base.joined("zrn", base.by_gate("rzn", a)) for a in (w.kernel, w.recurrent_kernel, biases)]


def _cell(name: str, weights: Any) -> base.PeerCell:
    return base.PeerCell(
        lambda _, hidden: getattr(import_keras().layers, name)(hidden, return_sequences=True), weights
    )


CELLS = {"simple_rnn": _cell("SimpleRNN", _weights), "lstm": _cell("LSTM", _weights)}
CELLS["gru"] = _cell("GRU", _gru_weights)  # reset_after=True is the default


def layer(cell: base.PeerCell, weights: base.Weights, inputs: np.ndarray) -> base.Contestant:
    made = cell.make(*weights.sizes)
    made.build(inputs.shape)
    made.set_weights(cell.weights(weights))
    rest = [jnp.asarray(v.value) for v in made.non_trainable_variables]
    params = [v.value for v in made.trainable_variables]
    return base.layer_in_jax(lambda params, x: made.stateless_call(params, rest, x)[0], params, inputs)


def steps(cell: base.PeerCell, weights: base.Weights, inputs: np.ndarray) -> base.Steps:
    layer = cell.make(*weights.sizes)
    layer.build((1, *inputs.shape))
    layer.set_weights(cell.weights(weights))
    made = layer.cell
    params, rest = ([v.value for v in of] for of in (made.trainable_variables, made.non_trainable_variables))

    def apply(params: Any, carry: Any, x: Any) -> tuple[Any, Any]:
        (output, carry), _ = made.stateless_call(params, rest, x, carry)
        return list(carry), output

    return base.steps_in_jax(apply, params, [jnp.asarray(a) for a in made.get_initial_state(1)], inputs)


def trainer(task: Task, data: Data, *, shuffle: bool = True) -> base.Trainer:
    """On the backend that the environment variable KERAS_BACKEND names."""
    keras: Any = importlib.import_module("keras")
    layer = {"simple_rnn": keras.layers.SimpleRNN, "gru": keras.layers.GRU}[task.cell]
    top = len(task.hidden) - 1
    shape = {"batch_shape": (1, None, 1)} if task.stateful else {"shape": (task.time, 1)}
    layers = [
        layer(size, return_sequences=number < top or task.every_step, stateful=task.stateful)
        for number, size in enumerate(task.hidden)
    ]
    head = [keras.layers.Dense(task.outputs), keras.layers.Rescaling(task.output_scale)]
    model = keras.Sequential([keras.layers.Input(**shape), *layers, *head])
    start: Any = initial_model(task)
    weights = [array for cell in start.layers.cells for array in keras_weights(cell)] + head_weights(start)
    # Some versions list the carries of stateful layers among the weights.
    carries = [np.zeros(w.shape, np.float32) for w in model.weights[len(weights) :]]
    model.set_weights(weights + carries)
    optimizer: Any = keras.optimizers.SGD(task.learning_rate, momentum=0.9)
    if task.optimizer == "adam":
        optimizer = keras.optimizers.Adam(task.learning_rate, epsilon=1e-8)  # the value of Optax and PyTorch
    loss = keras.losses.CategoricalCrossentropy(from_logits=True) if task.classifies else keras.losses.Huber()
    model.compile(optimizer=optimizer, loss=loss, jit_compile=True)
    inputs, targets = data.windows(task)
    options = {"batch_size": task.batch, "shuffle": shuffle and not task.stateful, "epochs": 1, "verbose": 0}

    def epoch() -> float:
        return float(model.fit(inputs, targets, **options).history["loss"][0])

    def predict() -> np.ndarray:
        batch_size = 1 if task.stateful else 512
        return data.judged(task, model.predict(data.valid_inputs, batch_size=batch_size, verbose=0))

    return base.Trainer(epoch, predict)


KERAS = base.Library(
    "Keras on JAX",
    {"keras": "keras"},
    CELLS,
    layer,
    steps,
    trainer,
    classifiers.keras,
    environment={"KERAS_BACKEND": "jax"},
)

KERAS_TENSORFLOW = base.Library(
    "Keras on TensorFlow",
    {"tensorflow": "tensorflow", "keras": "keras"},
    trainer=trainer,
    sequence_trainer=classifiers.keras,
    environment={"KERAS_BACKEND": "tensorflow"},
)
