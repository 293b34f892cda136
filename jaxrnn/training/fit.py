"""Epoch after epoch until it stops getting better: early stopping, the best model, saving, stopping in order."""

import math
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from jaxrnn.training.checkpoint import BackgroundSaver, Checkpoints, Saves, copied
from jaxrnn.training.distributed import NAMES, StopSignals, local, processes
from jaxrnn.training.epochs import Epoch, SteppedEpoch
from jaxrnn.training.optimizers import learning_rate_of
from jaxrnn.training.progress import epoch_progress
from jaxrnn.training.run import Run
from jaxrnn.training.state import StepMetrics, TrainState

SECONDS_PER_CALL = 0.5
"""How long a signal may have to wait: so many seconds of steps run between two looks at the clock."""


def fit(
    run: Run,
    train_epoch: Epoch,
    evaluate: Callable[[TrainState], Mapping[str, Any]] | None = None,
    *,
    epochs: int,
    monitor: str | None = None,
    on_epoch: Callable[[Run], None] | None = None,
    progress: bool = False,
    checkpoints: Saves | None = None,
    save_every: float | None = 30.0,
    save_every_steps: int | None = None,
    max_save_seconds: float = 600.0,
    max_skipped: int = 10,
    mesh: Mesh | None = None,
) -> Run:
    """Train until ``epochs`` are done, patience runs out, training diverges, or a signal asks it to stop.

    The best parameters are copied in memory whenever the monitored metric improves, and written with the latest
    state at the stated interval and at the end, by a thread of their own. A save that fails is a warning: training
    goes on, and what was saved before is intact.

    SIGTERM, SIGHUP and Ctrl-C let the running steps finish (about half a second of them), save, also in the middle
    of an epoch, and return; a second Ctrl-C stops at once. Under ``jax.distributed`` every process calls this with
    its own share of the devices in the mesh; a signal to one stops all of them after the same step, and the first
    one saves.

    Steps whose loss or gradient is not finite are skipped (see :func:`jaxrnn.training.train_step`), counted in the
    history and warned of.

    Args:
      run: a new :meth:`Run.create`, or a restored one to go on with.
      train_epoch: from a train state (which it may donate) to the next one and metrics with ``loss`` and
        ``grad_norm``. One of :func:`jaxrnn.training.make_windowed_epoch` or
        :func:`jaxrnn.training.make_sequential_epoch` can be stopped and saved between its steps, any other
        function between epochs.
      evaluate: from a train state to validation metrics, among them ``monitor``. None: there are none.
      epochs: how many epochs in all, those of a restored run included.
      monitor: the metric that decides which epoch is best: by default ``valid_loss``, and without ``evaluate`` the
        ``loss`` of the training.
      on_epoch: called after every epoch.
      progress: show a progress bar on standard error, with the losses and the time left.
      checkpoints: where to save: a :class:`jaxrnn.training.CheckpointStore`, or an object with the same ``save``.
        Checkpoints are numbered by steps, or by epochs if ``train_epoch`` cannot be stopped between its steps.
      save_every: seconds between saves; None for none by the clock.
      save_every_steps: save after every so many steps too, counted from the run's first.
      max_save_seconds: for how long training waits for the save before, when the next one is due, or at its end. A
        save that takes longer is a warning, and training goes on without it; after a signal it waits for a minute
        at most.
      max_skipped: after so many skipped steps in a row the run has diverged, and stops.
      mesh: spread every batch over the devices of this mesh of one axis.

    Returns:
      The same run, further on. ``best_params`` holds the best epoch's parameters and ``stopped`` says why it
      ended.

    Raises:
      ValueError: a number is below 1, or a mesh is given for a function that cannot be spread over it.
      CheckpointError: ``checkpoints`` holds higher steps of an earlier run.
    """
    for name, value in (("epochs", epochs), ("save_every_steps", save_every_steps), ("max_skipped", max_skipped)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if save_every is not None and not save_every >= 0:
        raise ValueError(f"{save_every=} must be seconds, 0 or more, or None")
    if not max_save_seconds > 0:
        raise ValueError(f"{max_save_seconds=} must be above 0")
    if checkpoints is not None and not hasattr(checkpoints, "save"):
        raise ValueError(f"checkpoints must be a CheckpointStore, not {checkpoints!r}")
    monitor = monitor or ("loss" if evaluate is None else "valid_loss")
    stepped = train_epoch if isinstance(train_epoch, SteppedEpoch) else None
    if mesh is not None:
        if stepped is None:
            raise ValueError("mesh= needs an epoch of make_windowed_epoch or make_sequential_epoch")
        train_epoch = stepped = stepped.over(mesh)
    if isinstance(checkpoints, Checkpoints):
        processes.on_main(partial(checkpoints.require_newest, _number(run, stepped)))
    run.stopped, run.save_error = None, None
    pace = _Pace(save_every, save_every_steps)
    main = processes.is_main()
    warned = False
    bar = epoch_progress(epochs, monitor, done=run.epochs_run) if progress and main else nullcontext()
    with (
        StopSignals() as signals,
        bar as show,
        BackgroundSaver(
            checkpoints if main else None,
            max_wait=max_save_seconds,
            stopping=lambda: signals.received is not None,
        ) as saver,
    ):
        while run.stopped is None and run.epochs_run < epochs and not run.patience_is_over:
            began = time.perf_counter()
            done, wanted, in_a_row = True, 0, 0
            while True:
                if stepped is None:
                    run.state, metrics = train_epoch(run.state)
                    metrics = jax.device_get(metrics)
                else:
                    done, in_a_row, metrics = pace.advance(run, stepped)
                    if in_a_row >= max_skipped:
                        run.stopped = "diverged"
                wanted = _agreed_signal(signals, pace)
                if done or run.stopped or wanted:
                    break
                if pace.save_is_due(run):
                    _save(run, saver, stepped)
            if done:
                evaluated = {} if evaluate is None else evaluate(run.state)
                if not isinstance(evaluated, Mapping) or (evaluate is not None and monitor not in evaluated):
                    raise ValueError(f"evaluate must return a dictionary with {monitor=} in it, not {evaluated!r}")
                row = _row(run, metrics, evaluated, stepped, time.perf_counter() - began)
                if run.stopping.update(row["epoch"], row[monitor]):
                    run.best_params = copied(local(run.state.best_guess))
                run.history.append(row)
                # A loss that is not finite although no step was skipped: a function that does not skip them.
                if not math.isfinite(row[monitor]) or (not in_a_row and not math.isfinite(row["loss"])):
                    run.stopped = "diverged"
                if row["skipped"] and not warned and run.stopped is None:
                    warned = True
                    warnings.warn(_describe_skipped(run, row), stacklevel=2)
            if wanted and run.stopped is None:
                run.stopped = NAMES[signal.Signals(wanted)]
            if done and show is not None:
                show(run)
            if done and on_epoch is not None:
                on_epoch(run)
            if run.stopped is None and pace.save_is_due(run):
                _save(run, saver, stepped)
        if run.stopped is None:
            run.stopped = "patience" if run.patience_is_over else "epochs"
        _save(run, saver, stepped)
        saver.wait()
        run.save_error = processes.share(saver.error)
    return run


def describe_divergence(run: Run) -> str:
    """What to tell a user whose run diverged: the epoch, the learning rate, and what helps."""
    skipped = int(local(run.state.skipped_in_a_row))
    in_which = run.epochs_run + (int(local(run.state.position)) > 0)
    what = f"the last {skipped} steps were not" if skipped else "the loss was not"
    return (
        f"{what} finite in epoch {in_which}{_at_rate(run.state)}: the run stopped. "
        f"Look for values that are not finite in the data; if there are none, a smaller learning rate or gradient "
        f"clipping helps."
    )


def _describe_skipped(run: Run, row: Mapping[str, Any]) -> str:
    return (
        f"{row['skipped']} steps of epoch {row['epoch']} were skipped{_at_rate(run.state)}: their loss or "
        f"gradient was not finite. Look for values that are not finite in the data, or lower the rate; in further "
        f"epochs they are only counted, in the history."
    )


def _at_rate(state: TrainState) -> str:
    rates = getattr(state.opt_state, "hyperparams", {})
    return f", at a learning rate of {learning_rate_of(state):.3g}" if "learning_rate" in rates else ""


def _row(
    run: Run, metrics: StepMetrics, evaluated: Mapping[str, Any], stepped: SteppedEpoch | None, seconds: float
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "epoch": run.epochs_run + 1,
        "loss": float(metrics.loss),
        "grad_norm": float(metrics.grad_norm),
        "skipped": int(local(run.state.totals.skipped)) if stepped is not None else 0,
    }
    row |= {name: float(value) for name, value in evaluated.items()}
    # On different processors an evaluation may differ in its last bit, and all must come to the same decisions.
    return processes.share(row | {"seconds": seconds})


def _save(run: Run, saver: BackgroundSaver, stepped: SteppedEpoch | None) -> None:
    saver.save(_number(run, stepped), run.arrays, run.record)


def _number(run: Run, stepped: SteppedEpoch | None) -> int:
    """The number of a checkpoint that is saved now."""
    return run.epochs_run if stepped is None else int(local(run.state.step))


def _agreed_signal(signals: StopSignals, pace: "_Pace") -> int:
    """The strongest signal that any process has received, or 0; and the main process's idea of the next call."""
    gathered = processes.gather([signals.received or 0, pace.steps])
    pace.steps = int(gathered[0, 1])
    return int(gathered[:, 0].max())


class _Pace:
    """How many steps to run before looking up, and when to save."""

    def __init__(self, save_every: float | None, save_every_steps: int | None):
        self.steps = 1  # the first call compiles, and the second shows how long a step takes
        self._save_every, self._save_every_steps = save_every, save_every_steps
        self._saved_at, self._saved_step = time.perf_counter(), -1
        self._calls, self._step = 0, 0

    def advance(self, run: Run, epoch: SteppedEpoch) -> tuple[bool, int, StepMetrics]:
        """(Whether the epoch is done, steps skipped in a row, the epoch's mean metrics so far), waited for."""
        before = self._step = int(local(run.state.step))
        steps = self.steps
        if self._save_every_steps is not None:
            steps = min(steps, self._save_every_steps - before % self._save_every_steps)
        began = time.perf_counter()
        run.state, metrics = epoch.advance(run.state, steps)
        state = run.state
        found = jax.device_get(local((state.step, state.position, state.skipped_in_a_row, metrics)))
        self._step, position, in_a_row, metrics = found
        self._step = int(self._step)
        if self._calls:
            seconds_per_step = (time.perf_counter() - began) / (self._step - before)
            self.steps = max(1, min(int(SECONDS_PER_CALL / seconds_per_step), 16 * steps))
        self._calls += 1
        return position == 0, int(in_a_row), metrics

    def save_is_due(self, run: Run) -> bool:
        due = self._save_every is not None and time.perf_counter() - self._saved_at > self._save_every
        if self._save_every_steps is not None and self._step != self._saved_step:
            due |= self._step > 0 and self._step % self._save_every_steps == 0
        if due:
            self._saved_at, self._saved_step = time.perf_counter(), self._step
        return due
