"""The picture of benchmarks.layers: every peer's time beside ours, shape by shape."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.rows import OURS, SHAPE, Row, groups, names_of
from benchmarks.libraries import label
from benchmarks.reports.layers import MODES

STYLES = {
    "nnx": ("o", "#0072b2"),
    "linen": ("s", "#56b4e9"),
    "haiku": ("^", "#009e73"),
    "haiku-static": ("v", "#8fd3bd"),
    "keras": ("D", "#d55e00"),
    "torch": ("X", "#cc79a7"),
}
"""Marker and colour; the colours of Okabe and Ito, which colour-blind readers can tell apart."""


def draw(rows: Sequence[Row], path: Path) -> None:
    """One panel for each cell (downwards) and mode (across): ratios with their quartiles on a log scale."""
    from matplotlib.figure import Figure  # imported late: only the picture needs it
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panels = groups(rows, "cell", "mode")
    cells = list(dict.fromkeys(cell for cell, _ in panels))
    shapes = max(len(group) for group in panels.values())
    size = (13, (1.2 + 0.55 * shapes) * len(cells) + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(cells), len(MODES), squeeze=False, sharex=True)
    names = [name for name in names_of(rows) if name != OURS]
    for (cell, mode), group in panels.items():
        axis = axes[cells.index(cell), list(MODES).index(mode)]
        axis.axvspan(1e-3, 1, color="0.95", zorder=0)
        axis.axvline(1, color="black", linewidth=1.2)
        for i, name in enumerate(names):
            offset = 0.6 * (i / max(len(names) - 1, 1) - 0.5)
            found = [
                (place + offset, row.ratios()[name]) for place, row in enumerate(group) if name in row.timings
            ]
            if not found:
                continue
            heights, spreads = zip(*found)
            axis.errorbar(
                [s.median for s in spreads],
                heights,
                xerr=[[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]],
                fmt=STYLES[name][0],
                color=STYLES[name][1],
                markersize=6,
                linewidth=1.4,
                label=label(name),
            )
        for border in range(1, len(group)):
            axis.axhline(border - 0.5, color="0.88", linewidth=0.8, zorder=0)
        axis.set_yticks(
            range(len(group)),
            [f"{row.shape}\nours {row.timings[OURS].median * 1e3:.3g} ms" for row in group],
            fontsize=9,
        )
        axis.set_ylim(len(group) - 0.5, -0.5)
        axis.set_title(f"{cell}: {MODES[mode]}", fontsize=11)
        axis.set_xscale("log")
    low, high = _limits(rows)
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


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    spreads = [spread for row in rows for spread in row.ratios().values()]
    low = min([0.8, *(s.low for s in spreads)])
    high = max([1.25, *(s.high for s in spreads)])
    return low / 1.1, high * 1.1
