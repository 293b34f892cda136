"""Trainings of a forecaster that are watched from outside: progress, checkpoints, and a stop by a signal."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxrnn.forecasting.one_series import OneSeries
from jaxrnn.forecasting.settings import Settings
from jaxrnn.training import CheckpointStore, Run, SteppedEpoch, fit


@dataclass(frozen=True)
class Watch:
    """How the networks of one forecaster are trained.

    Attributes:
      folder: where the checkpoints of each network are kept, in a folder of their own for each training, which is
        named after its series and settings. Networks whose checkpoints are there already are not trained again,
        and one that was interrupted goes on. Other series or settings are another training, and so is the one of
        a backtest. None keeps none.
      report: called before each part of a training, with the share that is done of all networks, from 0 to 1, the
        number of the network, from 1, and how many there are.
      progress: show a bar for each network.
    """

    folder: Path | None = None
    report: Callable[[float, int, int], None] | None = None
    progress: bool = False

    def of(self, settings: Settings, panel: Sequence[OneSeries]) -> "Watch":
        """The same for one training, with a folder of its own."""
        return self if self.folder is None else replace(self, folder=self.folder / _name(settings, panel))

    def train(self, run: Run, epoch: SteppedEpoch, *, epochs: int, number: int, count: int) -> Run:
        """Train one network, or go on with it, as :func:`jaxrnn.training.fit` does.

        Args:
          run: a new run.
          epoch: one epoch of its training.
          epochs: how many there are.
          number, count: which network this is, from 0, and how many there are.
        """
        store = None if self.folder is None else CheckpointStore(self.folder / f"network{number}")
        with store if store is not None else nullcontext():
            if store is not None:
                store.claim()
                run = run.resumed(store)
            if self.report is not None:
                epoch = _reporting(run, epoch, epochs, number, count, self.report)
            return fit(run, epoch, epochs=epochs, progress=self.progress, checkpoints=store)


def _name(settings: Settings, panel: Sequence[OneSeries]) -> str:
    """A name that is another one for other series or settings, those aside that change no network."""
    digest = hashlib.sha256(repr(replace(settings, quantiles=())).encode())
    for one in panel:
        digest.update(repr((one.name, one.step, sorted(one.static.items()))).encode())
        arrays = {"values": one.values, "observed": one.observed, "times": one.times}
        for name, array in {**arrays, **one.future, **one.past}.items():
            learned = np.ascontiguousarray(array[: len(one.values)])  # nothing is learned from later steps
            digest.update(repr((name, learned.dtype.str, len(learned))).encode())
            digest.update(learned.tobytes())
    return digest.hexdigest()[:16]


class TrainingStopped(KeyboardInterrupt):
    """A signal ended a training whose result is of no use before its end.

    Attributes:
      reason: ``"interrupted"`` (Ctrl-C) or ``"terminated"``.
    """

    def __init__(self, reason: str):
        super().__init__(f"the training was {reason}")
        self.reason = reason


def _reporting(
    run: Run, epoch: SteppedEpoch, epochs: int, number: int, count: int, report: Callable[[float, int, int], None]
) -> SteppedEpoch:
    def advance(state, stop, fresh=True):
        done = run.epochs_run + int(state.position) / epoch.steps
        report((number + done / epochs) / count, number + 1, count)
        return epoch.advance(state, stop - int(state.position))

    return SteppedEpoch(epoch.steps, advance, epoch.mesh, epoch.over)
