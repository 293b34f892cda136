"""The tables of benchmarks.layers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.cells import CELLS
from benchmarks.peers import OURS, PEERS
from benchmarks.report import Table, console, milliseconds, times
from benchmarks.shapes import Shape
from benchmarks.timing import Spread, Timing, geometric_mean, ratio

MODES = {"forward": "forward", "train": "training step"}
"""The functions of a contestant, and what they are called."""

LABELS = {OURS: OURS, **{name: peer.label for name, peer in PEERS.items()}}

SHAPE = "batch x time x in, hidden"

AGAINST = {"fastest JAX peer": True, "fastest peer of all": False}


class Row(NamedTuple):
    """Everything measured of one cell at one shape in one mode."""

    cell: str
    mode: str
    shape: Shape
    timings: dict[str, Timing]

    def ratios(self) -> dict[str, Spread]:
        """Each peer's time divided by ours."""
        return {name: ratio(t, self.timings[OURS]) for name, t in self.timings.items() if name != OURS}

    def against_fastest(self, *, in_jax: bool) -> tuple[str, Spread] | None:
        """The fastest peer, of all or only of those in JAX, and its time divided by ours."""
        peers = [name for name in self.timings if name != OURS and (PEERS[name].in_jax or not in_jax)]
        if not peers:
            return None
        fastest = min(peers, key=lambda name: self.timings[name].median)
        return fastest, self.ratios()[fastest]

    def gflops(self, name: str = OURS) -> float:
        """The rate of the matrix products, in 10^9 operations a second."""
        gates = CELLS[self.cell].cell.num_gates
        flops = self.shape.forward_flops(gates) if self.mode == "forward" else self.shape.training_flops(gates)
        return flops / self.timings[name].median / 1e9


def groups(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by cell and mode."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.cell, row.mode), []).append(row)
    return found


def contestants_of(rows: Sequence[Row]) -> list[str]:
    """Who appears in the rows, ours first."""
    return [name for name in LABELS if any(name in row.timings for row in rows)]


def geometric_means(rows: Sequence[Row]) -> dict[str, float]:
    """Over shapes, the ratio of each peer that ran them all, and of the fastest at each shape, to ours."""
    means = {}
    for name in contestants_of(rows):
        if name != OURS and all(name in row.timings for row in rows):
            means[LABELS[name]] = geometric_mean([row.ratios()[name].median for row in rows])
    for words, in_jax in AGAINST.items():
        pairs = [row.against_fastest(in_jax=in_jax) for row in rows]
        found = [pair[1].median for pair in pairs if pair is not None]
        if found:
            means[words] = geometric_mean(found)
    return means


def time_table(rows: Sequence[Row], *, brief: bool = False) -> Table:
    """Milliseconds of every contestant, the least of a row in bold; brief is without quartiles."""
    names = contestants_of(rows)
    lines = []
    for row in rows:
        least = min(row.timings.values(), key=lambda timing: timing.median)
        line = [str(row.shape)]
        for name in names:
            timing = row.timings.get(name)
            text = "" if timing is None else milliseconds(timing.spread, quartiles=not brief)
            line.append(f"**{text}**" if timing is least else text)
        lines.append(line)
    return Table(["shape" if brief else SHAPE, *(name if brief else LABELS[name] for name in names)], lines)


def ratio_table(rows: Sequence[Row], matmul_gflops: float, *, brief: bool = False) -> Table:
    """Ours against the fastest peers, and how near it comes to the machine's rate; brief is without quartiles."""
    lines = []
    for row in rows:
        line = [str(row.shape)]
        for in_jax in AGAINST.values():
            pair = row.against_fastest(in_jax=in_jax)
            line.append(
                ""
                if pair is None
                else f"{times(pair[1], quartiles=not brief)}, {pair[0] if brief else LABELS[pair[0]]}"
            )
        line += [f"{row.gflops():.1f}", f"{row.gflops() / matmul_gflops:.0%}"]
        lines.append(line)
    means = geometric_means(rows)
    lines.append(["geometric mean", *(f"{means[w]:.2f}" if w in means else "" for w in AGAINST), "", ""])
    columns = ["shape" if brief else SHAPE, *(f"{words} / ours" for words in AGAINST)]
    return Table([*columns, "ours, GFLOP/s", "of the matmul rate"], lines)


def first_call_table(rows: Sequence[Row]) -> Table:
    """Seconds of the first call, in which JAX traces and compiles."""
    names = contestants_of(rows)
    lines = [
        [str(row.shape), *(f"{row.timings[n].first_call:.2f}" if n in row.timings else "" for n in names)]
        for row in rows
    ]
    return Table([SHAPE, *(LABELS[name] for name in names)], lines)


def markdown(rows: Sequence[Row], matmul_gflops: float, repetitions: int, notes: Sequence[str]) -> str:
    """The whole report."""
    parts = [
        "# One recurrent layer\n\n",
        f"Milliseconds: median, and quartiles in parentheses, of {repetitions} repetitions of 2 calls; the "
        "fastest in bold. Float32, inputs `[batch, time, in]`, zero first carry, same weights in all (outputs, "
        "losses and gradients compared before). A training step is the mean of the squared outputs with its "
        "gradients with respect to the parameters; inputs get no gradient. Ratios are a peer's time divided by "
        "ours, pair by pair: above 1 ours is faster, below 1 it is slower.\n\n",
        *(f"- {note}\n" for note in notes),
    ]
    for (cell, mode), group in groups(rows).items():
        means = ", ".join(f"{words} {mean:.2f}" for words, mean in geometric_means(group).items())
        parts += [
            f"\n## {cell}: {MODES[mode]}\n\n",
            time_table(group).markdown(),
            "\n",
            ratio_table(group, matmul_gflops).markdown(),
            f"\nGeometric means over shapes of the time divided by ours: {means}.\n" if means else "",
            "\nFirst call (tracing and compiling), seconds:\n\n",
            first_call_table(group).markdown(),
        ]
    return "".join(parts)


def show(rows: Sequence[Row], matmul_gflops: float, notes: Sequence[str]) -> None:
    """The short form, on the console."""
    for (cell, mode), group in groups(rows).items():
        time_table(group, brief=True).show(f"{cell}: {MODES[mode]}, ms ({SHAPE})")
        ratio_table(group, matmul_gflops, brief=True).show("peers' times divided by ours")
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)


def as_json(rows: Sequence[Row], matmul_gflops: float) -> dict[str, Any]:
    """Everything, with every single call."""
    return {
        "rows": [
            {
                "cell": row.cell,
                "mode": row.mode,
                "shape": row.shape._asdict(),
                "timings": {name: timing.as_json() for name, timing in row.timings.items()},
                "ratios_to_ours": {name: spread._asdict() for name, spread in row.ratios().items()},
                "gflops": {name: row.gflops(name) for name in row.timings},
                "share_of_matmul_rate": {name: row.gflops(name) / matmul_gflops for name in row.timings},
            }
            for row in rows
        ],
        "geometric_means": [
            {"cell": cell, "mode": mode, **geometric_means(group)} for (cell, mode), group in groups(rows).items()
        ],
    }
