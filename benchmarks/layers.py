"""Time one recurrent layer in this library and in others, forward and as a training step.

    python -m benchmarks.layers --quick                    # three shapes, about a minute
    python -m benchmarks.layers                            # all shapes, several minutes
    python -m benchmarks.layers --peers keras torch        # only against these

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

from benchmarks.common import comparison
from benchmarks.common.command import Options, command, known
from benchmarks.common.report import Report, Table, medians, progress, spread_text
from benchmarks.common.rows import OURS, QUICK, SHAPE, SHAPES, Row, Shape, by_shape, groups, time_table
from benchmarks.common.rows import geometric_means as means_of_all
from benchmarks.common.timing import Spread, geometric_mean, interleave, seconds_of
from benchmarks.libraries import LIBRARIES, PEERS, installed, label, ours
from benchmarks.libraries.base import Contestant, Library
from benchmarks.libraries.ours import CELLS

MODES = {"forward": "forward", "train": "training step"}
"""The functions of a contestant, and what they are called."""

TOLERANCES = comparison.layer_tolerances(outputs=1e-4, relative=1e-3)


@dataclass(frozen=True)
class LayerOptions(Options):
    """What to measure."""

    cells: tuple[str, ...] = tuple(CELLS)
    """Cells to measure."""

    peers: tuple[str, ...] = tuple(PEERS)
    """Peers to measure."""


def run(options: LayerOptions) -> None:
    known("cell", options.cells, CELLS)
    known("peer", options.peers, PEERS)
    repetitions = options.given(options.repetitions, quick=4, full=20)
    shapes = options.given(None, quick=QUICK, full=SHAPES)
    peers, absences = installed(options.peers)
    machine = options.start()

    rows: list[Row] = []
    with progress(len(options.cells) * len(shapes) * len(MODES) * repetitions) as update:
        for cell in options.cells:
            for shape in shapes:
                update(f"{cell}, {shape}")
                layers = contestants(cell, shape, peers)
                first = {name: first_calls(layer) for name, layer in layers.items()}
                check(layers, f"{cell}, {shape}")
                rows += timed(
                    {"cell": cell, "shape": shape}, layers, first, repetitions=repetitions, advance=update
                )
            for peer in peers.values():
                absences |= peer.absences(cell)

    rate = machine["matmul_gflops"]
    made = report(rows, rate, repetitions, [f"{who}: {why}." for who, why in absences.items()])
    results = {"repetitions": repetitions, "absent": absences, **as_json(rows, rate)}
    path = made.write(options.name("layers"), results, machine, options.out)
    draw(rows, path.with_suffix(".png"))


def contestants(cell: str, shape: Shape, peers: Mapping[str, Library]) -> dict[str, Contestant]:
    """Ours and every peer that can take part, all with the same weights and inputs."""
    weights = ours.first_weights(cell, shape.in_features, shape.hidden)
    inputs = np.random.default_rng(0).normal(size=shape[:3]).astype(np.float32)
    found = {OURS: ours.layer(cell, weights, inputs)}
    for name, peer in peers.items():
        if peer.takes(cell, shape):
            assert peer.layer is not None
            found[name] = peer.layer(peer.cells[cell], weights, inputs)
    return found


def first_calls(layer: Contestant) -> dict[str, float]:
    """Seconds of the first call of each of its functions, in which JAX compiles."""
    calls = {mode: getattr(layer, mode) for mode in MODES}
    return {mode: seconds_of(call) for mode, call in calls.items() if call is not None}


def check(layers: Mapping[str, Contestant], where: str) -> None:
    """A ValueError if a layer's outputs, or its training step where it has one, are not like ours."""
    results = {name: comparison.layer_results(*layer) for name, layer in layers.items()}
    trained = {name: result for name, result in results.items() if layers[name].train is not None}
    comparison.check(results, OURS, {"outputs": TOLERANCES["outputs"]}, where)
    comparison.check(trained, OURS, TOLERANCES, where)


def timed(
    case: dict[str, Any], layers: Mapping[str, Contestant], first: Mapping[str, dict], **options
) -> list[Row]:
    """A row for each mode of one case; ``options`` are those of :func:`interleave`."""
    rows = []
    for mode in MODES:
        calls = {name: call for name, layer in layers.items() if (call := getattr(layer, mode)) is not None}
        seconds = {name: first[name][mode] for name in calls}
        rows.append(Row({**case, "mode": mode}, interleave(calls, first_calls=seconds, **options)))
    return rows


STYLES = {
    "nnx": {"fmt": "o", "color": "#0072b2"},
    "linen": {"fmt": "s", "color": "#56b4e9"},
    "haiku": {"fmt": "^", "color": "#009e73"},
    "haiku-static": {"fmt": "v", "color": "#8fd3bd"},
    "keras": {"fmt": "D", "color": "#d55e00"},
    "torch": {"fmt": "X", "color": "#cc79a7"},
    "onnxruntime": {"fmt": "P", "color": "#e69f00"},
}
"""Marker and colour; the colours of Okabe and Ito, which colour-blind readers can tell apart."""

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
        if found := [pair[1].median for pair in pairs if pair is not None]:
            means[words] = geometric_mean(found)
    return means


def fastest_table(rows: Sequence[Row], matmul_gflops: float) -> Table:
    """The fastest peers' times divided by ours, and our rate."""

    def texts(row: Row) -> dict[str, str]:
        pairs = {words: against_fastest(row, in_jax=in_jax) for words, in_jax in AGAINST.items()}
        found = {f"{w} / ours": f"{spread_text(pair[1])}, {label(pair[0])}" for w, pair in pairs.items() if pair}
        rate = gflops(row)
        return found | {"ours, GFLOP/s": f"{rate:.1f}", "of the matmul rate": f"{rate / matmul_gflops:.0%}"}

    means = {f"{words} / ours": f"{mean:.2f}" for words, mean in geometric_means(rows).items() if words in AGAINST}
    return Table.of(SHAPE, [*((by_shape(row), texts(row)) for row in rows), ("geometric mean", means)])


def first_call_table(rows: Sequence[Row]) -> Table:
    """Seconds of the first call, in which JAX traces and compiles."""
    seconds = [(by_shape(row), {n: f"{t.first_call:.2f}" for n, t in row.timings.items()}) for row in rows]
    return Table.of(SHAPE, seconds, label)


def report(rows: Sequence[Row], matmul_gflops: float, repetitions: int, notes: Sequence[str]) -> Report:
    made = Report("One recurrent layer", medians("Milliseconds", repetitions), __doc__, notes)
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
    by_mode = groups(rows, "cell", "mode").items()
    means = [{"cell": cell, "mode": mode, **geometric_means(group)} for (cell, mode), group in by_mode]
    return {"rows": found, "geometric_means": means}


def draw(rows: Sequence[Row], path: Path) -> None:
    """One panel for each cell (downwards) and mode (across): ratios with their quartiles on a log scale."""
    from matplotlib.figure import Figure  # imported late: only the picture needs it
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panels = groups(rows, "cell", "mode")
    cells = list(dict.fromkeys(cell for cell, _ in panels))
    shapes = max(len(group) for group in panels.values())
    figure = Figure(figsize=(13, (1.2 + 0.55 * shapes) * len(cells) + 0.9), layout="constrained")
    axes = figure.subplots(len(cells), len(MODES), squeeze=False, sharex=True)
    names = list(dict.fromkeys(name for row in rows for name in row.ratios()))
    for (cell, mode), group in panels.items():
        axis = axes[cells.index(cell), list(MODES).index(mode)]
        axis.axvspan(1e-3, 1, color="0.95", zorder=0)
        axis.axvline(1, color="black", linewidth=1.2)
        for i, name in enumerate(names):
            offset = 0.6 * (i / max(len(names) - 1, 1) - 0.5)
            found = [(i + offset, row.ratios()[name]) for i, row in enumerate(group) if name in row.timings]
            if not found:
                continue
            heights, spreads = zip(*found)
            axis.errorbar(
                [s.median for s in spreads],
                heights,
                xerr=[[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]],
                **STYLES[name],
                markersize=6,
                linewidth=1.4,
                label=label(name),
            )
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
