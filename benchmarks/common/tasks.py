"""The trainings that are compared: data, sizes and targets, the same for every library.

Six tasks. The three of the forecast experiment learn from the first 1,000 values of its series, in windows of 30
steps, and are judged on the last 461: ``seq2vec`` forecasts after each window, ``seq2seq`` at every step of it,
``stateful`` reads consecutive windows one by one and passes its carry on. ``classification`` tells five
frequencies apart: sequences of 64 steps of sin(2 pi f t / 64 + phase) + noise, where f is one of 2, 3, 4, 5, 6,
the phase is uniform and the noise is normal with standard deviation 0.7. There are 1,280 sequences to learn from
and 500 for validation; the model is a GRU of 64 units, trained with Adam. ``speech`` and ``gesture`` are the data
sets of experiments.classify with sequences of many lengths: nine speakers, 7 to 26 steps, and ten gestures, 8 to
91 frames of four steps. The model is a bidirectional GRU of 64 units, and a fifth of the training part is for
validation; of the experiment's recipes only the features are taken. The files are in the package aeon.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common.rows import Shape
from experiments.common.labelled.datasets import folds, load
from experiments.common.labelled.recipes import RECIPES
from experiments.common.labelled.sequences import SequencePreparation
from jaxrnn.data import course_series, window_starts

CLASSES = 5


@dataclass(frozen=True)
class Task:
    """Everything that defines a training."""

    name: str
    cell: str = "simple_rnn"  # or gru
    hidden: tuple[int, ...] = (100, 100)  # units of each layer
    optimizer: str = "sgd"  # with momentum 0.9; or adam
    learning_rate: float = 1.5e-6
    output_scale: float = 200.0
    target: float = 7.0  # of the validation metric, the MAE or the accuracy to reach
    time: int = 30  # steps in a window
    batch: int = 128  # windows in a batch
    series: int = 1  # as long as the course's, learned from together; the others repeat the first
    max_epochs: int = 100  # how long to wait for the target
    outputs: int = 1
    every_step: bool = False  # whether outputs are wanted at every step, or at the last
    stateful: bool = False  # whether the carry goes from window to window
    classifies: bool = False  # whether the outputs are logits
    lengths: bool = False  # whether the sequences have many; the data are then :class:`SequenceData`

    @property
    def metric(self) -> str:
        return "accuracy" if self.classifies else "MAE"

    def reached(self, value: float) -> bool:
        return value >= self.target if self.classifies else value <= self.target

    def with_sizes(self, sizes: dict[str, Any]) -> "Task":
        """The task with some of its fields replaced, as they come from JSON."""
        return replace(self, **{name: tuple(v) if isinstance(v, list) else v for name, v in sizes.items()})


_ADAM: dict[str, Any] = {
    "cell": "gru",
    "hidden": (64,),
    "optimizer": "adam",
    "learning_rate": 3e-3,
    "classifies": True,
}
_LENGTHS = _ADAM | {"batch": 16, "lengths": True}

_TASKS = (
    Task("seq2vec"),
    Task("seq2seq", learning_rate=1e-6, every_step=True),
    Task("stateful", learning_rate=1e-7, batch=1, every_step=True, stateful=True),
    Task("classification", output_scale=1.0, target=0.9, time=64, batch=64, outputs=CLASSES, **_ADAM),
    Task("speech", target=0.95, outputs=9, **_LENGTHS),
    Task("gesture", target=0.6, outputs=10, **_LENGTHS),
)
TASKS = {task.name: task for task in _TASKS}


class Data(NamedTuple):
    """Arrays of a task, all float32.

    Attributes:
      features: ``[steps, 1]``, every training sequence after the other.
      targets: ``[steps, outputs]``: the wanted output of each step; for classes one-hot.
      starts: where the windows (for ``stateful`` the consecutive ones) begin.
      valid_inputs: ``[windows, time, 1]``; for ``stateful`` the whole series ``[1, time, 1]``.
      valid_targets: ``[n, outputs]``: after each valid window, or (stateful) at the last n steps.
    """

    features: np.ndarray
    targets: np.ndarray
    starts: np.ndarray
    valid_inputs: np.ndarray
    valid_targets: np.ndarray

    def windows(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """Inputs ``[windows, time, 1]`` and their targets, of every step or of the last."""
        steps = self.starts[:, None] + np.arange(task.time)
        return self.features[steps], self.targets[steps] if task.every_step else self.targets[steps[:, -1]]

    def judged(self, task: Task, outputs: np.ndarray) -> np.ndarray:
        """Those of a model's outputs for the validation data that ``valid_targets`` belong to."""
        if task.stateful:
            return outputs[0, -len(self.valid_targets) :]
        return outputs[:, -1] if task.every_step else outputs


class SequenceData(NamedTuple):
    """Sequences of many lengths, float32 ``[steps, features]`` each, and their classes, one-hot float32."""

    inputs: list[np.ndarray]
    targets: np.ndarray
    valid_inputs: list[np.ndarray]
    valid_targets: np.ndarray

    def judged(self, task: Task, outputs: np.ndarray) -> np.ndarray:
        return outputs


def missing_data(task: Task) -> str | None:
    """Why a task's data are not there, or None."""
    try:
        data_of(task)
    except FileNotFoundError as error:
        return str(error)
    return None


def data_of(task: Task) -> Any:
    """The task's arrays: :class:`Data`, or :class:`SequenceData` for sequences of many lengths.

    Raises:
      FileNotFoundError: a package with the data is not installed.
    """
    if task.lengths:
        return _labelled(task)
    if task.classifies:
        return _frequencies(task)
    series = course_series()
    values, split = series.values.astype(np.float32), series.split
    length = split - 1
    if task.stateful:
        starts = np.arange(length // task.time) * task.time
        valid_inputs = values[None, :-1]
    else:
        starts = window_starts(length, task.time)
        ends = np.arange(split, len(values))
        valid_inputs = values[ends[:, None] - task.time + np.arange(task.time)]
    return Data(
        np.tile(values[:length], (task.series, 1)),
        np.tile(values[1:split], (task.series, 1)),
        (np.arange(task.series)[:, None] * length + starts).ravel(),
        valid_inputs,
        values[split:],
    )


def _frequencies(task: Task, train: int = 1280, valid: int = 500) -> Data:
    random = np.random.default_rng(0)
    labels = random.integers(CLASSES, size=train + valid)
    phases = random.uniform(0, 2 * np.pi, size=(train + valid, 1))
    angles = 2 * np.pi * (labels[:, None] + 2) * np.arange(task.time) / task.time + phases
    inputs = np.sin(angles) + 0.7 * random.normal(size=angles.shape)
    inputs, wanted = inputs.astype(np.float32), np.eye(CLASSES, dtype=np.float32)[labels]
    return Data(
        inputs[:train].reshape(-1, 1),
        np.repeat(wanted[:train], task.time, axis=0),
        np.arange(train) * task.time,
        inputs[train:, :, None],
        wanted[train:],
    )


def _labelled(task: Task, parts: int = 5) -> SequenceData:
    train, wanted = load(task.name).train, RECIPES[task.name]
    preparation = SequencePreparation.fit(train.inputs, differences=wanted.differences, frame=wanted.frame)
    inputs = [preparation.features(preparation.scaled(one)) for one in train.inputs]
    targets = np.eye(task.outputs, dtype=np.float32)[train.labels]
    part = folds(train.labels, parts, seed=0)
    learned, valid = np.flatnonzero(part), np.flatnonzero(part == 0)
    return SequenceData([inputs[i] for i in learned], targets[learned], [inputs[i] for i in valid], targets[valid])


def epoch_flops(task: Task) -> int:
    """Floating-point operations of the matrix products in one epoch of a simple RNN that is judged at the last
    step. The inputs of every layer but the first get a gradient."""
    windows = len(data_of(task).starts)
    flops, below = 0, 1
    for number, hidden in enumerate(task.hidden):
        shape = Shape(windows, task.time, below, hidden)
        flops += 3 * shape.forward_flops(1) if number else shape.training_flops(1)
        below = hidden
    return flops


def score(task: Task, outputs: np.ndarray, wanted: np.ndarray) -> float:
    """The validation metric: the mean absolute error, or the share of right answers."""
    if task.classifies:
        return float((outputs.argmax(-1) == wanted.argmax(-1)).mean())
    return float(np.abs(outputs - wanted).mean())
