"""Training: steps and epochs as compiled programs, early stopping, checkpoints, the learning-rate range test.

The following is the shortest training run. The model forecasts the next value of a series ``[time, 1]`` from the
last 20 values. Pass ``progress=True`` to :func:`fit` for a progress bar, and ``evaluate=`` to choose the best
epoch by a validation metric.

>>> import jax.numpy as jnp
>>> from flax import nnx
>>> from jaxrnn import RNNForecaster, training
>>> series = jnp.sin(jnp.arange(200.0) / 3)[:, None]
>>> make = lambda: RNNForecaster(hidden_features=8, rngs=nnx.Rngs(0))
>>> apply, params = training.pure_apply(make)
>>> optimizer = training.make_optimizer("adam", 1e-2)
>>> run = training.Run.create(training.TrainState.create(params, optimizer))
>>> windows = dict(features=series, targets=series[1:], starts=jnp.arange(179), window=20)
>>> epoch = training.make_windowed_epoch(
...     apply, optimizer, training.huber, **windows, batch_size=32, every_step=False)
>>> model = training.fit(run, epoch, epochs=30).best_model(make)
>>> bool(abs(model(series[None, -21:-1]) - series[-1]).max() < 0.1)
True

:func:`save_model` and :func:`load_model` store a trained model. To store a training run that can be continued,
resume the run from a checkpoint store, and give the store to :func:`fit`. The store also gives back the best model
of a run that has ended:

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder, training.CheckpointStore(folder) as store:
...     for epochs in (1, 2):  # as if one program was started twice
...         run = training.Run.create(training.TrainState.create(params, optimizer)).resumed(store)
...         run = training.fit(run, epoch, epochs=epochs, checkpoints=store)
...     model = run.resumed(store).best_model(make)
>>> [row["epoch"] for row in run.history]
[1, 2]
"""

from jaxrnn.training.apply import make_initializer, pure_apply
from jaxrnn.training.bucketed import Sequences, bucketed_outputs, make_bucketed_epoch
from jaxrnn.training.checkpoint import CheckpointError, Checkpoints, CheckpointStore, Restored
from jaxrnn.training.classification import (
    accuracy,
    balanced_class_weights,
    confusion_matrix,
    cross_entropy,
    macro_f1,
)
from jaxrnn.training.distributed import EXIT_CODES
from jaxrnn.training.epochs import make_sequential_epoch, make_windowed_epoch
from jaxrnn.training.fit import describe_divergence, fit
from jaxrnn.training.lr_range import LRRangeTest, exponential_rates, lr_range_test
from jaxrnn.training.model_files import load_model, save_model
from jaxrnn.training.optimizers import OPTIMIZERS, learning_rate_of, make_optimizer, with_learning_rate
from jaxrnn.training.run import EarlyStopping, Run
from jaxrnn.training.state import Batch, StepMetrics, Totals, TrainState
from jaxrnn.training.step import huber, make_train_step, train_step
from jaxrnn.training.stepped import Epoch, SteppedEpoch
from jaxrnn.training.streams import make_streamed_epoch

__all__ = [
    "EXIT_CODES",
    "OPTIMIZERS",
    "Batch",
    "CheckpointError",
    "CheckpointStore",
    "Checkpoints",
    "EarlyStopping",
    "Epoch",
    "LRRangeTest",
    "Restored",
    "Run",
    "Sequences",
    "StepMetrics",
    "SteppedEpoch",
    "Totals",
    "TrainState",
    "accuracy",
    "balanced_class_weights",
    "bucketed_outputs",
    "confusion_matrix",
    "cross_entropy",
    "describe_divergence",
    "exponential_rates",
    "fit",
    "huber",
    "learning_rate_of",
    "load_model",
    "lr_range_test",
    "macro_f1",
    "make_bucketed_epoch",
    "make_initializer",
    "make_optimizer",
    "make_sequential_epoch",
    "make_streamed_epoch",
    "make_train_step",
    "make_windowed_epoch",
    "pure_apply",
    "save_model",
    "train_step",
    "with_learning_rate",
]
