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
    to the target   seconds from the start until the validation metric is reached, evaluated after every epoch
    peak memory     of the process (resident) by then; the libraries' own code included
    growth          an epoch of seq2vec at other sizes: steps, units, batch, and number of series

``jaxrnn`` is what experiments.forecast does: every core is a JAX device that runs its own time loop for its share
of each batch. The first experiment, seq2vec, is also trained on one device, and with plain autodiff of lax.scan
("reference").

Before later epochs are timed, the losses of two epochs without shuffling must agree; for the stateful task only
with PyTorch, since Keras on JAX does not carry the state from batch to batch. Ratios are a library's time divided
by ours, turn by turn: above 1, ours is faster.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from benchmarks.common import comparison
from benchmarks.common.command import Options, command, known
from benchmarks.common.process import Process
from benchmarks.common.report import Report, Table, medians, progress, spread_text
from benchmarks.common.tasks import TASKS, epoch_flops, missing_data
from benchmarks.common.timing import Spread, turns
from benchmarks.libraries import TRAINERS, installed, label

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

Growth = dict[str, dict[str, list[float]]]
"""Seconds of later epochs, by size and library."""


@dataclass(frozen=True)
class Result:
    """One task in one library.

    Attributes:
      first: ``seconds`` to the end of the first epoch.
      learned: ``seconds`` from there to the target, the metric's ``values`` after every epoch, whether it was
        ``reached``.
      memory: bytes.
      losses: of the first epochs without shuffling.
      epochs: seconds of later epochs.
    """

    task: str
    library: str
    first: dict[str, float]
    learned: dict[str, Any]
    memory: int
    losses: list[float]
    epochs: list[float] = field(default_factory=list)

    def ratio(self, baseline: "Result") -> Spread:
        """The time of an epoch divided by the baseline's, turn by turn."""
        return Spread.of([a / b for a, b in zip(self.epochs, baseline.epochs, strict=True)])

    @property
    def to_target(self) -> str:
        epochs, seconds = len(self.learned["values"]), self.first["seconds"] + self.learned["seconds"]
        if self.learned["reached"]:
            return f"{seconds:.1f} ({epochs} epochs)"
        return f"not within {epochs} epochs: {self.learned['values'][-1]:.3g}"


@dataclass(frozen=True)
class TrainingOptions(Options):
    """What to measure. ``--quick`` trains the classification only, and measures no growth."""

    tasks: Annotated[tuple[str, ...] | None, tyro.conf.arg(help=f"Of {', '.join(TASKS)} (default: all).")] = None

    libraries: tuple[str, ...] = tuple(TRAINERS)
    """Libraries to train."""

    max_epochs: int | None = None
    """How long to wait for the target (default: the task's, with --quick 3)."""


def run(options: TrainingOptions) -> None:
    tasks = options.tasks or options.given(None, quick=("classification",), full=tuple(TASKS))
    known("task", tasks, TASKS)
    known("library", options.libraries, TRAINERS)
    repetitions = options.given(options.repetitions, quick=2, full=10)
    max_epochs = options.given(options.max_epochs, quick=3, full=None)
    sizes = {} if max_epochs is None else {"max_epochs": max_epochs}
    libraries, absences = installed(options.libraries)
    without = {t: why for t in tasks if (why := missing_data(TASKS[t]))}
    tasks = tuple(t for t in tasks if t not in without)
    takers = {t: [n for n in libraries if t == FIRST_TASK or n not in ONLY_FIRST_TASK] for t in tasks}
    growing = [] if options.quick else [name for name in libraries if name not in ONLY_FIRST_TASK]
    machine = options.start()
    results: list[Result] = []
    steps = sum(2 * len(names) + 1 for names in takers.values())
    with progress(steps + len(growing) * len(GROWTH)) as update:
        for task in tasks:
            results += measure(task, takers[task], sizes, repetitions, update)
        growth = measure_growth(growing, update)

    notes = [f"{what}: {why}." for what, why in (absences | without).items()]
    notes += [f"{TRAINERS[n].label}, {t}: {why}." for (t, n), why in UNLIKE.items() if n in takers.get(t, ())]
    limit = epoch_flops(TASKS[FIRST_TASK]) / machine["matmul_gflops"] / 1e9
    record = {"repetitions": repetitions, "absent": absences, "matmul_limit_s": limit, **as_json(results, growth)}
    made = report(results, growth, repetitions, limit, notes)
    made.write(options.name("training"), record, machine, options.out)


def measure(task: str, libraries: list[str], sizes: dict[str, Any], repetitions: int, update) -> list[Result]:
    """One task in every library: one after the other up to the check, then later epochs in turns."""
    results, processes = {}, {}
    with ExitStack() as stack:
        for name in libraries:
            update(f"{task}: {TRAINERS[name].label}, to the target")
            process = processes[name] = stack.enter_context(_process(name))
            process.ask({"do": "start", "library": name, "task": task, "sizes": sizes})
            first, learned, memory = (process.ask({"do": part}) for part in ("first", "learn", "memory"))
            update()
            update(f"{task}: {TRAINERS[name].label}, to compare")
            losses = process.ask({"do": "check"})["losses"]
            results[name] = Result(task, name, first, learned, memory["bytes"], losses)
            update()
        check(results)
        update(f"{task}: later epochs")
        for process in processes.values():
            process.ask({"do": "epochs", "number": 1})
        for order in turns(processes, repetitions):
            for name in order:
                results[name].epochs.extend(processes[name].ask({"do": "epochs", "number": 1})["seconds"])
        update()
    return list(results.values())


def _process(library: str) -> Process:
    return Process("benchmarks.libraries.training_process", TRAINERS[library].environment)


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
            for size, sizes in GROWTH.items():
                update(f"growth: {TRAINERS[name].label}, {size}")
                process.ask({"do": "start", "library": name, "task": FIRST_TASK, "sizes": sizes})
                process.ask({"do": "first"})
                found.setdefault(size, {})[name] = process.ask({"do": "epochs", "number": number})["seconds"]
                update()
    return found


def epoch_table(results: Sequence[Result]) -> Table:
    """The measurements of one task; ratios are to the first library, which is ours."""
    baseline, task = results[0], TASKS[results[0].task]

    def texts(result: Result) -> dict[str, str]:
        return {
            "ms an epoch": spread_text(Spread.of(result.epochs), 1e-3),
            "divided by ours": "1" if result is baseline else spread_text(result.ratio(baseline)),
            "first epoch, s": f"{result.first['seconds']:.2f}",
            f"s to {task.metric} {'>=' if task.classifies else '<='} {task.target:g}": result.to_target,
            "peak memory, MiB": f"{result.memory / 2**20:.0f}",
        }

    return Table.of("library", [(label(result.library), texts(result)) for result in results])


def growth_table(growth: Growth) -> Table:
    """Milliseconds an epoch by size, the median of later epochs."""

    def texts(found: dict[str, list[float]]) -> dict[str, str]:
        return {name: spread_text(Spread.of(s), 1e-3, quartiles=False) for name, s in found.items() if s}

    return Table.of("size", [(size, texts(found)) for size, found in growth.items()], label)


def report(results: Sequence[Result], growth: Growth, repetitions: int, limit: float, notes: list[str]) -> Report:
    made = Report("Whole trainings", medians("Later epochs", repetitions, "1 epoch"), __doc__, notes)
    for task in dict.fromkeys(result.task for result in results):
        group = [result for result in results if result.task == task]
        losses = "; ".join(f"{', '.join(f'{v:.5g}' for v in r.losses)} ({label(r.library)})" for r in group)
        made.add(f"## {task}")
        made.table(epoch_table(group), task)
        made.add(f"Losses of the first epochs without shuffling: {losses}.")
        if task == "seq2vec":
            made.add(f"The matrix products alone would take {limit * 1e3:.1f} ms at this machine's best rate.")
    if growth:
        made.add("## Growth: ms an epoch of seq2vec, one size changed")
        made.table(growth_table(growth), "ms an epoch of seq2vec at other sizes")
    return made


def as_json(results: Sequence[Result], growth: Growth) -> dict[str, Any]:
    """Everything."""
    return {
        "results": [{**vars(result), "spread": Spread.of(result.epochs)._asdict()} for result in results],
        "growth": [{"size": size, "seconds": found} for size, found in growth.items()],
    }


main = command(TrainingOptions, run, "training", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
