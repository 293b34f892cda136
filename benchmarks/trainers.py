"""The trainings of benchmarks.training in every library, each as its users would write it.

All start from the same weights. ``ours`` is one compiled program an epoch, its batches spread over the cores, as
in experiments.forecast; Keras is ``model.fit`` on arrays with ``jit_compile=True``; PyTorch is the usual loop over
a ``DataLoader``, eager. PyTorch's RNN has a second bias that is only ever added to the first: it stays at zero
there, since two of them would learn twice as fast.

Keras keeps a stateful layer's carry in variables. On JAX ``fit`` does not hand them from batch to batch (seen with
3.15), so there its stateful training is another one, and is timed all the same.
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
import optax
from flax import nnx

import jaxrnn
from benchmarks.training_tasks import Data, Task
from experiments.common.devices import batch_mesh
from jaxrnn.interop import keras_weights, torch_weights
from jaxrnn.training import (
    TrainState,
    huber,
    make_optimizer,
    make_sequential_epoch,
    make_windowed_epoch,
    pure_apply,
)


class Trainer(NamedTuple):
    """A model in training.

    Attributes:
      epoch: train one epoch on; its mean loss.
      predict: the outputs for the validation data ``[n, outputs]``.
    """

    epoch: Callable[[], float]
    predict: Callable[[], np.ndarray]


def initial_model(task: Task) -> jaxrnn.RNNForecaster:
    """Our model with the weights that all begin with."""
    return jaxrnn.RNNForecaster(
        1,
        task.hidden,
        out_features=task.outputs,
        cell=task.cell,
        return_sequences=task.every_step,
        output_scale=task.output_scale,
        rngs=nnx.Rngs(0),
    )


def ours(task: Task, data: Data, *, shuffle: bool = True) -> Trainer:
    apply, params = pure_apply(lambda: initial_model(task))
    optimizer = make_optimizer(task.optimizer, task.learning_rate)
    loss = optax.losses.softmax_cross_entropy if task.classifies else huber
    arrays = apply, optimizer, loss, jnp.asarray(data.features), jnp.asarray(data.targets)
    carry = None
    if task.name == "stateful":
        carry = initial_model(task).initialize_carry(1)
        starts = jnp.asarray(data.starts)[:, None]
        epoch = make_sequential_epoch(*arrays, starts, window=task.time, initial_carry=carry)
    else:
        epoch = make_windowed_epoch(
            *arrays,
            jnp.asarray(data.starts),
            window=task.time,
            batch_size=task.batch,
            every_step=task.every_step,
            shuffle=shuffle,
            mesh=batch_mesh(task.batch, None),
        )
    state = TrainState.create(params, optimizer, carry=carry)
    outputs = jax.jit(lambda params, inputs: apply(params, inputs, None)[1])
    inputs = jnp.asarray(data.valid_inputs)

    def train() -> float:
        nonlocal state
        state, metrics = epoch(state)
        return float(metrics.loss)

    def predict() -> np.ndarray:
        return _judged(task, data, np.asarray(outputs(jax.device_put(state.params, jax.devices()[0]), inputs)))

    return Trainer(train, predict)


def _judged(task: Task, data: Data, outputs: np.ndarray) -> np.ndarray:
    if task.name == "stateful":
        return outputs[0, -len(data.valid_targets) :]
    return outputs[:, -1] if task.every_step else outputs


def keras(task: Task, data: Data, *, shuffle: bool = True) -> Trainer:
    """On the backend that the environment variable KERAS_BACKEND names."""
    keras: Any = importlib.import_module("keras")
    stateful = task.name == "stateful"
    layer = {"simple_rnn": keras.layers.SimpleRNN, "gru": keras.layers.GRU}[task.cell]
    top = len(task.hidden) - 1
    model = keras.Sequential(
        [
            keras.layers.Input(batch_shape=(1, None, 1)) if stateful else keras.layers.Input((task.time, 1)),
            *(
                layer(size, return_sequences=number < top or task.every_step, stateful=stateful)
                for number, size in enumerate(task.hidden)
            ),
            keras.layers.Dense(task.outputs),
            keras.layers.Rescaling(task.output_scale),
        ]
    )
    start = initial_model(task)
    weights = [array for cell in start.layers.cells for array in keras_weights(cell)]  # pyright: ignore
    weights += _head(start)
    states = [np.zeros(w.shape, np.float32) for w in model.weights[len(weights) :]]  # whether they count, depends
    model.set_weights(weights + states)
    rate = task.learning_rate
    optimizer: Any = keras.optimizers.SGD(rate, momentum=0.9)
    if task.optimizer == "adam":
        optimizer = keras.optimizers.Adam(rate, epsilon=1e-8)  # as Optax and PyTorch have it
    loss = keras.losses.CategoricalCrossentropy(from_logits=True) if task.classifies else keras.losses.Huber()
    model.compile(optimizer=optimizer, loss=loss, jit_compile=True)
    inputs, targets = data.windows(task)

    def train() -> float:
        fitted = model.fit(
            inputs, targets, batch_size=task.batch, shuffle=shuffle and not stateful, epochs=1, verbose=0
        )
        return float(fitted.history["loss"][0])

    def predict() -> np.ndarray:
        return _judged(
            task, data, model.predict(data.valid_inputs, batch_size=512 if not stateful else 1, verbose=0)
        )

    return Trainer(train, predict)


def _head(model: jaxrnn.RNNForecaster) -> list[np.ndarray]:
    return [np.asarray(model.head.kernel[...]), np.asarray(model.head.bias[...])]  # pyright: ignore


def torch(task: Task, data: Data, *, shuffle: bool = True) -> Trainer:
    torch: Any = importlib.import_module("torch")
    nn = torch.nn
    stateful = task.name == "stateful"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            make = {"simple_rnn": nn.RNN, "gru": nn.GRU}[task.cell]
            self.layers = make(1, task.hidden[0], num_layers=len(task.hidden), batch_first=True)
            self.head = nn.Linear(task.hidden[-1], task.outputs)

        def forward(self, inputs, carry=None):
            hidden, carry = self.layers(inputs, carry)
            return self.head(hidden if task.every_step else hidden[:, -1]) * task.output_scale, carry

    model, start = Model(), initial_model(task)
    model.layers.load_state_dict({n: torch.tensor(v) for n, v in torch_weights(start.layers).items()})
    kernel, bias = _head(start)
    model.head.load_state_dict({"weight": torch.tensor(kernel.T.copy()), "bias": torch.tensor(bias)})
    if task.cell == "simple_rnn":
        for name, parameter in model.layers.named_parameters():
            parameter.requires_grad = not name.startswith("bias_hh")
    rate = task.learning_rate
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    if task.optimizer == "adam":
        optimizer = torch.optim.Adam(model.parameters(), rate)
    loss_of = nn.CrossEntropyLoss() if task.classifies else nn.HuberLoss()
    windows = torch.utils.data.TensorDataset(*map(torch.tensor, data.windows(task)))
    loader = torch.utils.data.DataLoader(windows, batch_size=task.batch, shuffle=shuffle and not stateful)
    valid = torch.tensor(data.valid_inputs)

    def train() -> float:
        total, carry = 0.0, None
        for inputs, targets in loader:
            optimizer.zero_grad()
            outputs, carry = model(inputs, carry)
            loss = loss_of(outputs, targets)
            loss.backward()
            optimizer.step()
            carry = carry.detach() if stateful else None
            total += loss.item() * len(inputs)
        return total / len(windows)

    def predict() -> np.ndarray:
        with torch.inference_mode():
            return _judged(task, data, model(valid)[0].numpy())

    return Trainer(train, predict)


@dataclass(frozen=True)
class Library:
    """Who trains: its name in tables, what to import and install, and its training."""

    label: str
    package: str
    install: str
    make: Callable[..., Trainer]
    environment: dict[str, str]

    def missing(self) -> str | None:
        if importlib.util.find_spec(self.package) is None:
            return f"not installed (pip install {self.install})"
        if self.environment and importlib.util.find_spec("keras") is None:
            return "Keras is not installed (pip install keras)"
        return None


LIBRARIES = {
    "jaxrnn": Library("jaxrnn", "jax", "jax", ours, {}),
    "keras": Library("Keras on JAX", "keras", "keras", keras, {"KERAS_BACKEND": "jax"}),
    "keras-tensorflow": Library(
        "Keras on TensorFlow", "tensorflow", "tensorflow", keras, {"KERAS_BACKEND": "tensorflow"}
    ),
    "torch": Library("PyTorch", "torch", "torch", torch, {}),
}


def set_up(library: str) -> None:
    """What comes before anything runs: the backend of Keras, and a device of JAX for every core for ours."""
    os.environ.update(LIBRARIES[library].environment)
    if library == "jaxrnn":
        from experiments.common.devices import claim_devices

        claim_devices(None)
