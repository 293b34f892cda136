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
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import tyro

from benchmarks.common.report import write_record
from benchmarks.common.timing import Spread
from experiments.common.pipeline import Forecasting, load
from experiments.common.recipes import RECIPES, Task
from jaxrnn.training import CheckpointStore, Run, fit, huber, make_sequential_epoch, make_windowed_epoch
from jaxrnn.training.checkpoint import copied


@dataclass(frozen=True)
class Options:
    """What to train, and how long."""

    repetitions: int = 10
    """Pairs."""

    epochs: int = 200
    """A call: about ten seconds of seq2vec."""

    task: Task = "seq2vec"
    """Of the course recipe."""

    out: Path | None = None
    """The file for the result (default: benchmarks/results/training-cost.json)."""


def main(arguments: list[str] | None = None) -> int:
    options = tyro.cli(Options, prog="python -m benchmarks.training_cost", args=arguments, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        contestants = {"with": with_all(options, Path(folder)), "without": without(options)}
        found = measure(contestants, options.repetitions)
    result: dict[str, Any] = {
        "task": options.task,
        "epochs_a_call": options.epochs,
        "repetitions": options.repetitions,
    }
    for clock, pairs in found.items():
        cost = Spread.of([100 * (pair["with"] / pair["without"] - 1) for pair in pairs])
        medians = {name: Spread.of([pair[name] for pair in pairs]).median for name in contestants}
        result[clock] = {
            "ms_an_epoch": {name: round(1000 * s / options.epochs, 3) for name, s in medians.items()},
            "cost_percent": {name: round(value, 2) for name, value in cost._asdict().items()},
        }
        print(f"{clock}: {cost.median:+.2f} % (quartiles {cost.low:+.2f} to {cost.high:+.2f})")
    write_record(options.out, "training-cost", ("jax", "flax", "orbax-checkpoint"), result)
    return 0


def with_all(options: Options, folder: Path) -> Callable[[], None]:
    forecasting = _forecasting(options)
    state, epoch = forecasting.start(forecasting.optimizer())
    numbers = iter(range(10**9))

    def call() -> None:
        with CheckpointStore(folder / str(next(numbers))) as store:
            fit(Run.create(copied(state)), epoch, forecasting.evaluate, epochs=options.epochs, checkpoints=store)

    return call


def without(options: Options) -> Callable[[], None]:
    forecasting = _forecasting(options)
    config, optimizer = forecasting.config, forecasting.optimizer()
    state, _ = forecasting.start(optimizer)
    starts = jax.numpy.asarray(forecasting._train_starts())
    common: Any = dict(window=config.window, skip_non_finite=False)
    arrays = (forecasting.apply, optimizer, huber, forecasting.features, forecasting.targets, starts)
    if forecasting.stateful:
        epoch = make_sequential_epoch(*arrays, initial_carry=forecasting.initial_carry(), **common)
    else:
        common |= dict(batch_size=config.batch_size, every_step=forecasting.every_step)
        epoch = make_windowed_epoch(*arrays, **common)

    def call() -> None:
        now, best, kept = copied(state), math.inf, None
        for _ in range(options.epochs):
            now, metrics = epoch(now)
            float(metrics.loss)
            value = float(forecasting.evaluate(now)["valid_loss"])
            if value < best:
                best, kept = value, copied(now.params)
        jax.block_until_ready(kept)

    return call


def _forecasting(options: Options) -> Forecasting:
    config = replace(RECIPES["course"][options.task], epochs=options.epochs, patience=None)
    return Forecasting(config, load(config))


def measure(contestants: dict[str, Callable[[], None]], repetitions: int) -> dict[str, list[dict[str, float]]]:
    """Seconds by clock, one dict per pair; in random order, after one call of each that is not measured."""
    warnings.simplefilter("error")
    for call in contestants.values():
        call()
    clocks = {"wall": time.perf_counter, "processor": time.process_time}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in clocks}
    order = random.Random(0)
    for _ in range(repetitions):
        pairs: dict[str, dict[str, float]] = {name: {} for name in clocks}
        for name in order.sample(list(contestants), len(contestants)):
            began = {clock: read() for clock, read in clocks.items()}
            contestants[name]()
            for clock, read in clocks.items():
                pairs[clock][name] = read() - began[clock]
        for clock, pair in pairs.items():
            found[clock].append(pair)
    return found


if __name__ == "__main__":
    sys.exit(main())
