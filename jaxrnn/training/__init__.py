"""Training: steps and epochs as compiled programs, early stopping, checkpoints, the learning-rate range test."""

from jaxrnn.training.apply import pure_apply
from jaxrnn.training.checkpoint import CheckpointError, Checkpoints, CheckpointStore, Restored
from jaxrnn.training.distributed import EXIT_CODES
from jaxrnn.training.epochs import SteppedEpoch, make_sequential_epoch, make_windowed_epoch
from jaxrnn.training.fit import describe_divergence, fit
from jaxrnn.training.lr_range import LRRangeTest, exponential_rates, lr_range_test
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
    "lr_range_test",
    "make_optimizer",
    "make_sequential_epoch",
    "make_streamed_epoch",
    "make_train_step",
    "make_windowed_epoch",
    "pure_apply",
    "train_step",
    "with_learning_rate",
]
