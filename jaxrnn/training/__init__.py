"""Training: steps and epochs as compiled programs, early stopping, checkpoints, the learning-rate range test.

The shortest training, of a model that forecasts the next value of a series ``[time, 1]`` from its last 20. Pass
``progress=True`` to :func:`fit` to watch it, and ``evaluate=`` to choose the best epoch by validation metrics.

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

:func:`save_model` and :func:`load_model` keep a trained model. To keep a training, which can then go on where it
was stopped, give :func:`fit` a store of checkpoints and resume the run from it first. The same way leads from the
folder of a training that has ended to its best model:

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder, training.CheckpointStore(folder) as store:
...     for epochs in (1, 2):  # as two starts of one program
...         run = training.Run.create(training.TrainState.create(params, optimizer)).resumed(store)
...         run = training.fit(run, epoch, epochs=epochs, checkpoints=store)
...     model = run.resumed(store).best_model(make)
>>> [row["epoch"] for row in run.history]
[1, 2]
"""

from jaxrnn.training.apply import pure_apply
from jaxrnn.training.checkpoint import CheckpointError, Checkpoints, CheckpointStore, Restored
from jaxrnn.training.distributed import EXIT_CODES
from jaxrnn.training.epochs import Epoch, SteppedEpoch, make_sequential_epoch, make_windowed_epoch
from jaxrnn.training.fit import describe_divergence, fit
from jaxrnn.training.lr_range import LRRangeTest, exponential_rates, lr_range_test
from jaxrnn.training.model_files import load_model, save_model
from jaxrnn.training.optimizers import OPTIMIZERS, learning_rate_of, make_optimizer, with_learning_rate
from jaxrnn.training.run import EarlyStopping, Run
from jaxrnn.training.state import Batch, StepMetrics, Totals, TrainState
from jaxrnn.training.step import huber, make_train_step, train_step
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
    "StepMetrics",
    "SteppedEpoch",
    "Totals",
    "TrainState",
    "describe_divergence",
    "exponential_rates",
    "fit",
    "huber",
    "learning_rate_of",
    "load_model",
    "lr_range_test",
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
