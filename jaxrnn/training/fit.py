"""The training loop, with early stopping, the best parameters, checkpoints, and a clean stop on signals."""

import math
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrnn import checks
from jaxrnn.training.checkpoint import BackgroundSaver, Checkpoints, Saves, copied
from jaxrnn.training.distributed import NAMES, StopSignals, local, processes
from jaxrnn.training.optimizers import learning_rate_of
from jaxrnn.training.progress import epoch_progress
from jaxrnn.training.run import Run
from jaxrnn.training.state import StepMetrics, TrainState
from jaxrnn.training.stepped import Epoch, SteppedEpoch
from jaxrnn.training.together import join

_OF_TRAINING = {"loss", "grad_norm"}
"""What can be monitored of the training itself."""

_OWN = {"epoch", "loss", "grad_norm", "skipped", "seconds"}
"""What every row of the history has, whatever ``evaluate`` returns."""

SECONDS_PER_CALL = 0.5
"""How many seconds of steps one call runs. Signals and the clock are checked between calls."""


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

    The best parameters are copied in memory whenever the monitored metric improves. A thread writes them and the
    latest state at the given interval and at the end. If a save fails, there is a warning and training continues;
    earlier checkpoints stay intact.

    After SIGTERM, SIGHUP or Ctrl-C, the running steps finish (about half a second of them), the state is saved,
    also in the middle of an epoch, and the function returns. A second Ctrl-C stops at once.

    Under ``jax.distributed`` every process calls this with the same arguments: a mesh of the devices of all
    processes, and the whole data, of which each process trains on its own rows. They begin with the state of the
    main process, which saves; ``checkpoints`` of the others are not used. A signal to one stops all of them after
    the same step.

    Steps whose loss or gradient is not finite are skipped (see :func:`jaxrnn.training.train_step`). The history
    counts them, and the first epoch that has any gives a warning.

    Args:
      run: a new :meth:`Run.create`, or a restored run to continue.
      train_epoch: a function from a train state (which it may donate) to the next state and metrics with ``loss``
        and ``grad_norm``. A :class:`SteppedEpoch`, such as :func:`jaxrnn.training.make_windowed_epoch` makes, can
        be stopped and saved between its steps; any other function only between epochs.
      evaluate: a function from a train state to a dictionary of validation metrics, one number each.
      epochs: the number of epochs in all, including those of a restored run.
      monitor: the metric that decides which epoch is best; lower is better: one that ``evaluate`` returns, or
        ``loss`` or ``grad_norm`` of the training. The default is ``valid_loss``, or without ``evaluate`` the
        training ``loss``.
      on_epoch: called after every epoch.
      progress: show a progress bar on standard error, with the losses and the time left.
      checkpoints: where to save: a :class:`jaxrnn.training.CheckpointStore`, or an object with the same ``save``.
        Checkpoints are numbered by steps, or by epochs if ``train_epoch`` cannot be stopped between its steps.
      save_every: seconds between saves; None does not save by the clock.
      save_every_steps: also save after every multiple of this number of steps.
      max_save_seconds: how long training waits for the previous save when the next is due, and for the last save.
        After that there is a warning, and training continues without it. After a signal it waits for at most a
        minute.
      max_skipped: after this many skipped steps in a row, the run has diverged and stops. They are counted at the
        end of each call, which runs steps for about half a second.
      mesh: a mesh of one axis, over whose devices every batch is spread. With several processes it holds the
        devices of all, such as ``jax.sharding.Mesh(jax.devices(), ("batch",))``. If there is none, each process
        trains the same model, with a warning.

    Returns:
      The same run, after training. ``best_params`` holds the best epoch's parameters and ``stopped`` says why it
      ended.

    Raises:
      ValueError: ``run`` is no :class:`Run`, a number is out of range, ``evaluate`` does not return ``monitor``,
        or returns a name of the history's own or a metric that is no number, ``monitor`` is neither of the
        training nor evaluated, or a mesh is given for a function that cannot be spread over it; or processes that
        train together have different arguments, data or shapes, which the message names.
      CheckpointError: ``checkpoints`` holds higher steps of an earlier run.

    The docstring of :mod:`jaxrnn.training` has examples.
    """
    if not isinstance(run, Run):
        raise ValueError(
            f"run must be a jaxrnn.training.Run, not {checks.shown(run)}: make one with "
            f"Run.create(TrainState.create(params, optimizer))"
        )
    for name, value in (("epochs", epochs), ("max_skipped", max_skipped)):
        checks.positive_integer(name, value)
    checks.positive_integer_or_none("save_every_steps", save_every_steps)
    if save_every is not None and not save_every >= 0:
        raise ValueError(f"{save_every=} must be a number of seconds, at least 0, or None")
    if not max_save_seconds > 0:
        raise ValueError(f"{max_save_seconds=} must be positive")
    if checkpoints is not None and not hasattr(checkpoints, "save"):
        raise ValueError(f"checkpoints must be a CheckpointStore, not {checkpoints!r}")
    monitor = monitor or ("loss" if evaluate is None else "valid_loss")
    if evaluate is None and monitor not in _OF_TRAINING:
        raise ValueError(f"{monitor=} needs evaluate=, a function whose dictionary has it; or monitor the 'loss'")
    stepped = train_epoch if isinstance(train_epoch, SteppedEpoch) else None
    if mesh is not None:
        if stepped is None:
            raise ValueError(
                "mesh= needs a SteppedEpoch: make train_epoch with make_windowed_epoch, make_sequential_epoch or "
                "make_streamed_epoch"
            )
        train_epoch = stepped = stepped.over(mesh)
    same = {"epochs": epochs, "monitor": monitor, "max_skipped": max_skipped, "save_every_steps": save_every_steps}
    join(run, stepped, same, saves=checkpoints is not None)
    processes.on_main(partial(_require_newest, checkpoints, run, stepped))
    run.stopped, run.save_error = None, None
    pace = _Pace(run, save_every, save_every_steps)
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
                    pace.done(run)
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
                if not isinstance(evaluated, Mapping) or monitor not in {*evaluated, *_OF_TRAINING}:
                    raise ValueError(f"evaluate must return a dictionary with {monitor=} in it, not {evaluated!r}")
                if own := sorted(_OWN & set(evaluated)):
                    raise ValueError(
                        f"evaluate returned {own}, which the history has of the training itself: choose another "
                        f"name, such as valid_loss"
                    )
                row = _row(run, metrics, evaluated, stepped, time.perf_counter() - began)
                if run.stopping.update(row["epoch"], row[monitor]):
                    run.best_params = copied(local(run.state.best_guess))
                run.history.append(row)
                # If all steps of an epoch were skipped, there is no loss, and how many those are decides. If none
                # was, and the loss is not finite, train_epoch does not skip such steps.
                judged = [] if in_a_row else [row["loss"]]
                if monitor in evaluated or not in_a_row:
                    judged.append(row[monitor])
                if not all(map(math.isfinite, judged)):
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
    """A message for users whose run diverged, with the epoch, the learning rate, and what to try."""
    skipped = int(local(run.state.skipped_in_a_row))
    epoch = run.epochs_run + (int(local(run.state.position)) > 0)
    problem = f"the last {skipped} steps were not" if skipped else "the loss was not"
    return (
        f"{problem} finite in epoch {epoch}{_at_rate(run.state)}: the run stopped. "
        f"Look in the data for values that are not finite, and for numbers of classes that the model does not "
        f"have; if there are none, try a smaller learning rate or "
        f"gradient clipping."
    )


def _describe_skipped(run: Run, row: Mapping[str, Any]) -> str:
    return (
        f"{row['skipped']} steps of epoch {row['epoch']} were skipped{_at_rate(run.state)}: their loss or "
        f"gradient was not finite. Look for values that are not finite in the data, or lower the learning rate. "
        f"Later epochs only count skipped steps in the history."
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
    row |= {name: _as_number(name, value) for name, value in evaluated.items()}
    # Evaluations may differ in the last bit between processors, but all processes must decide the same.
    return processes.share(row | {"seconds": seconds})


def _as_number(name: str, value: Any) -> float:
    try:
        return float(value if np.ndim(value) == 0 else np.asarray(value).item())
    except (TypeError, ValueError):
        raise ValueError(f"evaluate returned {checks.shown(value)} as {name}: it must be one number") from None


def _save(run: Run, saver: BackgroundSaver, stepped: SteppedEpoch | None) -> None:
    saver.save(_number(run, stepped), run.arrays, run.record)


def _require_newest(checkpoints: Saves | None, run: Run, stepped: SteppedEpoch | None) -> None:
    if isinstance(checkpoints, Checkpoints):
        checkpoints.require_newest(_number(run, stepped))


def _number(run: Run, stepped: SteppedEpoch | None) -> int:
    """The number of a checkpoint that is saved now."""
    return run.epochs_run if stepped is None else int(local(run.state.step))


def _agreed_signal(signals: StopSignals, pace: "_Pace") -> int:
    """The highest signal number that any process has received, or 0. Also agrees on the steps of the next call."""
    gathered = processes.gather([signals.received or 0, pace.steps])
    pace.steps = int(gathered[0, 1])
    return int(gathered[:, 0].max())


class _Pace:
    """Decides how many steps each call runs, and when to save."""

    def __init__(self, run: Run, save_every: float | None, save_every_steps: int | None):
        self.steps = 1  # the first call compiles; the second is timed
        self._save_every, self._save_every_steps = save_every, save_every_steps
        self._calls, self._step = 0, 0
        self.done(run)
        self._saved_at, self._saved_step = time.perf_counter(), self._step

    def advance(self, run: Run, epoch: SteppedEpoch) -> tuple[bool, int, StepMetrics]:
        """Run a call's steps and wait for them.

        Returns whether the epoch is done, the steps skipped in a row, and the epoch's mean metrics so far.
        """
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

    def done(self, run: Run) -> None:
        """Some steps were run by a plain function."""
        if self._save_every_steps is not None:
            self._step = int(local(run.state.step))

    def save_is_due(self, run: Run) -> bool:
        due = self._save_every is not None and time.perf_counter() - self._saved_at > self._save_every
        if self._save_every_steps is not None:
            due |= self._step // self._save_every_steps > self._saved_step // self._save_every_steps
        if due:
            self._saved_at, self._saved_step = time.perf_counter(), self._step
        return due
