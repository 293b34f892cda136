"""The sizes that one layer is measured at, one row of a benchmark, and the tables that are made of rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
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

ENSEMBLES = (LESSON, Shape(1, 1000, 1, 100), Shape(8, 128, 8, 64))
"""Of many small layers at once."""

QUICK = (LESSON, Shape(1, 1000, 1, 100), Shape(32, 128, 64, 256))


@dataclass(frozen=True)
class Row:
    """The times of all contestants in one case, for example of a ``cell``, ``mode`` and ``shape``. The shape is
    its title unless there is another one. Times of the others are divided by the baseline's."""

    case: dict[str, Any]
    timings: dict[str, Timing]
    title: str | None = None
    baseline: str = OURS

    @property
    def shape(self) -> Shape:
        return self.case["shape"]

    def ratios(self) -> dict[str, Spread]:
        """The time of every other contestant divided by the baseline's."""
        base = self.timings[self.baseline]
        return {name: ratio(timing, base) for name, timing in self.timings.items() if name != self.baseline}

    def texts(self, unit: float = 1) -> dict[str, str]:
        """Every contestant's time in this unit (seconds), the fastest in bold."""
        found = {name: spread_text(timing.spread, unit) for name, timing in self.timings.items()}
        fastest = min(self.timings, key=lambda name: self.timings[name].median)
        return found | {fastest: f"**{found[fastest]}**"}

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


def row_table(
    rows: Sequence[Row],
    texts: Callable[[Row], Mapping[str, str]],
    heading: str = SHAPE,
    label: Callable[[str], str] = str,
    last: Iterable[tuple[str, Mapping[str, str]]] = (),
) -> Table:
    """A line for each row: its title below the heading, then its texts by contestant, which ``label`` names; and
    the ``last`` lines."""
    return Table.of(heading, [*((row.title or str(row.shape), texts(row)) for row in rows), *last], label)


def time_table(rows: Sequence[Row], unit: float = 1e-3, heading: str = SHAPE, label: Any = str) -> Table:
    """The time of every contestant in this unit (seconds), the fastest of a row in bold."""
    return row_table(rows, lambda row: row.texts(unit), heading, label)


def first_call_table(rows: Sequence[Row], heading: str = SHAPE, label: Any = str) -> Table:
    """Seconds of the first call, in which JAX traces and compiles."""
    return row_table(rows, lambda row: {n: f"{t.first_call:.2f}" for n, t in row.timings.items()}, heading, label)


def ratio_table(rows: Sequence[Row], heading: str = SHAPE) -> Table:
    """The other contestants' times divided by the baseline's, and the geometric mean where there are more rows."""
    means = {name: f"{mean:.2f}" for name, mean in geometric_means(rows).items()}
    last = [("geometric mean", means)] if len(rows) > 1 else []

    def texts(row: Row) -> dict[str, str]:
        return {name: spread_text(spread) for name, spread in row.ratios().items()}

    return row_table(rows, texts, heading, lambda name: f"{name} / {rows[0].baseline}", last)


def geometric_means(rows: Sequence[Row]) -> dict[str, float]:
    """The mean ratio of every contestant that took part in all rows."""
    ratios = [row.ratios() for row in rows]
    return {
        name: geometric_mean([found[name].median for found in ratios])
        for name in next(iter(ratios), {})
        if all(name in found for found in ratios)
    }
