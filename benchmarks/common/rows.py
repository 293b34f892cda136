"""The sizes that one layer is measured at, one row of a benchmark, and the tables that are made of rows."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.common.report import Table, spread_text
from benchmarks.common.timing import Spread, Timing, geometric_mean, ratio

OURS = "jaxrnn"
"""The contestant that the others are compared with."""

SHAPE = "batch x time x in, hidden"


class Shape(NamedTuple):
    """The sizes of one layer and its inputs ``[batch, time, in_features]``.

    >>> str(Shape(128, 30, 1, 100))
    '128 x 30 x 1, 100'
    """

    batch: int
    time: int
    in_features: int
    hidden: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.time} x {self.in_features}, {self.hidden}"

    def forward_flops(self, gates: int) -> int:
        """Floating-point operations of the matrix products: both projections of every gate at every step."""
        return 2 * self.batch * self.time * gates * self.hidden * (self.in_features + self.hidden)

    def training_flops(self, gates: int) -> int:
        """The same with the backward pass to the parameters: d kernel, d recurrent_kernel and dh, but no dx."""
        backward = 2 * self.batch * self.time * gates * self.hidden * (self.in_features + 2 * self.hidden)
        return self.forward_flops(gates) + backward


LESSON = Shape(128, 30, 1, 100)
"""The first layer of the forecast experiment."""

SHAPES = (
    LESSON,
    Shape(1, 1000, 1, 100),  # one long series: nothing to spread over cores or vector units but H
    Shape(1, 4096, 16, 32),  # longer and smaller: only the cost of a step counts
    Shape(64, 256, 64, 64),
    Shape(256, 64, 32, 128),  # a wide batch
    Shape(32, 128, 64, 256),
    Shape(16, 256, 256, 512),
    Shape(8, 128, 512, 1024),  # the recurrent kernel (4 MiB a gate) fits no level-2 cache
)

QUICK = (LESSON, Shape(1, 1000, 1, 100), Shape(32, 128, 64, 256))


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

    def texts(self, unit: float = 1) -> dict[str, str]:
        """Every contestant's time in this unit (seconds), the fastest in bold."""
        found = {name: spread_text(timing.spread, unit) for name, timing in self.timings.items()}
        return found | {self.fastest(): f"**{found[self.fastest()]}**"}

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


Title = Callable[[Row], str]
Label = Callable[[str], str]


def by_shape(row: Row) -> str:
    return str(row.shape)


def time_table(
    rows: Sequence[Row], *, unit: float = 1e-3, heading: str = SHAPE, title: Title = by_shape, label: Label = str
) -> Table:
    """The time of every contestant, the fastest of a row in bold.

    Args:
      unit: of the numbers, in seconds.
      heading: of the first column.
      title: the first column's text for a row.
      label: the name of a contestant in the table.
    """
    return Table.of(heading, [(title(row), row.texts(unit)) for row in rows], label)


def ratio_table(
    rows: Sequence[Row], *, heading: str = SHAPE, title: Title = by_shape, label: Label = str
) -> Table:
    """The other contestants' times divided by the baseline's, and the geometric mean where there are more rows."""
    lines = [(title(row), {name: spread_text(spread) for name, spread in row.ratios().items()}) for row in rows]
    if len(rows) > 1:
        lines.append(("geometric mean", {name: f"{mean:.2f}" for name, mean in geometric_means(rows).items()}))
    return Table.of(heading, lines, lambda name: f"{label(name)} / {label(rows[0].baseline)}")


def geometric_means(rows: Sequence[Row]) -> dict[str, float]:
    """The mean ratio of every contestant that took part in all rows."""
    ratios = [row.ratios() for row in rows]
    return {
        name: geometric_mean([found[name].median for found in ratios])
        for name in next(iter(ratios), {})
        if all(name in found for found in ratios)
    }
