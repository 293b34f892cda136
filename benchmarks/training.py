"""Time whole trainings, in this library, in Keras and in PyTorch.

    python -m benchmarks.training              # about ten minutes
    python -m benchmarks.training --quick      # one task, few epochs, about a minute
    python -m benchmarks.training --tasks seq2vec classification --libraries jaxrnn torch

The three trainings of the forecast experiment and a classification (benchmarks/common/tasks.py), each as users of
the library would write it (benchmarks/libraries/), all from the same weights. Every library has a process of its
own for each task. Measured are:

    first epoch     from the start to the end of the first epoch: making model and data, tracing, compiling,
      training an epoch        later epochs, the processes taking turns in random order, median and quartiles to
      the target   seconds until the validation metric is reached, with an evaluation after every epoch peak memory
      of the process (resident) by then; the libraries' own code included growth          an epoch of seq2vec at
      other sizes: steps, units, batch, and number of series

``jaxrnn`` is what experiments.forecast does: every core is a JAX device that runs its own time loop for its share
of each batch. The first experiment, seq2vec, is also trained on one device, and with plain autodiff of lax.scan
("reference").

Before later epochs are timed, the losses of two epochs without shuffling must agree; for the stateful task only
with PyTorch, since Keras on JAX does not carry the state from batch to batch.
The tables go to benchmarks/results/.
"""

import random
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from benchmarks.common import comparison
from benchmarks.common.command import Options, command, known
from benchmarks.common.process import Process
from benchmarks.common.report import progress
from benchmarks.common.tasks import TASKS, epoch_flops
from benchmarks.libraries import TRAINERS
from benchmarks.reports.training import Growth, Result, as_json, report

LOSSES = {"losses": comparison.Tolerance(5e-3, relative=True)}
"""Of the first epochs without shuffling."""

UNLIKE = {("stateful", "keras"): "does not carry the state from batch to batch, so it trains something else"}

FIRST_TASK = "seq2vec"
ONLY_FIRST_TASK = ("jaxrnn-one-device", "jaxrnn-reference")
"""Other ways to run ours, which take part in the first experiment's training only."""

GROWTH: dict[str, tuple[dict[str, Any], ...]] = {
    "base: T 30, H 100, B 128": ({},),
    "T": ({"time": 60}, {"time": 120}),
    "H": ({"hidden": (50, 50)}, {"hidden": (200, 200)}),
    "B": ({"batch": 32}, {"batch": 512}),
    "series": ({"series": 2}, {"series": 4}),
}


@dataclass(frozen=True)
class TrainingOptions(Options):
    """What to measure. ``--quick`` trains the classification only, and measures no growth."""

    tasks: Annotated[tuple[str, ...] | None, tyro.conf.arg(help=f"Of {', '.join(TASKS)} (default: all).")] = None

    libraries: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Of {', '.join(TRAINERS)}.")] = tuple(TRAINERS)

    max_epochs: int | None = None
    """How long to wait for the target (default: the task's, with --quick 3)."""


def run(options: TrainingOptions) -> None:
    tasks = options.tasks or options.given(None, quick=("classification",), full=tuple(TASKS))
    known("task", tasks, TASKS)
    known("library", options.libraries, TRAINERS)
    repetitions = options.given(options.repetitions, quick=2, full=10)
    max_epochs = options.given(options.max_epochs, quick=3, full=None)
    sizes = {} if max_epochs is None else {"max_epochs": max_epochs}
    absences = {TRAINERS[n].label: why for n in options.libraries if (why := TRAINERS[n].missing())}
    libraries = [name for name in options.libraries if TRAINERS[name].label not in absences]
    takers = {t: [n for n in libraries if t == FIRST_TASK or n not in ONLY_FIRST_TASK] for t in tasks}
    growing = [] if options.quick else [name for name in libraries if name not in ONLY_FIRST_TASK]
    machine = options.start()
    results: list[Result] = []
    steps = sum(2 * len(names) + 1 for names in takers.values())
    with progress(steps + len(growing) * sum(map(len, GROWTH.values()))) as update:
        for task in tasks:
            results += measure(task, takers[task], sizes, repetitions, update)
        growth = measure_growth(growing, update)

    notes = [f"{who}: {why}." for who, why in absences.items()]
    notes += [f"{TRAINERS[n].label}, {t}: {why}." for (t, n), why in UNLIKE.items() if n in takers.get(t, ())]
    limit = epoch_flops(TASKS[FIRST_TASK]) / machine["matmul_gflops"] / 1e9
    record = {"repetitions": repetitions, "absent": absences, "matmul_limit_s": limit, **as_json(results, growth)}
    made = report(results, growth, repetitions, limit, notes)
    made.write(options.name("training"), record, machine, options.out)


def measure(task: str, libraries: list[str], sizes: dict[str, Any], repetitions: int, update) -> list[Result]:
    """One task in every library: one after the other up to the check, then later epochs in turns."""
    results = {}
    with ExitStack() as stack:
        processes = {}
        for name in libraries:
            update(description=f"{task}: {TRAINERS[name].label}, to the target")
            process = stack.enter_context(_process(name))
            process.ask({"do": "start", "library": name, "task": task, "sizes": sizes})
            first = process.ask({"do": "first"})
            learned = process.ask({"do": "learn"})
            memory = process.ask({"do": "memory"})["bytes"]
            update(advance=1, description=f"{task}: {TRAINERS[name].label}, to compare")
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


def _process(library: str) -> Process:
    return Process("benchmarks.libraries.training_process", dict(TRAINERS[library].environment))


def check(results: dict[str, Result]) -> None:
    """A ValueError if a library that trains the same thing does not have the losses of the first one."""
    alike = {n: {"losses": r.losses} for n, r in results.items() if (r.task, n) not in UNLIKE}
    if alike:
        baseline = next(iter(alike))
        comparison.check(alike, baseline, LOSSES, f"{results[baseline].task}, first epochs without shuffling")


def measure_growth(libraries: list[str], update, number: int = 3) -> Growth:
    found: Growth = {}
    for name in libraries:
        with _process(name) as process:
            for axis, values in GROWTH.items():
                for sizes in values:
                    label = " ".join([axis, *(str(v[0] if isinstance(v, tuple) else v) for v in sizes.values())])
                    update(description=f"growth: {TRAINERS[name].label}, {label}")
                    process.ask({"do": "start", "library": name, "task": FIRST_TASK, "sizes": sizes})
                    process.ask({"do": "first"})
                    found.setdefault(label, {})[name] = process.ask({"do": "epochs", "number": number})["seconds"]
                    update(advance=1)
    return found


main = command(TrainingOptions, run, "training", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
