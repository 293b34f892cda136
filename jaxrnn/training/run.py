"""A training run: its state, its history, its best parameters, and when it should stop."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxrnn.training.apply import Model, model_with
from jaxrnn.training.checkpoint import Checkpoints, copied
from jaxrnn.training.distributed import local, processes
from jaxrnn.training.state import TrainState


@dataclass
class EarlyStopping:
    """Stop when a metric has not improved for ``patience`` epochs; lower is better.

    The losses of recurrent networks vary between epochs, so one bad epoch must not end a run. A metric that is
    not finite never counts as an improvement.

    Attributes:
      patience: after how many epochs without an improvement to stop; None never stops early.
      best: the lowest value so far.
      best_epoch: the epoch with that value, counted from 1; 0 before there is one.

    >>> stopping = EarlyStopping(patience=2)
    >>> [stopping.update(epoch, loss) for epoch, loss in enumerate([3.0, 2.0, float("nan"), 2.5], start=1)]
    [True, True, False, False]
    >>> stopping.best_epoch, stopping.should_stop(4)
    (2, True)
    """

    patience: int | None = None
    best: float = math.inf
    best_epoch: int = 0

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1, or None to never stop early, not {self.patience}")

    def update(self, epoch: int, value: float) -> bool:
        """Record the metric of an epoch. Returns whether it is the best so far."""
        improved = math.isfinite(value) and value < self.best
        if improved:
            self.best, self.best_epoch = value, epoch
        return improved

    def should_stop(self, epoch: int) -> bool:
        return self.patience is not None and epoch - self.best_epoch >= self.patience


@dataclass
class Run:
    """A training run: everything that is needed to continue it exactly, or to use its best model.

    Attributes:
      state: the latest train state.
      best_params: the parameters of the best epoch so far.
      stopping: the early-stopping counters.
      history: one dictionary per epoch: ``epoch``, ``loss``, ``grad_norm``, ``skipped`` (how many steps were
        skipped because they were not finite), the validation metrics, and ``seconds`` (wall time; for an epoch
        that was resumed, of the part since then).
      stopped: why the run ended: "epochs" (all are done), "patience", "diverged", "interrupted" (Ctrl-C),
        "terminated" (SIGTERM or SIGHUP), or None.
      save_error: why the last checkpoint could not be saved, or None.
    """

    state: TrainState
    best_params: Any
    stopping: EarlyStopping
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped: str | None = None
    save_error: str | None = None

    @classmethod
    def create(cls, state: TrainState, *, patience: int | None = None) -> "Run":
        return cls(state, copied(local(state.best_guess)), EarlyStopping(patience))

    @property
    def arrays(self) -> dict[str, Any]:
        return {"state": self.state, "best_params": self.best_params}

    @property
    def record(self) -> dict[str, Any]:
        return {
            "history": self.history,
            "best": self.stopping.best,
            "best_epoch": self.stopping.best_epoch,
            "stopped": self.stopped,
        }

    def restored(self, arrays: Any, record: Mapping[str, Any]) -> "Run":
        """A run with this one's patience, and the arrays and the record of a checkpoint."""
        stopping = EarlyStopping(self.stopping.patience, record["best"], record["best_epoch"])
        history = [dict(row) for row in record["history"]]
        return Run(arrays["state"], arrays["best_params"], stopping, history, record["stopped"])

    def resumed(self, checkpoints: Checkpoints) -> "Run":
        """Continue from the newest undamaged checkpoint; without any checkpoint, returns this run unchanged.

        If several processes train together, all of them call this. The main one reads and sends the values to the
        others.

        Raises:
          CheckpointError: no checkpoint can be loaded, or the checkpoint has other shapes than this run.
        """
        # With several processes, the main one alone cannot place arrays on devices of all: fit does that.
        arrays = [self.arrays if jax.process_count() == 1 else local(self.arrays)]

        def read() -> dict[str, Any] | None:
            if not checkpoints.steps():
                return None
            found = checkpoints.restore(arrays[0])
            arrays[0] = found.arrays
            return dict(found.record)

        record = processes.on_main(read)
        return self if record is None else self.restored(processes.share_arrays(arrays[0]), record)

    def best_model(self, model: Model) -> Any:
        """Make a new model with the best epoch's parameters.

        Args:
          model: the argument of :func:`jaxrnn.training.pure_apply`: a model, or a function that makes one.
        """
        return model_with(model, self.best_params)

    @property
    def best_row(self) -> dict[str, Any]:
        """The best epoch's row of the history; empty if no epoch has improved yet."""
        return self.history[self.stopping.best_epoch - 1] if self.stopping.best_epoch else {}

    @property
    def epochs_run(self) -> int:
        return len(self.history)

    @property
    def patience_is_over(self) -> bool:
        return self.epochs_run > 0 and self.stopping.should_stop(self.epochs_run)
