"""Time whole trainings, in this library, in Keras and in PyTorch.

    python -m benchmarks.training              # about ten minutes
    python -m benchmarks.training --quick      # one task, few epochs, about a minute
    python -m benchmarks.training --tasks seq2vec classification --libraries jaxrnn torch

The three trainings of the forecast experiment and three classifications (benchmarks/common/tasks.py; for the files
of speech and gesture: pip install --no-deps aeon), each as users of the library would write it
(benchmarks/libraries/), all from the same weights. Every library has a process of its own for each task. Measured
are:

    first epoch     from the start to its end: making model and data, tracing, compiling, training. Imports come
                    before, and so does the model of ours from which other libraries take their first weights
    an epoch        later epochs, the processes taking turns in random order, median and quartiles
    to the target   seconds from the start until the validation metric is reached, evaluated after every epoch; of
                    several trainings, each in a new process and shuffled by a seed of its own: the median and all
    with imports    the same, and the time in which a new Python imports the library
    peak memory     of the process (resident) by then; the libraries' own code included
    growth          an epoch of seq2vec at other sizes: steps, units, batch, and number of series

``jaxrnn`` is what experiments.forecast does: every core is a JAX device that runs its own time loop for its share
of each batch. The first experiment, seq2vec, is also trained on one device, and with plain autodiff of lax.scan
("reference").

Before later epochs are timed, the losses of two epochs without shuffling must agree; for the stateful task only
with PyTorch, since Keras on JAX does not carry the state from batch to batch. Ratios are a library's time divided
by ours, turn by turn: above 1, ours is faster.
"""

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.common import comparison
from benchmarks.common.command import Benchmark, Options, command, known
from benchmarks.common.process import Process, memory
from benchmarks.common.report import Table, progress, spread_text
from benchmarks.common.rows import OURS
from benchmarks.common.tasks import TASKS, data_of, epoch_flops, missing_data, score
from benchmarks.common.timing import Spread, timed, turns
from benchmarks.libraries import TRAINERS, installed, label, ours
from benchmarks.libraries.base import Trainer
from experiments.common.devices import claim_devices

LOSSES = {"losses": comparison.Tolerance(5e-3, relative=True)}
"""Of the first epochs without shuffling."""

UNLIKE = {("stateful", "keras"): "does not carry the state from batch to batch, so it trains something else"}

FIRST_TASK = "seq2vec"
ONLY_FIRST_TASK = ("jaxrnn-one-device", "jaxrnn-reference")
"""Other ways to run ours, which take part in the first experiment's training only."""

GROWTH: dict[str, dict[str, Any]] = {
    "base: T 30, H 100, B 128": {},
    **{f"T {time}": {"time": time} for time in (60, 120)},
    **{f"H {hidden}": {"hidden": (hidden, hidden)} for hidden in (50, 200)},
    **{f"B {batch}": {"batch": batch} for batch in (32, 512)},
    **{f"series {number}": {"series": number} for number in (2, 4)},
}

Result = dict[str, Any]
"""One ``task`` in one ``library``: ``first``, the ``seconds`` to the end of the first epoch; ``learned``, the
``seconds`` from there to the target, the metric's ``values`` after every epoch, whether it was ``reached``; the
same of ``more`` trainings, and seconds of the ``imports`` of all; ``memory`` in bytes; ``losses`` of first epochs
without shuffling; seconds of later ``epochs``, and ``spread``."""


@dataclass(frozen=True)
class TrainingOptions(Options):
    """What to measure. ``--quick`` trains the classification only, and measures no growth."""

    tasks: Annotated[tuple[str, ...] | None, tyro.conf.arg(help=f"Of {', '.join(TASKS)} (default: all).")] = None

    libraries: tuple[str, ...] = tuple(TRAINERS)
    """Libraries to train."""

    max_epochs: int | None = None
    """How long to wait for the target (default: the task's, with --quick 3)."""

    trainings: int = 1
    """How often every library trains until the target, with seeds 0, 1, ..."""


def run(options: TrainingOptions) -> None:
    tasks = options.tasks or (("classification",) if options.quick else tuple(TASKS))
    known("task", tasks, TASKS)
    known("library", options.libraries, TRAINERS)
    max_epochs = options.given(options.max_epochs, quick=3, full=None)
    sizes = {} if max_epochs is None else {"max_epochs": max_epochs}
    libraries, absent = installed(options.libraries)
    without = {task: why for task in tasks if (why := missing_data(TASKS[task]))}
    made = Benchmark(
        options, "training", "Whole trainings", __doc__, quick=2, full=10, unit="Later epochs", calls="1 epoch"
    )
    limit = epoch_flops(TASKS[FIRST_TASK]) / made.record["machine"]["matmul_gflops"] / 1e9
    results: list[Result] = []
    for task in progress(task for task in tasks if task not in without):
        takers = [name for name in libraries if task == FIRST_TASK or name not in ONLY_FIRST_TASK]
        group = measure(task, takers, sizes, made.repetitions, options.trainings)
        results += group
        texts = (f"{', '.join(f'{v:.5g}' for v in r['losses'])} ({label(r['library'])})" for r in group)
        made.add(f"## {task}")
        made.table(epoch_table(group), task)
        made.add(f"Losses of the first epochs without shuffling: {'; '.join(texts)}.")
        if task == FIRST_TASK:
            made.add(f"The matrix products alone would take {limit * 1e3:.1f} ms at this machine's best rate.")
    growing = [] if options.quick else [name for name in libraries if name not in ONLY_FIRST_TASK]
    found = {name: measure_growth(name) for name in progress(growing)}
    growth = [{"size": size, "seconds": {n: of[size] for n, of in found.items()}} for size in GROWTH if found]
    if growth:
        made.add("## Growth: ms an epoch of seq2vec, one size changed")
        made.table(growth_table(growth), "ms an epoch of seq2vec at other sizes")
    notes = [f"{task}: {why}." for task, why in without.items()]
    taken = [(result["task"], result["library"]) for result in results]
    notes += [f"{label(name)}, {task}: {why}." for (task, name), why in UNLIKE.items() if (task, name) in taken]
    made.write(absent=absent, notes=notes, matmul_limit_s=limit, results=results, growth=growth)


def measure(
    task: str, libraries: Sequence[str], sizes: dict[str, Any], repetitions: int, trainings: int = 1
) -> list[Result]:
    """One task in every library: one after the other up to the check, then later epochs in turns, then further
    trainings in turns."""
    results, processes = {}, {}
    with ExitStack() as stack:
        for name in libraries:
            process = processes[name] = stack.enter_context(Process(TRAINERS[name].environment))
            process.ask(start, name, task, sizes)
            found = {"imports": [import_seconds(name)], **trained(process), "more": []}
            found |= {"memory": process.ask(memory), "losses": process.ask(first_losses), "epochs": []}
            results[name] = {"task": task, "library": name, **found}
        check(results)
        for process in processes.values():
            process.ask(later_epochs, 1)
        for order in turns(processes, repetitions):
            for name in order:
                results[name]["epochs"] += processes[name].ask(later_epochs, 1)
    for seed in range(1, trainings):
        for name in libraries:
            results[name]["imports"].append(import_seconds(name))
            with Process(TRAINERS[name].environment) as process:
                process.ask(start, name, task, sizes)
                results[name]["more"].append(trained(process, seed))
    return [{**result, "spread": Spread.of(result["epochs"])._asdict()} for result in results.values()]


def trained(process: Process, seed: int = 0) -> dict[str, Any]:
    """A training until the target, in a process that has started."""
    return {"first": {"seconds": process.ask(first_epoch, seed)}, "learned": process.ask(learn)}


def import_seconds(library: str) -> float:
    """Seconds in which a new Python starts, imports what a training needs, and ends."""
    of = TRAINERS[library]
    imports = f"import {', '.join(of.imports or of.packages)}"
    command = [sys.executable, "-c", imports]
    return timed(lambda: subprocess.run(command, check=True, env={**os.environ, **of.environment}))[0]


def check(results: Mapping[str, Result]) -> None:
    """A ValueError if a library that trains the same thing does not have the losses of the first one."""
    alike = {name: {"losses": r["losses"]} for name, r in results.items() if (r["task"], name) not in UNLIKE}
    for baseline in list(alike)[:1]:
        where = f"{results[baseline]['task']}, first epochs without shuffling"
        comparison.check(alike, baseline, LOSSES, where)


def measure_growth(library: str, number: int = 3) -> dict[str, list[float]]:
    """Seconds of later epochs by size."""
    found = {}
    with Process(TRAINERS[library].environment) as process:
        for size, sizes in GROWTH.items():
            process.ask(start, library, FIRST_TASK, sizes)
            process.ask(first_epoch)
            found[size] = process.ask(later_epochs, number)
    return found


def epoch_table(results: Sequence[Result]) -> Table:
    """The measurements of one task; ratios, turn by turn, are to the first library, which is ours."""
    baseline, task = results[0], TASKS[results[0]["task"]]
    target = f"s to {task.metric} {'>=' if task.classifies else '<='} {task.target:g}"
    lines = []
    for result in results:
        trainings = [result, *result.get("more", [])]
        seconds = [of["first"]["seconds"] + of["learned"]["seconds"] for of in trainings]
        with_imports = [a + b for a, b in zip(seconds, result.get("imports", []))]
        ratio = Spread.of([a / b for a, b in zip(result["epochs"], baseline["epochs"], strict=True)])
        texts = {
            "ms an epoch": spread_text(Spread.of(result["epochs"]), 1e-3),
            "divided by ours": "1" if result is baseline else spread_text(ratio),
            "first epoch, s": f"{np.median([of['first']['seconds'] for of in trainings]):.2f}",
            target: target_text(seconds, [of["learned"] for of in trainings]),
            "with imports, s": f"{np.median(with_imports):.1f}" if with_imports else "",
            "peak memory, MiB": f"{result['memory'] / 2**20:.0f}",
        }
        lines.append((label(result["library"]), texts))
    return Table.of("library", lines)


def target_text(seconds: Sequence[float], learned: Sequence[dict[str, Any]]) -> str:
    """How long trainings took until the target: the median and, of several, the range."""
    missed = [of["values"] for of in learned if not of["reached"]]
    if missed:
        of_all = f"{len(missed)} of {len(learned)} " if len(learned) > 1 else ""
        return f"{of_all}not within {len(missed[0])} epochs: {missed[0][-1]:.3g}"
    ranges = [f"{min(seconds):.1f} to {max(seconds):.1f}"] if len(seconds) > 1 else []
    fewest, *_, most = sorted([len(of["values"]) for of in learned] * 2)
    ranges.append(f"{fewest} epochs" if fewest == most else f"{fewest} to {most} epochs")
    return f"{np.median(seconds):.1f} ({'; '.join(ranges)})"


def growth_table(growth: Sequence[dict[str, Any]]) -> Table:
    """Milliseconds an epoch by size, the median of later epochs."""

    def texts(seconds: dict[str, list[float]]) -> dict[str, str]:
        return {name: spread_text(Spread.of(s), 1e-3, quartiles=False) for name, s in seconds.items()}

    return Table.of("size", [(found["size"], texts(found["seconds"])) for found in growth], label)


CHECKED_EPOCHS = 2

now: Any = SimpleNamespace(library="", task=None, trainer=None)
"""What a process for one library remembers between calls of the functions below."""


def start(library: str, task: str, sizes: dict[str, Any]) -> None:
    """Choose what the following calls are about, and prepare for it: import the library, as ours is by now, and
    compile what makes the weights that all start from. JAX makes those, which is no part of another's training."""
    now.library, now.task = library, TASKS[task].with_sizes(sizes)
    if library == OURS:  # one device of JAX for every core, before anything of JAX runs
        claim_devices(None)
    if not library.startswith(OURS):
        for package in TRAINERS[library].packages:
            importlib.import_module(package)
        ours.initial_model(now.task, data_of(now.task))


def first_epoch(seed: int = 0) -> float:
    """Seconds to build everything and train one epoch."""
    began = time.perf_counter()
    now.trainer = _make(seed=seed)
    now.trainer.epoch()
    return time.perf_counter() - began


def learn() -> dict[str, Any]:
    """After the first epoch, train until the target or ``max_epochs``, with an evaluation after every epoch."""
    began = time.perf_counter()
    wanted, reached = data_of(now.task).valid_targets, now.task.reached
    values = [score(now.task, now.trainer.predict(), wanted)]
    while not reached(values[-1]) and len(values) < now.task.max_epochs:
        now.trainer.epoch()
        values.append(score(now.task, now.trainer.predict(), wanted))
    return {"seconds": time.perf_counter() - began, "values": values, "reached": reached(values[-1])}


def first_losses() -> list[float]:
    """Those of the first epochs of a new training without shuffling."""
    trainer = _make(shuffle=False)
    return [trainer.epoch() for _ in range(CHECKED_EPOCHS)]


def later_epochs(number: int) -> list[float]:
    """Seconds of so many epochs more."""
    return [timed(now.trainer.epoch)[0] for _ in range(number)]


def _make(**options: Any) -> Trainer:
    return TRAINERS[now.library].trainer(now.task, data_of(now.task), **options)


main = command(TrainingOptions, run, "training", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
