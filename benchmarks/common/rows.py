"""One row of a benchmark, and the tables that are made of rows."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.common.report import Table, spread_text
from benchmarks.common.shapes import Shape
from benchmarks.common.timing import Spread, Timing, geometric_mean, ratio

OURS = "jaxrnn"
"""The contestant that the others are compared with."""

SHAPE = "batch x time x in, hidden"


@dataclass(frozen=True)
class Row:
    """What was measured of one case.

    Attributes:
      case: what the case is, for example its ``cell``, ``mode`` and ``shape``, in the order of its title.
      timings: by contestant.
      baseline: the contestant whose time the others are divided by.
    """

    case: dict[str, Any]
    timings: dict[str, Timing]
    baseline: str = OURS

    @property
    def shape(self) -> Shape:
        return self.case["shape"]

    def ratios(self) -> dict[str, Spread]:
        """The time of every other contestant divided by the baseline's."""
        base = self.timings[self.baseline]
        return {name: ratio(timing, base) for name, timing in self.timings.items() if name != self.baseline}

    def fastest(self) -> str:
        return min(self.timings, key=lambda name: self.timings[name].median)

    def as_json(self) -> dict[str, Any]:
        """Everything, with every single call."""
        case = {name: v._asdict() if isinstance(v, Shape) else v for name, v in self.case.items()}
        return {
            **case,
            "timings": {name: timing.as_json() for name, timing in self.timings.items()},
            "ratios_to_ours": {name: spread._asdict() for name, spread in self.ratios().items()},
        }


def groups(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by the values of these names in their cases."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.case[name] for name in names), []).append(row)
    return found


def names_of(rows: Iterable[Row]) -> list[str]:
    """All contestants, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.timings))


Title = Callable[[Row], str]
Label = Callable[[str], str]


def by_shape(row: Row) -> str:
    return str(row.shape)


def time_table(
    rows: Sequence[Row],
    *,
    unit: float = 1e-3,
    heading: str = SHAPE,
    title: Title = by_shape,
    label: Label = str,
) -> Table:
    """The time of every contestant, the fastest of a row in bold.

    Args:
      unit: of the numbers, in seconds.
      heading: of the first column.
      title: the first column's text for a row.
      label: the name of a contestant in the table.
    """
    names = names_of(rows)
    lines = []
    for row in rows:
        texts = {n: spread_text(t.spread, unit) for n, t in row.timings.items()}
        texts[row.fastest()] = f"**{texts[row.fastest()]}**"
        lines.append([title(row), *(texts.get(name, "") for name in names)])
    return Table([heading, *map(label, names)], lines)


def ratio_table(
    rows: Sequence[Row], *, heading: str = SHAPE, title: Title = by_shape, label: Label = str
) -> Table:
    """The other contestants' times divided by the baseline's, and the geometric mean where there are more rows."""
    names = [name for name in names_of(rows) if name != rows[0].baseline]
    lines = []
    for row in rows:
        texts = {name: spread_text(spread) for name, spread in row.ratios().items()}
        lines.append([title(row), *(texts.get(name, "") for name in names)])
    if len(rows) > 1:
        means = geometric_means(rows)
        lines.append(["geometric mean", *(f"{means[n]:.2f}" if n in means else "" for n in names)])
    return Table([heading, *(f"{label(name)} / {label(rows[0].baseline)}" for name in names)], lines)


def geometric_means(rows: Sequence[Row]) -> dict[str, float]:
    """The mean ratio of every contestant that took part in all rows."""
    names = [n for n in names_of(rows) if all(n in row.timings and n != row.baseline for row in rows)]
    return {name: geometric_mean([row.ratios()[name].median for row in rows]) for name in names}
