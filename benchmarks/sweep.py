"""Time a sweep: 32 learning rates x 3 seeds of the forecast experiment, as one program and one after the other.

    python -m benchmarks.sweep              # about five minutes
    python -m benchmarks.sweep --quick      # 4 rates x 2 seeds, about a minute

The lesson's sequence-to-vector training (two SimpleRNN layers of 100 tanh units, batches of 128 windows of 30
steps in a new random order every epoch), its learning rate in the train state, so that one compiled epoch serves
every rate. Contestants, interleaved in one process on one device (benchmarks/timing.py):

    one after the other     the compiled epoch, called once for each run; native and scan
    vmap                    the same epoch under jax.vmap over all runs at once; native and scan
    vmap by eights          under jax.lax.map with batch_size=8: one program too, but it keeps less in memory

Under vmap the scan turns its products into batched ones; a native call is a foreign function that is made once for
each run, so vmap saves nothing there but the calls from Python. Before timing, the losses of two epochs of every
run must agree. Ratios are a contestant's time divided by that of the native one after the other: below 1, it is
faster. The table goes to benchmarks/results/.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from jax import Array

import jaxrnn
from benchmarks.epoch import BATCH, HIDDEN, OUTPUT_SCALE, WINDOW
from benchmarks.machine import describe, machine
from benchmarks.report import Table, check_writable, console, fail, progress, times, write_results
from benchmarks.timing import Timing, interleave, ratio, seconds_of
from jaxrnn.data import course_series, window_starts
from jaxrnn.data.series import COURSE_SPLIT
from jaxrnn.training import (
    TrainState,
    huber,
    make_optimizer,
    make_windowed_epoch,
    pure_apply,
    with_learning_rate,
)
from jaxrnn.training.epochs import Epoch

LOSS_TOLERANCE = 1e-3
"""Relative, between the losses of one run in two ways."""

CHECKED_EPOCHS = 2
RATES = (1e-8, 3e-6)
BASELINE = "one after the other, native"


@dataclass(frozen=True)
class Options:
    """What to sweep over, and how long to measure."""

    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """4 rates, 2 seeds and few repetitions, to see that everything works."""

    rates: int | None = None
    """Learning rates between 1e-8 and 3e-6 (default: 32, with --quick 4)."""

    seeds: int | None = None
    """Seeds for each rate (default: 3, with --quick 2)."""

    repetitions: int | None = None
    """Rounds, in each of which every contestant is timed twice (default: 3, with --quick 1)."""

    hidden: int = HIDDEN
    """Units of each layer."""

    out: Path | None = None
    """Folder for the results (default: benchmarks/results)."""


Sweep = Callable[[], Array]
"""One epoch of every run; their losses ``[runs]``."""


def main(arguments: list[str] | None = None) -> int:
    options = tyro.cli(Options, prog="python -m benchmarks.sweep", args=arguments, description=__doc__)
    try:
        return run(options)
    except (ValueError, OSError) as error:
        return fail(str(error))


def run(options: Options) -> int:
    rates = _or(options.rates, 4 if options.quick else 32)
    seeds = _or(options.seeds, 2 if options.quick else 3)
    repetitions = _or(options.repetitions, 1 if options.quick else 3)
    check_writable(options.out)
    on = machine()
    console.print(describe(on), soft_wrap=True)
    sweeps = contestants(rates, seeds, options.hidden)
    with progress(len(sweeps) * CHECKED_EPOCHS + repetitions) as update:
        first, losses = {}, {}
        for name, sweep in sweeps.items():
            for epoch in range(CHECKED_EPOCHS):
                update(description=f"{name}: epoch {epoch + 1}, to compare")
                kept: list[Array] = []
                seconds = seconds_of(lambda sweep=sweep, kept=kept: kept.append(sweep()) or kept[0])
                first.setdefault(name, seconds)
                losses[name] = np.asarray(kept[0])
                update(advance=1)
        largest = check(losses)
        update(description="timing")
        timings = interleave(sweeps, repetitions, first_calls=first, advance=lambda: update(advance=1))
    report(timings, rates, seeds, repetitions, largest, on, options)
    return 0


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def contestants(rates: int, seeds: int, hidden: int) -> dict[str, Sweep]:
    """All ways of training ``rates * seeds`` runs, each from the same first states."""
    found: dict[str, Sweep] = {}
    for implementation in ("native", "scan"):
        reason = _missing(implementation, hidden)
        if reason is not None:
            console.print(f"{implementation}: {reason}", markup=False, soft_wrap=True)
            continue
        epoch, states = training(implementation, rates, seeds, hidden)
        found[f"one after the other, {implementation}"] = _one_after_the_other(epoch, states)
        found[f"vmap, {implementation}"] = _as_one_program(jax.vmap(epoch), states)
        if implementation == "scan" and rates * seeds > 8:
            found["vmap by eights, scan"] = _as_one_program(
                lambda states, epoch=epoch: jax.lax.map(epoch, states, batch_size=8), states
            )
    return found


def _missing(implementation: str, hidden: int) -> str | None:
    cell = jaxrnn.SimpleRNNCell(1, hidden, rngs=nnx.Rngs(0))
    try:
        jaxrnn.RNN(cell, implementation=implementation)(jnp.ones((1, 2, 1)))
    except ValueError as error:
        return str(error)
    return None


def training(implementation: str, rates: int, seeds: int, hidden: int) -> tuple[Epoch, list[TrainState]]:
    """The compiled epoch, and a first state for every rate (outer) and seed (inner)."""
    series = jnp.asarray(course_series().values[:COURSE_SPLIT], jnp.float32)

    def model(key: Array) -> jaxrnn.RNNForecaster:
        made = jaxrnn.RNNForecaster(
            hidden_features=(hidden, hidden), output_scale=OUTPUT_SCALE, rngs=nnx.Rngs(key)
        )
        made.layers.implementation = implementation
        return made

    apply, _ = pure_apply(lambda: model(jax.random.key(0)))
    optimizer = make_optimizer("sgd", RATES[0])
    initialize = jax.jit(lambda seed: nnx.state(model(jax.random.key(seed))))
    epoch = make_windowed_epoch(
        apply,
        optimizer,
        huber,
        series[:-1],
        series[1:],
        jnp.asarray(window_starts(len(series) - 1, WINDOW)),
        window=WINDOW,
        batch_size=BATCH,
        every_step=False,
    )
    first = [TrainState.create(initialize(seed), optimizer, seed=seed) for seed in range(seeds)]
    states = [
        with_learning_rate(jax.tree.map(jnp.copy, state), float(rate))
        for rate in np.geomspace(*RATES, rates)
        for state in first
    ]
    return epoch, states


def _one_after_the_other(epoch: Epoch, states: list[TrainState]) -> Sweep:
    states = [jax.tree.map(jnp.copy, state) for state in states]

    def sweep() -> Array:
        losses = []
        for number, state in enumerate(states):
            states[number], metrics = epoch(state)
            losses.append(metrics.loss)
        return jnp.stack(losses)

    return sweep


def _as_one_program(epochs: Callable[[TrainState], Any], states: list[TrainState]) -> Sweep:
    compiled = jax.jit(epochs, donate_argnums=0)
    stacked: Any = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    def sweep() -> Array:
        nonlocal stacked
        stacked, metrics = compiled(stacked)
        return metrics.loss

    return sweep


def check(losses: dict[str, np.ndarray]) -> float:
    """The largest relative difference between losses of one run; a ValueError if it is above the tolerance."""
    baseline = next(iter(losses.values()))
    largest = 0.0
    for name, values in losses.items():
        difference = float(np.abs(values / baseline - 1).max())
        if not difference <= LOSS_TOLERANCE:
            raise ValueError(
                f"the losses of {name!r} after {CHECKED_EPOCHS} epochs differ from the first contestant's by "
                f"{difference:.2g}, relatively, more than {LOSS_TOLERANCE:g}, so their times cannot be compared"
            )
        largest = max(largest, difference)
    return largest


def report(
    timings: dict[str, Timing],
    rates: int,
    seeds: int,
    repetitions: int,
    largest: float,
    on: dict[str, Any],
    options: Options,
) -> None:
    baseline = BASELINE if BASELINE in timings else next(iter(timings))
    ratios = {name: ratio(timing, timings[baseline]) for name, timing in timings.items()}
    runs = rates * seeds
    fastest = min(timings, key=lambda name: timings[name].median)
    table = Table(
        ["way", f"s an epoch of all {runs} runs", f"divided by {baseline}", "first epoch, s"],
        [
            [
                name,
                f"**{times(timing.spread)}**" if name == fastest else times(timing.spread),
                "1" if name == baseline else times(ratios[name]),
                f"{timing.first_call:.1f}",
            ]
            for name, timing in timings.items()
        ],
    )
    text = (
        f"# A sweep: {rates} learning rates x {seeds} seeds\n\n"
        f"Sequence-to-vector training of the forecast experiment, two layers of {options.hidden} units; learning "
        f"rates from {RATES[0]:g} to {RATES[1]:g}. Seconds: median, and quartiles in parentheses, of "
        f"{repetitions} repetitions of 2 epochs of all runs, interleaved in one process; the fastest in bold. The "
        "first epoch "
        f"includes tracing and compiling. After {CHECKED_EPOCHS} epochs the losses of every run agreed to "
        f"{largest:.1g}, relatively ({LOSS_TOLERANCE:g} is allowed).\n\n{table.markdown()}"
    )
    results = {
        "rates": rates,
        "seeds": seeds,
        "repetitions": repetitions,
        "largest_relative_difference": largest,
        "timings": {name: timing.as_json() for name, timing in timings.items()},
        "ratios": {name: spread._asdict() for name, spread in ratios.items()},
    }
    path = write_results("sweep-quick" if options.quick else "sweep", text, results, on, options.out)
    table.show(f"{rates} learning rates x {seeds} seeds")
    console.print(f"Written: {path.name} and .json, in {path.parent}", soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(main())
