"""Time a sweep: 32 learning rates x 3 seeds of the forecast experiment, as one program and one after the other.

    python -m benchmarks.sweep              # about five minutes
    python -m benchmarks.sweep --quick      # 4 rates x 2 seeds, about a minute

The lesson's sequence-to-vector training (two SimpleRNN layers of 100 tanh units, batches of 128 windows of 30
steps in a new random order every epoch), its learning rate in the train state, so that one compiled epoch serves
every rate. Contestants, interleaved in one process on one device (benchmarks/common/timing.py):

    one after the other     the compiled epoch, called once for each run; native and scan
    vmap                    the same epoch under jax.vmap over all runs at once; native and scan
    vmap by eights          under jax.lax.map with batch_size=8: one program too, but it keeps less in memory

Under vmap the scan turns its products into batched ones; a native call becomes one call for all runs, which its
threads share. Before timing, the losses of two epochs of every run must agree. Ratios are a contestant's time
divided by that of the native one after the other: below 1, it is faster.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import jaxrnn
from benchmarks.common import comparison
from benchmarks.common.command import Benchmark, Options, command
from benchmarks.common.report import Table, console, spread_text
from benchmarks.common.rows import Row
from benchmarks.common.tasks import TASKS, data_of
from benchmarks.common.timing import first_calls, interleave
from benchmarks.libraries.ours import initial_model, windowed_epoch
from jaxrnn.training import Epoch, TrainState, make_optimizer, pure_apply, with_learning_rate

TASK = TASKS["seq2vec"]
LOSSES = {"losses": comparison.Tolerance(1e-3, relative=True)}
"""Of one run in two ways."""

RATES = (1e-8, 3e-6)
BASELINE = "one after the other, native"


@dataclass(frozen=True)
class SweepOptions(Options):
    """What to sweep over, and how long to measure."""

    rates: int | None = None
    """Learning rates between 1e-8 and 3e-6 (default: 32, with --quick 4)."""

    seeds: int | None = None
    """Seeds for each rate (default: 3, with --quick 2)."""

    hidden: int = TASK.hidden[0]
    """Units of each layer."""


Sweep = Callable[[], Array]
"""One epoch of every run; their losses ``[runs]``."""


def run(options: SweepOptions) -> None:
    rates = options.given(options.rates, quick=4, full=32)
    seeds = options.given(options.seeds, quick=2, full=3)
    title = f"A sweep: {rates} learning rates x {seeds} seeds"
    calls = "2 epochs of all runs"
    made = Benchmark(options, "sweep", title, __doc__, quick=1, full=3, unit="Seconds", calls=calls)
    sweeps = contestants(rates, seeds, options.hidden)
    first = first_calls(sweeps)
    largest = check({name: np.asarray(sweep()) for name, sweep in sweeps.items()})
    case = {"rates": rates, "seeds": seeds, "largest_relative_difference": largest}
    baseline = BASELINE if BASELINE in sweeps else next(iter(sweeps))
    row = Row(case, interleave(sweeps, made.repetitions, first=first), baseline=baseline)
    made.add(
        f"Two layers of {options.hidden} units; learning rates from {RATES[0]:g} to {RATES[1]:g}. The first epoch "
        "includes tracing and compiling. After two epochs the losses of every run agreed to "
        f"{largest:.1g}, relatively ({LOSSES['losses'].largest:g} is allowed)."
    )
    texts = row.texts()
    ratios = {baseline: "1"} | {name: spread_text(ratio) for name, ratio in row.ratios().items()}
    lines = [[name, texts[name], ratios[name], f"{t.first_call:.1f}"] for name, t in row.timings.items()]
    columns = ["way", f"s an epoch of all {rates * seeds} runs", f"divided by {baseline}", "first epoch, s"]
    made.table(Table(columns, lines), f"{rates} learning rates x {seeds} seeds")
    found = row.as_json()
    of_others = found.pop("ratios_to_ours")
    made.write(**found, ratios={baseline: {"median": 1.0, "low": 1.0, "high": 1.0}} | of_others)


def contestants(rates: int, seeds: int, hidden: int) -> dict[str, Sweep]:
    """All ways of training ``rates * seeds`` runs, each from the same first states."""
    found: dict[str, Sweep] = {}
    for implementation in ("native", "scan"):
        layer = jaxrnn.RNN(jaxrnn.SimpleRNNCell(1, hidden, rngs=nnx.Rngs(0)), implementation=implementation)
        try:
            layer(jnp.ones((1, 2, 1)))
        except ValueError as error:  # this machine or this size is not supported
            console.print(f"{implementation}: {error}", markup=False, soft_wrap=True)
            continue
        epoch, states = training(implementation, rates, seeds, hidden)
        found[f"one after the other, {implementation}"] = _one_after_the_other(epoch, states)
        found[f"vmap, {implementation}"] = _as_one_program(jax.vmap(epoch), states)
        if implementation == "scan" and rates * seeds > 8:
            by_eights = functools.partial(jax.lax.map, epoch, batch_size=8)
            found["vmap by eights, scan"] = _as_one_program(by_eights, states)
    return found


def training(implementation: str, rates: int, seeds: int, hidden: int) -> tuple[Epoch, list[TrainState]]:
    """The compiled epoch, and a first state for every rate (outer) and seed (inner)."""
    task = TASK.with_sizes({"hidden": (hidden, hidden)})
    data = data_of(task)

    def model(seed: Any) -> jaxrnn.RNNForecaster:
        return initial_model(task, data, jax.random.key(seed), implementation)

    apply, _ = pure_apply(nnx.eval_shape(lambda: model(0)))
    optimizer = make_optimizer("sgd", RATES[0])
    initialize = jax.jit(lambda seed: nnx.state(model(seed)))
    epoch = windowed_epoch(task, data, apply, optimizer)
    first = [TrainState.create(initialize(seed), optimizer, seed=seed) for seed in range(seeds)]
    pairs = itertools.product(map(float, np.geomspace(*RATES, rates)), first)
    return epoch, [with_learning_rate(jax.tree.map(jnp.copy, state), rate) for rate, state in pairs]


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
    baseline = next(iter(losses))
    results = {name: {"losses": values} for name, values in losses.items()}
    comparison.check(results, baseline, LOSSES, "after two epochs")
    return max(float(np.abs(values / losses[baseline] - 1).max()) for values in losses.values())


main = command(SweepOptions, run, "sweep", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
