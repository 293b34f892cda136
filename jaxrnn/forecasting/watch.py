"""Trainings of a forecaster that are watched from outside: progress, checkpoints, and a stop by a signal."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from jaxrnn.training import CheckpointStore, Run, SteppedEpoch, fit


@dataclass(frozen=True)
class Watch:
    """How the networks of one forecaster are trained.

    Attributes:
      folder: where the checkpoints of each network are kept. Networks whose checkpoints are there already are not
        trained again, and one that was interrupted goes on. None keeps none.
      report: called before each part of a training, with the share that is done of all networks, from 0 to 1, the
        number of the network, from 1, and how many there are.
      progress: show a bar for each network.
    """

    folder: Path | None = None
    report: Callable[[float, int, int], None] | None = None
    progress: bool = False

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
