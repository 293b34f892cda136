"""The cost of training that survives: the course training as `fit` runs it, and the same epochs without any of it.

    python -m benchmarks.training_cost                     # about ten minutes
    python -m benchmarks.training_cost --repetitions 2

"with" skips steps that are not finite, checks for signals, can stop within an epoch, keeps the history and the
best model, and saves the run and syncs it to disk once a call; by default a training saves every 30 s, which is
less often. "without" makes one compiled call and one evaluation an epoch, waits for their results, and copies the
best parameters.

Both take turns in one process; wall-clock and processor time are compared pair by pair. On a machine that does
something else as well, the ratio of the processor times is the one to read.
"""

import math
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from benchmarks.common.command import RecordOptions, command
from benchmarks.common.timing import Spread, turns
from experiments.common.pipeline import Forecasting, load
from experiments.common.recipes import RECIPES, Task
from jaxrnn.training import CheckpointStore, Run, fit
from jaxrnn.training.checkpoint import copied

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


@dataclass(frozen=True)
class CostOptions(RecordOptions):
    """What to train, and how long."""

    repetitions: int = 10
    """Pairs."""

    epochs: int = 200
    """A call: about ten seconds of seq2vec."""

    task: Task = "seq2vec"
    """Of the course recipe."""


def run(options: CostOptions) -> None:
    config = replace(RECIPES["course"][options.task], epochs=options.epochs, patience=None)
    forecasting = Forecasting(config, load(config))
    with tempfile.TemporaryDirectory() as folder:
        found = measure(contestants(forecasting, Path(folder)), options.repetitions)
    sizes = {"epochs_a_call": options.epochs, "repetitions": options.repetitions}
    result: dict[str, Any] = {"task": options.task, **sizes}
    for clock, seconds in found.items():
        cost = Spread.of([100 * (a / b - 1) for a, b in zip(seconds["with"], seconds["without"])])
        medians = {name: Spread.of(values).median for name, values in seconds.items()}
        result[clock] = {
            "ms_an_epoch": {name: round(1000 * s / options.epochs, 3) for name, s in medians.items()},
            "cost_percent": {name: round(value, 2) for name, value in cost._asdict().items()},
        }
    options.write("training-cost", ("jax", "flax", "orbax-checkpoint"), result)


def contestants(forecasting: Forecasting, folder: Path) -> dict[str, Callable[[], None]]:
    """The same training, with all that makes it survive and without."""
    epochs, optimizer = forecasting.config.epochs, forecasting.optimizer()
    state, epoch = forecasting.start(optimizer)
    first, plain_epoch = forecasting.start(optimizer, skip_non_finite=False)

    def with_all() -> None:
        with CheckpointStore(tempfile.mkdtemp(dir=folder)) as store:
            fit(Run.create(copied(state)), epoch, forecasting.evaluate, epochs=epochs, checkpoints=store)

    def without() -> None:
        now, best, kept = copied(first), math.inf, None
        for _ in range(epochs):
            now, metrics = plain_epoch(now)
            float(metrics.loss)
            value = float(forecasting.evaluate(now)["valid_loss"])
            if value < best:
                best, kept = value, copied(now.params)
        jax.block_until_ready(kept)

    return {"with": with_all, "without": without}


def measure(calls: dict[str, Callable[[], None]], repetitions: int) -> dict[str, dict[str, list[float]]]:
    """Seconds by clock and contestant; in random order, after one call of each that is not measured."""
    warnings.simplefilter("error")
    for call in calls.values():
        call()
    found = {clock: {name: [] for name in calls} for clock in CLOCKS}
    for order in turns(calls, repetitions):
        for name in order:
            began = {clock: read() for clock, read in CLOCKS.items()}
            calls[name]()
            for clock, read in CLOCKS.items():
                found[clock][name].append(read() - began[clock])
    return found


main = command(CostOptions, run, "training_cost", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
