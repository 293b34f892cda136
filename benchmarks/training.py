"""Time whole trainings, in this library, in Keras and in PyTorch.

    python -m benchmarks.training              # about seven minutes
    python -m benchmarks.training --quick      # one task, few epochs, about a minute
    python -m benchmarks.training --tasks seq2vec classification --libraries jaxrnn torch

The three trainings of the forecast experiment and a classification (benchmarks/training_tasks.py), each as users
of the library would write it (benchmarks/trainers.py), all from the same weights. Every library has a process of
its own for each task, of which are measured:

    first epoch     from nothing to the end of the first epoch: making model and data, tracing, compiling, training
    an epoch        later epochs, the processes taking turns in random order, median and quartiles
    to the target   from the same start until the validation metric is there, evaluated after every epoch
    peak memory     of the process (resident), by then; the libraries' own code included
    growth          an epoch of seq2vec at other sizes: steps, units, batch, and number of series

Before later epochs are timed, the losses of two epochs without shuffling must agree; for the stateful task only
with PyTorch, since Keras on JAX does not carry the state from batch to batch.
The tables go to benchmarks/results/.
"""

import random
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.layers import known
from benchmarks.machine import describe, machine
from benchmarks.process import Process
from benchmarks.report import check_writable, console, fail, progress, write_results
from benchmarks.trainers import LIBRARIES
from benchmarks.training_tables import Result, as_json, epoch_table, growth_table, markdown
from benchmarks.training_tasks import TASKS

OURS = "jaxrnn"
LOSS_TOLERANCE = 5e-3
"""Relative, between the losses of the first epochs without shuffling."""

UNLIKE = {("stateful", "keras"): "does not carry the state from batch to batch, so it trains something else"}

GROWTH: dict[str, tuple[dict[str, Any], ...]] = {
    "base: T 30, H 100, B 128": ({},),
    "T": ({"time": 60}, {"time": 120}),
    "H": ({"hidden": (50, 50)}, {"hidden": (200, 200)}),
    "B": ({"batch": 32}, {"batch": 512}),
    "series": ({"series": 2}, {"series": 4}),
}


@dataclass(frozen=True)
class Options:
    """What to measure."""

    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only classification, no growth, and few epochs, to see that everything works."""

    tasks: Annotated[tuple[str, ...] | None, tyro.conf.arg(help=f"Of {', '.join(TASKS)} (default: all).")] = None

    libraries: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Of {', '.join(LIBRARIES)}.")] = tuple(LIBRARIES)

    repetitions: int | None = None
    """Later epochs that are timed, in turns (default: 10, with --quick 2)."""

    max_epochs: int | None = None
    """How long to wait for the target (default: the task's, with --quick 3)."""

    out: Path | None = None
    """Folder for the results (default: benchmarks/results)."""


def main(arguments: list[str] | None = None) -> int:
    options = tyro.cli(Options, prog="python -m benchmarks.training", args=arguments, description=__doc__)
    try:
        return run(options)
    except (ValueError, OSError) as error:
        return fail(str(error))


def run(options: Options) -> int:
    tasks = options.tasks or (("classification",) if options.quick else tuple(TASKS))
    known("task", tasks, TASKS)
    known("library", options.libraries, LIBRARIES)
    repetitions = (2 if options.quick else 10) if options.repetitions is None else options.repetitions
    max_epochs = 3 if options.quick and options.max_epochs is None else options.max_epochs
    sizes = {} if max_epochs is None else {"max_epochs": max_epochs}
    absences = {LIBRARIES[n].label: why for n in options.libraries if (why := LIBRARIES[n].missing())}
    libraries = [name for name in options.libraries if LIBRARIES[name].label not in absences]
    check_writable(options.out)
    on = machine()
    console.print(describe(on), soft_wrap=True)
    results: list[Result] = []
    growth: dict[str, dict[str, list[float]]] = {}
    grows = [] if options.quick else [(n, s) for n in libraries for sizes in GROWTH.values() for s in sizes]
    with progress(len(tasks) * (2 * len(libraries) + 1) + len(grows)) as update:
        for task in tasks:
            results += measure(task, libraries, sizes, repetitions, update)
        if not options.quick:
            growth = measure_growth(libraries, update)

    notes = [f"{who}: {why}." for who, why in absences.items()]
    notes += [
        f"{LIBRARIES[name].label}, {task}: {why}."
        for (task, name), why in UNLIKE.items()
        if task in tasks and name in libraries
    ]
    text = markdown(results, growth, repetitions, notes)
    record = {"repetitions": repetitions, "absent": absences, **as_json(results, growth)}
    path = write_results("training-quick" if options.quick else "training", text, record, on, options.out)
    for task in tasks:
        epoch_table([result for result in results if result.task == task]).show(task)
    if growth:
        growth_table(growth).show("ms an epoch of seq2vec at other sizes")
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    console.print(f"Written: {path.name} and .json, in {path.parent}", soft_wrap=True)
    return 0


def measure(task: str, libraries: list[str], sizes: dict[str, Any], repetitions: int, update) -> list[Result]:
    """One task in every library: one after the other up to the check, then later epochs in turns."""
    results = {}
    with ExitStack() as stack:
        processes = {}
        for name in libraries:
            update(description=f"{task}: {LIBRARIES[name].label}, to the target")
            process = stack.enter_context(Process("benchmarks.trainer_process", LIBRARIES[name].environment))
            process.ask({"do": "start", "library": name, "task": task, "sizes": sizes})
            first = process.ask({"do": "first"})
            learned = process.ask({"do": "learn"})
            memory = process.ask({"do": "memory"})["bytes"]
            update(advance=1, description=f"{task}: {LIBRARIES[name].label}, to compare")
            losses = process.ask({"do": "check"})["losses"]
            results[name] = Result(task, name, first, learned, memory, losses)
            processes[name] = process
            update(advance=1)
        check(results)
        update(description=f"{task}: later epochs")
        order, shuffled = list(processes), random.Random(0)
        for process in processes.values():
            process.ask({"do": "epochs", "number": 1})
        for _ in range(repetitions):
            shuffled.shuffle(order)
            for name in order:
                results[name].epochs.extend(processes[name].ask({"do": "epochs", "number": 1})["seconds"])
        update(advance=1)
    return list(results.values())


def check(results: dict[str, Result]) -> None:
    """A ValueError if the losses of a library that trains the same thing are not those of the first one."""
    alike = {name: result for name, result in results.items() if (result.task, name) not in UNLIKE}
    baseline = next(iter(alike.values()), None)
    for result in alike.values():
        assert baseline is not None
        if not np.allclose(result.losses, baseline.losses, rtol=LOSS_TOLERANCE, atol=0):
            raise ValueError(
                f"{result.task}: {result.library} and {baseline.library} do not train alike, so their times "
                f"cannot be compared: from the same weights and without shuffling their losses are "
                f"{result.losses} and {baseline.losses}"
            )


def measure_growth(libraries: list[str], update, number: int = 3) -> dict[str, dict[str, list[float]]]:
    """Seconds of later epochs of seq2vec, by size and library."""
    found: dict[str, dict[str, list[float]]] = {}
    for name in libraries:
        with Process("benchmarks.trainer_process", LIBRARIES[name].environment) as process:
            process.ask({"do": "start", "library": name, "task": "seq2vec", "sizes": {}})
            for axis, values in GROWTH.items():
                for sizes in values:
                    label = axis if not sizes else f"{axis} {_first_number(*sizes.values())}"
                    update(description=f"growth: {LIBRARIES[name].label}, {label}")
                    seconds = process.ask({"do": "grow", "sizes": sizes, "number": number})["seconds"]
                    found.setdefault(label, {})[name] = seconds
                    update(advance=1)
    return found


def _first_number(value: Any) -> int:
    return value[0] if isinstance(value, tuple) else value


if __name__ == "__main__":
    raise SystemExit(main())
