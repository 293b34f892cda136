"""Epoch after epoch until it stops getting better: early stopping, the best model, rollback, resume."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxrnn.training.epochs import Epoch
from jaxrnn.training.optimizers import learning_rate_of
from jaxrnn.training.state import TrainState


@dataclass
class EarlyStopping:
    """Stop when a metric has not improved for ``patience`` epochs; lower is better.

    RNN losses jump, so one bad epoch must not end a run: that is what patience is for. A metric that is not
    finite is never an improvement.

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
        """Take in an epoch's metric; True if it is the best so far."""
        improved = math.isfinite(value) and value < self.best
        if improved:
            self.best, self.best_epoch = value, epoch
        return improved

    def should_stop(self, epoch: int) -> bool:
        return self.patience is not None and epoch - self.best_epoch >= self.patience


class Checkpoints(Protocol):
    """Where :func:`fit` saves to: a :class:`jaxrnn.training.CheckpointStore`, or anything with its ``save``."""

    def save(self, step: int, arrays: Any, record: Mapping[str, Any] | None = None) -> None: ...


@dataclass
class Run:
    """A training run at some moment: all that is needed to go on exactly, or to use the best model.

    Attributes:
      state: the latest train state.
      best_params: the parameters of the best epoch so far.
      stopping: the early-stopping counters.
      history: a dict per epoch: epoch, loss, grad_norm, the validation metrics, seconds.
      stopped: why the run ended: "epochs" (all are done), "patience", "diverged", "interrupted", or None.
    """

    state: TrainState
    best_params: Any
    stopping: EarlyStopping
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped: str | None = None

    @classmethod
    def create(cls, state: TrainState, *, patience: int | None = None) -> "Run":
        return cls(state, _copy(state.best_guess), EarlyStopping(patience))

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
        """This run with the arrays and the record of a checkpoint in place of its own."""
        stopping = EarlyStopping(self.stopping.patience, record["best"], record["best_epoch"])
        history = [dict(row) for row in record["history"]]
        return Run(arrays["state"], arrays["best_params"], stopping, history, record["stopped"])

    @property
    def best_row(self) -> dict[str, Any]:
        """The history's row of the best epoch; empty before there is one."""
        return self.history[self.stopping.best_epoch - 1] if self.stopping.best_epoch else {}

    @property
    def epochs_run(self) -> int:
        return len(self.history)


def fit(
    run: Run,
    train_epoch: Epoch,
    evaluate: Callable[[TrainState], Mapping[str, Any]],
    *,
    epochs: int,
    monitor: str = "valid_loss",
    on_epoch: Callable[[Run], None] | None = None,
    checkpoints: Checkpoints | None = None,
    save_every: float = 30.0,
) -> Run:
    """Train until ``epochs`` are done, patience runs out, the loss is no longer finite, or Ctrl-C.

    The best parameters are copied in memory whenever the monitored metric improves and written with
    the latest state every ``save_every`` seconds and at the end. Ctrl-C lets the running epoch finish, saves
    and returns; a second Ctrl-C stops at once.

    Args:
      run: a new :meth:`Run.create`, or a restored one to go on with.
      train_epoch: from a train state (which it may donate) to the next one and metrics with ``loss`` and
        ``grad_norm``.
      evaluate: from a train state to validation metrics, among them ``monitor``.
      epochs: how many epochs in all, those of a restored run included.
      monitor: the metric that decides which epoch is best.
      on_epoch: called after every epoch, for progress.
      checkpoints: where to save.
      save_every: seconds between saves.

    Returns:
      The same run, further on. ``best_params`` holds the best epoch's parameters and ``stopped`` says why it
      ended.
    """
    if epochs < 1:
        raise ValueError(f"{epochs=} must be at least 1")
    saved_at = time.perf_counter()
    run.stopped = None
    with _interrupt_flag() as interrupted:
        while run.stopped is None and run.epochs_run < epochs and not _patience_is_over(run):
            began = time.perf_counter()
            run.state, metrics = train_epoch(run.state)
            epoch = run.epochs_run + 1
            row: dict[str, Any] = {"epoch": epoch, "loss": float(metrics.loss)}
            row["grad_norm"] = float(metrics.grad_norm)
            row |= {name: float(value) for name, value in evaluate(run.state).items()}
            row["seconds"] = time.perf_counter() - began
            if run.stopping.update(epoch, row[monitor]):
                run.best_params = _copy(run.state.best_guess)
            run.history.append(row)
            if not (math.isfinite(row["loss"]) and math.isfinite(row[monitor])):
                run.stopped = "diverged"
            elif interrupted.is_set():
                run.stopped = "interrupted"
            if on_epoch is not None:
                on_epoch(run)
            if checkpoints is not None and time.perf_counter() - saved_at > save_every:
                checkpoints.save(epoch, run.arrays, run.record)
                saved_at = time.perf_counter()
        if run.stopped is None:
            run.stopped = "patience" if _patience_is_over(run) else "epochs"
        if checkpoints is not None:
            checkpoints.save(run.epochs_run, run.arrays, run.record)
    return run


def describe_divergence(run: Run) -> str:
    """What to tell a user whose run diverged: the epoch, the learning rate, and what helps."""
    return (
        f"the loss was not finite in epoch {run.epochs_run}, at a learning rate of "
        f"{learning_rate_of(run.state):.3g}: the run stopped. "
        f"A smaller learning rate or gradient clipping helps."
    )


def _patience_is_over(run: Run) -> bool:
    return run.epochs_run > 0 and run.stopping.should_stop(run.epochs_run)


# Training donates its state, so what is to be kept must be a copy.
_copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


@contextlib.contextmanager
def _interrupt_flag() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag; the second one acts as usual.

    An exception in the middle of a step would lose the state, whose buffers were donated to that step.
    """
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield flag
        return

    def handle(signum: int, frame: Any) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, previous)
