"""The report of benchmarks.training."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common.report import Report, Table, spread_text
from benchmarks.common.tasks import TASKS
from benchmarks.common.timing import Spread
from benchmarks.libraries import label

Growth = dict[str, dict[str, list[float]]]
"""Seconds of later epochs, by size and library."""


@dataclass(frozen=True)
class Result:
    """One task in one library.

    Attributes:
      first: ``seconds``, and seconds ``with_imports``, to the end of the first epoch.
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


def epoch_table(results: Sequence[Result]) -> Table:
    """The measurements of one task; ratios are to the first library, which is ours."""
    baseline = results[0]
    task = TASKS[baseline.task]
    lines = [
        [
            label(result.library),
            spread_text(Spread.of(result.epochs), 1e-3),
            "1" if result is baseline else spread_text(result.ratio(baseline)),
            f"{result.first['seconds']:.2f}",
            result.to_target,
            f"{result.memory / 2**20:.0f}",
        ]
        for result in results
    ]
    target = f"s to {task.metric} {'>=' if task.classifies else '<='} {task.target:g}"
    ratio = "divided by ours"
    return Table(["library", "ms an epoch", ratio, "first epoch, s", target, "peak memory, MiB"], lines)


def growth_table(growth: Growth) -> Table:
    """Milliseconds an epoch by size, the median of later epochs."""
    libraries = list(dict.fromkeys(name for found in growth.values() for name in found))

    def text(seconds: list[float] | None) -> str:
        return spread_text(Spread.of(seconds), 1e-3, quartiles=False) if seconds else ""

    lines = [[size, *(text(found.get(name)) for name in libraries)] for size, found in growth.items()]
    return Table(["size", *map(label, libraries)], lines)


def report(
    results: Sequence[Result], growth: Growth, repetitions: int, matmul_limit: float, notes: Sequence[str]
) -> Report:
    made = Report(
        "Whole trainings",
        "All from the same weights, each library in a process of its own. Later epochs: median, and quartiles "
        f"in parentheses, of {repetitions}, the libraries taking turns; ratios turn by turn, above 1 ours is "
        "faster. The first epoch begins with nothing but the imports: model, data, tracing, compiling, "
        "training. The time to the target includes it, and an evaluation after every epoch. Peak memory is the "
        "process's, with everything that it has imported.",
        notes,
    )
    for task in dict.fromkeys(result.task for result in results):
        group = [result for result in results if result.task == task]
        losses = "; ".join(f"{', '.join(f'{v:.5g}' for v in r.losses)} ({label(r.library)})" for r in group)
        made.add(f"## {task}")
        made.table(epoch_table(group), task)
        made.add(f"Losses of the first epochs without shuffling: {losses}.")
        if task == "seq2vec":
            milliseconds = f"{matmul_limit * 1e3:.1f} ms"
            made.add(
                f"The matrix products alone, at this machine's best rate, would take {milliseconds} an epoch."
            )
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
