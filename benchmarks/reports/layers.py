"""The report of benchmarks.layers."""

from collections.abc import Sequence

from benchmarks.common.report import Report, Table, spread_text
from benchmarks.common.rows import OURS, SHAPE, Row, by_shape, groups, names_of, time_table
from benchmarks.common.rows import geometric_means as means_of_all
from benchmarks.common.timing import Spread, geometric_mean
from benchmarks.libraries import LIBRARIES, label
from benchmarks.libraries.ours import CELLS

MODES = {"forward": "forward", "train": "training step"}
"""The functions of a contestant, and what they are called."""

AGAINST = {"fastest JAX peer": True, "fastest peer of all": False}


def against_fastest(row: Row, *, in_jax: bool) -> tuple[str, Spread] | None:
    """The fastest peer, of all or only of those in JAX, and its time divided by ours."""
    peers = [name for name in row.timings if name != OURS and (LIBRARIES[name].in_jax or not in_jax)]
    if not peers:
        return None
    fastest = min(peers, key=lambda name: row.timings[name].median)
    return fastest, row.ratios()[fastest]


def gflops(row: Row, name: str = OURS) -> float:
    """The rate of the matrix products, in 10^9 operations a second."""
    gates = CELLS[row.case["cell"]].num_gates
    flops = row.shape.forward_flops(gates) if row.case["mode"] == "forward" else row.shape.training_flops(gates)
    return flops / row.timings[name].median / 1e9


def geometric_means(rows: Sequence[Row]) -> dict[str, float]:
    """Over shapes, the ratio of each peer that ran them all, and of the fastest at each shape, to ours."""
    means = {label(name): mean for name, mean in means_of_all(rows).items()}
    for words, in_jax in AGAINST.items():
        pairs = [against_fastest(row, in_jax=in_jax) for row in rows]
        found = [pair[1].median for pair in pairs if pair is not None]
        if found:
            means[words] = geometric_mean(found)
    return means


def fastest_table(rows: Sequence[Row], matmul_gflops: float) -> Table:
    """The fastest peers' times divided by ours, and our rate."""
    lines = []
    for row in rows:
        line = [by_shape(row)]
        for in_jax in AGAINST.values():
            pair = against_fastest(row, in_jax=in_jax)
            name, spread = pair or ("", None)
            line.append(f"{spread_text(spread)}, {label(name)}" if spread else "")
        lines.append([*line, f"{gflops(row):.1f}", f"{gflops(row) / matmul_gflops:.0%}"])
    means = geometric_means(rows)
    lines.append(["geometric mean", *(f"{means[w]:.2f}" if w in means else "" for w in AGAINST), "", ""])
    against = [f"{words} / ours" for words in AGAINST]
    return Table([SHAPE, *against, "ours, GFLOP/s", "of the matmul rate"], lines)


def first_call_table(rows: Sequence[Row]) -> Table:
    """Seconds of the first call, in which JAX traces and compiles."""
    names = names_of(rows)
    lines = [
        [by_shape(row), *(f"{row.timings[n].first_call:.2f}" if n in row.timings else "" for n in names)]
        for row in rows
    ]
    return Table([SHAPE, *map(label, names)], lines)


def report(rows: Sequence[Row], matmul_gflops: float, repetitions: int, notes: Sequence[str]) -> Report:
    made = Report(
        "One recurrent layer",
        f"Milliseconds: median, and quartiles in parentheses, of {repetitions} repetitions of 2 calls; the "
        "fastest in bold. Float32, inputs `[batch, time, in]`, a zero first carry, the same weights in all "
        "(outputs, losses and gradients are compared before). A training step computes the mean of the squared "
        "outputs and its gradients with respect to the parameters; inputs get no gradient. Ratios are a peer's "
        "time divided by ours, pair by pair: above 1 ours is faster, below 1 it is slower.",
        notes,
    )
    for (cell, mode), group in groups(rows, "cell", "mode").items():
        made.add(f"## {cell}: {MODES[mode]}")
        made.table(time_table(group, label=label), f"{cell}: {MODES[mode]}, ms")
        made.table(fastest_table(group, matmul_gflops), "peers' times divided by ours")
        means = ", ".join(f"{words} {mean:.2f}" for words, mean in geometric_means(group).items())
        made.add(f"Geometric means over shapes of the time divided by ours: {means}." if means else "")
        made.add("First call (tracing and compiling), seconds:")
        made.table(first_call_table(group))
    return made


def as_json(rows: Sequence[Row], matmul_gflops: float) -> dict[str, list[dict]]:
    """Everything, with every single call."""
    found = []
    for row in rows:
        rates = {name: gflops(row, name) for name in row.timings}
        shares = {name: rate / matmul_gflops for name, rate in rates.items()}
        found.append({**row.as_json(), "gflops": rates, "share_of_matmul_rate": shares})
    means = [
        {"cell": cell, "mode": mode, **geometric_means(group)}
        for (cell, mode), group in groups(rows, "cell", "mode").items()
    ]
    return {"rows": found, "geometric_means": means}
