"""Fan charts of forecasts with intervals. Import this module only when it is needed: it imports matplotlib."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from experiments.common.plots import ACTUAL, OURS, draw_values
from experiments.common.report import digits
from jaxrnn.forecasting import OneSeries

MOST_PANELS = 6


def plot_fans(
    path: Path,
    panel: list[OneSeries],
    columns: dict[str, np.ndarray],
    horizon: int,
    errors: Mapping[str, float],
) -> None:
    """Plot the end of each series and its forecast; of more than six, the two worst, middle and best ones.

    Args:
      path: the file to write.
      panel: the series.
      columns: the forecasts, of ``Forecaster.predict``.
      horizon: steps of each.
      errors: the error of a series in the backtest, by its name, for series that were judged.
    """
    by_series = {name: np.reshape(columns[name], (len(panel), horizon)) for name in columns}
    chosen = choose(panel, errors)
    rows = -(-len(chosen) // 2)
    figure, grid = plt.subplots(
        rows, min(2, len(chosen)), figsize=(11, 3.4 * rows + 1), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    for axes, (place, what) in zip(grid.flat, chosen):
        one = panel[place]
        shown = min(len(one.values), 6 * horizon)
        before, after = one.times[-shown:], by_series["ds"][place]
        values = np.where(one.observed, one.values, np.nan)[-shown:]
        draw_values(axes, before, values, color=ACTUAL, linewidth=1, label="values")
        for low, high, strength, label in (("lo-95", "hi-95", 0.15, "95 %"), ("lo-80", "hi-80", 0.3, "80 %")):
            bounds = by_series[low][place], by_series[high][place]
            label = f"{label} interval"
            if horizon > 1:
                axes.fill_between(after, *bounds, color=OURS, alpha=strength, linewidth=0, label=label)
            else:
                axes.vlines(after, *bounds, color=OURS, alpha=strength, linewidth=6, label=label)
        draw_values(axes, after, by_series["yhat"][place], color=OURS, linewidth=1.4, label="forecast")
        title = f"{what}{one.name}"
        if np.isfinite(errors.get(one.name, np.nan)):
            title += f" (MASE {digits(errors[one.name])} in the backtest)"
        axes.set_title(title, loc="left", fontsize=10, parse_math=False)
        axes.tick_params(axis="x", labelsize=8)
        if one.times.dtype.kind == "M":
            axes.tick_params(axis="x", rotation=20)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9, frameon=False)
    figure.savefig(path)
    plt.close(figure)


def choose(panel: list[OneSeries], errors: Mapping[str, float]) -> list[tuple[int, str]]:
    """The places of the series to plot, and what the titles call them."""
    if len(panel) <= MOST_PANELS:
        return [(place, "") for place in range(len(panel))]
    judged = [place for place, one in enumerate(panel) if np.isfinite(errors.get(one.name, np.nan))]
    if len(judged) < MOST_PANELS:
        return [(place, "") for place in range(MOST_PANELS)]
    order = sorted(judged, key=lambda place: -errors[panel[place].name])
    middle = len(order) // 2 - 1
    parts = {"worst: ": order[:2], "middle: ": order[middle : middle + 2], "best: ": order[-2:]}
    return [(place, name) for name, places in parts.items() for place in places]
