"""Trainings on sequences of many lengths, in each library as its documents show.

The model is a bidirectional GRU, the mean of its outputs over a sequence's own steps, and a dense head. Ours pads
the sequences of a batch to one of four lengths (:func:`jaxrnn.training.make_bucketed_epoch`). PyTorch packs every
batch (``pack_padded_sequence``). Keras masks: JAX compiles for fixed shapes, so all sequences are padded to the
longest. Without shuffling, every library takes the same batches in the same order.
"""

import importlib
from typing import Any

import numpy as np
import optax
from flax import nnx

from benchmarks.common.tasks import SequenceData, Task
from benchmarks.libraries.base import Trainer
from jaxrnn import training
from jaxrnn.data import bucket_by_length
from jaxrnn.interop import keras_weights, torch_weights
from jaxrnn.models import SequenceClassifier

BUCKETS = 4
PADDING = -1e9
"""What Keras finds in the steps to mask: no scaled feature is so small."""


def make_model(task: Task, data: SequenceData, key: Any = 0) -> SequenceClassifier:
    """The model that every library's training starts from."""
    features = data.inputs[0].shape[1]
    sizes: Any = {"num_classes": task.outputs, "cell": task.cell, "bidirectional": True, "pooling": "mean"}
    return SequenceClassifier(features, task.hidden, **sizes, rngs=nnx.Rngs(key))


def ours(task: Task, data: SequenceData, *, shuffle: bool = True) -> Trainer:
    apply, params = training.pure_apply(lambda: make_model(task, data))
    optimizer = training.make_optimizer(task.optimizer, task.learning_rate)
    loss = optax.losses.softmax_cross_entropy
    buckets = bucket_by_length(data.inputs, batch_size=task.batch, num_buckets=BUCKETS if shuffle else 1)
    epoch = training.make_bucketed_epoch(apply, optimizer, loss, buckets, data.targets, shuffle=shuffle)
    state = training.TrainState.create(params, optimizer)
    valid = buckets.of(data.valid_inputs)

    def train() -> float:
        nonlocal state
        state, metrics = epoch(state)
        return float(metrics.loss)

    return Trainer(train, lambda: training.bucketed_outputs(apply, state.params, valid))


def torch(task: Task, data: SequenceData, *, shuffle: bool = True) -> Trainer:
    torch: Any = importlib.import_module("torch")
    nn, packing = torch.nn, torch.nn.utils.rnn
    start: Any = make_model(task, data)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.GRU(start.in_features, task.hidden[0], batch_first=True, bidirectional=True)
            self.head = nn.Linear(2 * task.hidden[0], task.outputs)

        def forward(self, inputs, lengths):
            packed = packing.pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
            outputs, _ = packing.pad_packed_sequence(self.layer(packed)[0], batch_first=True)  # padding is zero
            return self.head(outputs.sum(1) / lengths[:, None])

    def together(rows: Any) -> Any:
        inputs, targets = zip(*rows)
        lengths = torch.tensor([len(one) for one in inputs])
        return packing.pad_sequence(inputs, batch_first=True), lengths, torch.stack(targets)

    model = Model()
    model.layer.load_state_dict({n: torch.tensor(v) for n, v in torch_weights(start.layers[0]).items()})
    kernel, bias = np.array(start.head.kernel[...]), np.array(start.head.bias[...])
    model.head.load_state_dict({"weight": torch.tensor(kernel.T.copy()), "bias": torch.tensor(bias)})
    optimizer, loss_of = torch.optim.Adam(model.parameters(), task.learning_rate), nn.CrossEntropyLoss()
    tensors = [torch.tensor(one) for one in data.inputs]
    pairs = list(zip(tensors, torch.tensor(data.targets)))
    loader = torch.utils.data.DataLoader(pairs, batch_size=task.batch, shuffle=shuffle, collate_fn=together)
    valid = together([(torch.tensor(one), torch.zeros(1)) for one in data.valid_inputs])

    def epoch() -> float:
        total = 0.0
        for inputs, lengths, targets in loader:
            optimizer.zero_grad()
            loss = loss_of(model(inputs, lengths), targets)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(targets)
        return total / len(pairs)

    def predict() -> np.ndarray:
        with torch.inference_mode():
            return model(*valid[:2]).numpy()

    return Trainer(epoch, predict)


def keras(task: Task, data: SequenceData, *, shuffle: bool = True) -> Trainer:
    keras: Any = importlib.import_module("keras")
    layers: Any = keras.layers
    start: Any = make_model(task, data)
    longest = max(map(len, (*data.inputs, *data.valid_inputs)))

    def padded(sequences: Any) -> np.ndarray:
        found = np.full((len(sequences), longest, start.in_features), PADDING, np.float32)
        for row, one in zip(found, sequences):
            row[: len(one)] = one
        return found

    parts = [
        layers.Input(shape=(longest, start.in_features)),
        layers.Masking(PADDING),
        layers.Bidirectional(layers.GRU(task.hidden[0], return_sequences=True)),
        layers.GlobalAveragePooling1D(),
        layers.Dense(task.outputs),
    ]
    model = keras.Sequential(parts)
    head = [np.asarray(start.head.kernel[...]), np.asarray(start.head.bias[...])]
    model.set_weights(keras_weights(start.layers[0]) + head)
    optimizer = keras.optimizers.Adam(task.learning_rate, epsilon=1e-8)  # the value of Optax and PyTorch
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, jit_compile=True)
    inputs, valid = padded(data.inputs), padded(data.valid_inputs)
    options = {"batch_size": task.batch, "shuffle": shuffle, "epochs": 1, "verbose": 0}

    def epoch() -> float:
        return float(model.fit(inputs, data.targets, **options).history["loss"][0])

    return Trainer(epoch, lambda: np.asarray(model.predict(valid, batch_size=512, verbose=0)))
