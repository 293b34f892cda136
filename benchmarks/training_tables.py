"""The tables of benchmarks.training."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.report import Table, milliseconds, times
from benchmarks.timing import Spread
from benchmarks.trainers import LIBRARIES
from benchmarks.training_tasks import TASKS


@dataclass(frozen=True)
class Result:
    """One task in one library.

    Attributes:
      first: seconds, and seconds with_imports, to the end of the first epoch.
      learned: seconds from there to the target, the metric after every epoch, and whether it was reached.
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

    @property
    def label(self) -> str:
        return LIBRARIES[self.library].label

    @property
    def to_target(self) -> str:
        epochs, seconds = len(self.learned["values"]), self.first["seconds"] + self.learned["seconds"]
        if self.learned["reached"]:
            return f"{seconds:.1f} ({epochs} epochs)"
        return f"not within {epochs} epochs: {self.learned['values'][-1]:.3g}"


def epoch_table(results: Sequence[Result]) -> Table:
    """The measurements of one task, ours first; ratios are to ours, turn by turn."""
    baseline = next((result for result in results if result.library == "jaxrnn"), results[0])
    task = TASKS[baseline.task]
    lines = []
    for result in results:
        ratio = Spread.of([a / b for a, b in zip(result.epochs, baseline.epochs, strict=True)])
        lines.append(
            [
                result.label,
                milliseconds(Spread.of(result.epochs)),
                "1" if result is baseline else times(ratio),
                f"{result.first['seconds']:.2f}",
                result.to_target,
                f"{result.memory / 2**20:.0f}",
            ]
        )
    sign = ">=" if task.classifies else "<="
    target = f"s to {task.metric} {sign} {task.target:g}"
    return Table(
        ["library", "ms an epoch", "divided by ours", "first epoch, s", target, "peak memory, MiB"], lines
    )


def growth_table(growth: dict[str, dict[str, list[float]]]) -> Table:
    """Milliseconds an epoch by size, the median of later epochs."""
    libraries = list(dict.fromkeys(name for found in growth.values() for name in found))
    lines = [
        [
            size,
            *(
                milliseconds(Spread.of(found[name]), quartiles=False) if name in found else ""
                for name in libraries
            ),
        ]
        for size, found in growth.items()
    ]
    return Table(["size", *(LIBRARIES[name].label for name in libraries)], lines)


def markdown(
    results: Sequence[Result],
    growth: dict[str, dict[str, list[float]]],
    repetitions: int,
    notes: Sequence[str],
) -> str:
    """The whole report."""
    parts = [
        "# Whole trainings\n\n",
        f"All from the same weights, each library in a process of its own. Later epochs: median, and quartiles in "
        f"parentheses, of {repetitions}, the libraries taking turns; ratios turn by turn, above 1 ours is faster. "
        "The first epoch is from nothing, imports apart: model, data, tracing, compiling, training. The time to "
        "the target includes it, and an evaluation after every epoch. Peak memory is the process's, with all that "
        "it has imported.\n\n",
        *(f"- {note}\n" for note in notes),
    ]
    for task in dict.fromkeys(result.task for result in results):
        group = [result for result in results if result.task == task]
        losses = "; ".join(f"{', '.join(f'{v:.5g}' for v in r.losses)} ({r.label})" for r in group)
        parts += [
            f"\n## {task}\n\n",
            epoch_table(group).markdown(),
            f"\nLosses of the first epochs without shuffling: {losses}.\n",
        ]
    if growth:
        parts += ["\n## Growth: ms an epoch of seq2vec, one size changed\n\n", growth_table(growth).markdown()]
    return "".join(parts)


def as_json(results: Sequence[Result], growth: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Everything."""
    return {
        "results": [{**vars(result), "spread": Spread.of(result.epochs)._asdict()} for result in results],
        "growth": [{"size": size, "seconds": found} for size, found in growth.items()],
    }
