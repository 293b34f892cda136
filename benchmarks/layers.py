"""Time one recurrent layer in this library and in others, forward and as a training step.

    python -m benchmarks.layers --quick                    # three shapes, about a minute
    python -m benchmarks.layers                            # all shapes, several minutes
    python -m benchmarks.layers --peers keras torch        # only against these
    python -m benchmarks.layers --members 16               # ensembles of 16 layers under jax.vmap, about a minute

"forward" computes the outputs of every step. "training step" computes the mean of the squared outputs and its
gradients with respect to the parameters; the inputs get no gradient. All in float32, from a zero first carry.
Before any timing all libraries get the same weights and inputs, and their outputs, losses and gradients are
compared. benchmarks/common/timing.py describes how the time is taken.

A ratio is a peer's time divided by ours, pair by pair: above 1, ours is faster. The rate in GFLOP/s counts the
matrix products only, and its share is of the rate of one large matrix product on the same machine, which no layer
can exceed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import jaxrnn
from benchmarks.common import comparison
from benchmarks.common.command import Benchmark, Options, command, known
from benchmarks.common.report import Table, progress, spread_text
from benchmarks.common.rows import (
    ENSEMBLES,
    OURS,
    QUICK,
    SHAPE,
    SHAPES,
    Row,
    Shape,
    first_call_table,
    groups,
    row_table,
    time_table,
)
from benchmarks.common.rows import geometric_means as means_of_all
from benchmarks.common.timing import FirstCalls, Spread, first_calls, geometric_mean
from benchmarks.libraries import LIBRARIES, PEERS, installed, label, ours
from benchmarks.libraries.base import Contestant, Library, layer_in_nnx
from benchmarks.libraries.ours import CELLS

MODES = {"forward": "forward", "train": "training step"}
"""The functions of a contestant, and what they are called."""

WITH_ENSEMBLES = ("nnx", "linen", "haiku")
"""The peers whose layers are functions of their parameters, which jax.vmap takes."""

TOLERANCES = comparison.layer_tolerances(outputs=1e-4, relative=1e-3)


@dataclass(frozen=True)
class LayerOptions(Options):
    """What to measure."""

    cells: tuple[str, ...] = tuple(CELLS)
    """Cells to measure."""

    peers: tuple[str, ...] = tuple(PEERS)
    """Peers to measure."""

    members: int = 1
    """More than one: so many layers at once, each with weights and inputs of its own."""


def run(options: LayerOptions) -> None:
    known("cell", options.cells, CELLS)
    known("peer", options.peers, PEERS)
    members = options.members
    if members < 1:
        raise ValueError(f"--members must be at least 1, not {members}")
    peers, absent = installed(name for name in options.peers if members == 1 or name in WITH_ENSEMBLES)
    name, title = (
        ("layers", "One recurrent layer") if members == 1 else ("ensemble", f"{members} recurrent layers")
    )
    made = Benchmark(options, name, title, __doc__, quick=4, full=20)
    shapes = ENSEMBLES if members > 1 else QUICK if options.quick else SHAPES
    for cell, shape in progress((cell, shape) for cell in options.cells for shape in shapes):
        layers = contestants(cell, shape, peers, members)
        first = {name: first_calls(layer.calls()) for name, layer in layers.items()}
        check(first, f"{cell}, {shape}")
        by_mode(made, {"cell": cell, "shape": shape, "members": members}, layers, first)
    for cell in options.cells:
        for peer in peers.values():
            absent |= peer.absences(cell)
    rate = made.record["machine"]["matmul_gflops"]
    for (cell, mode), group in groups(made.rows, "cell", "mode").items():
        made.add(f"## {cell}: {MODES[mode]}")
        made.table(time_table(group, label=label), f"{cell}: {MODES[mode]}, ms")
        made.table(fastest_table(group, rate), "peers' times divided by ours")
        means = ", ".join(f"{words} {mean:.2f}" for words, mean in geometric_means(group).items())
        made.add(f"Geometric means over shapes of the time divided by ours: {means}." if means else "")
        made.add("First call (tracing and compiling), seconds:")
        made.table(first_call_table(group, label=label))
    path = made.write(absent=absent, **as_json(made.rows, rate))
    draw(made.rows, path.with_suffix(".png"))


def contestants(cell: str, shape: Shape, peers: Mapping[str, Library], members: int = 1) -> dict[str, Contestant]:
    """Ours and every peer that can take part, all with the same weights and inputs."""
    first = ours.first_cell(cell, shape.in_features, shape.hidden)
    sizes = shape[:3] if members == 1 else (members, *shape[:3])
    inputs = np.random.default_rng(0).normal(size=sizes).astype(np.float32)
    found = {OURS: layer_in_nnx(jaxrnn.RNN(first), inputs)}
    for name, peer in peers.items():
        if peer.takes(cell, shape):
            found[name] = peer.layer(cell, first, inputs)
    return found


def check(first: Mapping[str, FirstCalls], where: str) -> None:
    """A ValueError if a layer's outputs, or its training step where it has one, are not like ours."""
    results = {name: comparison.layer_results(calls) for name, calls in first.items()}
    comparison.check(results, OURS, TOLERANCES, where)


def by_mode(
    made: Benchmark, case: Any, layers: Any, first: Mapping[str, FirstCalls], title: str = "", **options: Any
) -> list[Row]:
    """A row for each mode of one case. A title of its own has a place for what the mode is called."""
    rows = []
    for mode, words in MODES.items():
        calls = {name: call for name, layer in layers.items() if (call := layer.calls().get(mode)) is not None}
        of_mode = {name: first[name][mode] for name in calls}
        own = title.format(words) or None
        rows.append(made.measure({**case, "mode": mode}, calls, own, first=of_mode, **options))
    return rows


COLORS = "#0072b2", "#56b4e9", "#009e73", "#8fd3bd", "#d55e00", "#cc79a7", "#e69f00"
"""Those of Okabe and Ito, which colour-blind readers can tell apart."""

STYLES = {name: {"fmt": marker, "color": color} for name, marker, color in zip(PEERS, "os^vDXP", COLORS)}

AGAINST = {"fastest JAX peer": True, "fastest peer of all": False}


def fastest(row: Row) -> dict[str, tuple[str, Spread]]:
    """The fastest peers, of all and only of those in JAX, and their times divided by ours."""
    ratios, found = row.ratios(), {}
    for words, in_jax in AGAINST.items():
        if peers := [name for name in ratios if LIBRARIES[name].in_jax or not in_jax]:
            name = min(peers, key=lambda name: row.timings[name].median)
            found[words] = name, ratios[name]
    return found


def gflops(row: Row, name: str = OURS) -> float:
    """The rate of the matrix products, in 10^9 operations a second."""
    gates = CELLS[row.case["cell"]].num_gates
    flops = row.shape.forward_flops(gates) if row.case["mode"] == "forward" else row.shape.training_flops(gates)
    return row.case["members"] * flops / row.timings[name].median / 1e9


def geometric_means(rows: Sequence[Row]) -> dict[str, float]:
    """Over shapes, the ratio of each peer that ran them all, and of the fastest at each shape, to ours."""
    means = {label(name): mean for name, mean in means_of_all(rows).items()}
    for words in AGAINST:
        if found := [pairs[words][1].median for pairs in map(fastest, rows) if words in pairs]:
            means[words] = geometric_mean(found)
    return means


def fastest_table(rows: Sequence[Row], matmul_gflops: float) -> Table:
    """The fastest peers' times divided by ours, and our rate."""

    def texts(row: Row) -> dict[str, str]:
        pairs = fastest(row).items()
        found = {f"{words} / ours": f"{spread_text(ratio)}, {label(name)}" for words, (name, ratio) in pairs}
        rate = gflops(row)
        return found | {"ours, GFLOP/s": f"{rate:.1f}", "of the matmul rate": f"{rate / matmul_gflops:.0%}"}

    means = {f"{words} / ours": f"{mean:.2f}" for words, mean in geometric_means(rows).items() if words in AGAINST}
    return row_table(rows, texts, last=[("geometric mean", means)])


def as_json(rows: Sequence[Row], matmul_gflops: float) -> dict[str, Any]:
    """Everything, with every single call."""
    found = []
    for row in rows:
        rates = {name: gflops(row, name) for name in row.timings}
        shares = {name: rate / matmul_gflops for name, rate in rates.items()}
        found.append({**row.as_json(), "gflops": rates, "share_of_matmul_rate": shares})
    by_mode = groups(rows, "cell", "mode").items()
    means = [{"cell": cell, "mode": mode, **geometric_means(group)} for (cell, mode), group in by_mode]
    return {"rows": found, "geometric_means": means}


def draw(rows: Sequence[Row], path: Path) -> None:
    """One panel for each cell (downwards) and mode (across): ratios with their quartiles on a log scale."""
    from matplotlib.figure import Figure  # imported late: only the picture needs it
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panels, cells = groups(rows, "cell", "mode"), groups(rows, "cell")
    shapes = max(len(group) for group in panels.values())
    figure = Figure(figsize=(13, (1.2 + 0.55 * shapes) * len(cells) + 0.9), layout="constrained")
    axes = figure.subplots(len(cells), len(MODES), squeeze=False, sharex=True)
    names = list(dict.fromkeys(name for row in rows for name in row.ratios()))
    for axis, ((cell, mode), group) in zip(axes.flat, panels.items()):
        axis.axvspan(1e-3, 1, color="0.95", zorder=0)
        axis.axvline(1, color="black", linewidth=1.2)
        for number, name in enumerate(names):
            offset = 0.6 * (number / max(len(names) - 1, 1) - 0.5)
            found = [(i + offset, row.ratios()[name]) for i, row in enumerate(group) if name in row.timings]
            if found:
                median, low, high = np.array([spread for _, spread in found]).T
                bars = {"xerr": [median - low, high - median], "markersize": 6, "linewidth": 1.4}
                axis.errorbar(median, [height for height, _ in found], label=label(name), **bars, **STYLES[name])
        for border in range(1, len(group)):
            axis.axhline(border - 0.5, color="0.88", linewidth=0.8, zorder=0)
        ticks = [f"{row.shape}\nours {row.timings[OURS].median * 1e3:.3g} ms" for row in group]
        axis.set_yticks(range(len(group)), ticks, fontsize=9)
        axis.set_ylim(len(group) - 0.5, -0.5)
        axis.set_title(f"{cell}: {MODES[mode]}", fontsize=11)
        axis.set_xscale("log")
    ratios = [ratio for row in rows for ratio in row.ratios().values()]
    low, high = min([0.8, *(r.low for r in ratios)]) / 1.1, max([1.25, *(r.high for r in ratios)]) * 1.1
    for axis in axes.flat:
        axis.set_xlim(low, high)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    figure.supxlabel("time divided by ours (right of the line: ours is faster; bars: quartiles)", fontsize=10)
    figure.supylabel(SHAPE, fontsize=10)
    handles, labels = max((a.get_legend_handles_labels() for a in axes.flat), key=lambda pair: len(pair[0]))
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=130)


main = command(LayerOptions, run, "layers", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
