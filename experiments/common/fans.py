"""Fan charts of forecasts with intervals. Import this module only when it is needed: it imports matplotlib."""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from experiments.common.plots import ACTUAL, OURS
from jaxrnn.forecasting import OneSeries

MOST_PANELS = 6


def plot_fans(path: Path, panel: list[OneSeries], columns: dict[str, np.ndarray], horizon: int) -> None:
    """Plot the end of one series and its forecast, or of six that are spread over the width of their intervals."""
    by_series = {name: np.reshape(columns[name], (len(panel), horizon)) for name in columns if name != "ds"}
    width = (by_series["hi-80"] - by_series["lo-80"]).mean(axis=1)
    relative = width / np.maximum([np.abs(one.values).mean() for one in panel], 1e-300)
    chosen = np.argsort(relative)[np.unique(np.linspace(0, len(panel) - 1, MOST_PANELS).round().astype(int))]
    rows = -(-len(chosen) // 2)
    figure, grid = plt.subplots(
        rows, min(2, len(chosen)), figsize=(11, 3.4 * rows + 1), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    for axes, place in zip(grid.flat, chosen):
        one = panel[place]
        shown = min(len(one.values), 6 * horizon)
        before, after = np.arange(-shown + 1, 1), np.arange(1, horizon + 1)
        axes.plot(before, np.where(one.observed, one.values, np.nan)[-shown:], color=ACTUAL, linewidth=1)
        for low, high, strength in (("lo-95", "hi-95", 0.15), ("lo-80", "hi-80", 0.3)):
            axes.fill_between(
                after, by_series[low][place], by_series[high][place], color=OURS, alpha=strength, linewidth=0
            )
        axes.plot(after, by_series["yhat"][place], color=OURS, linewidth=1.4)
        axes.set_title(one.name, loc="left", fontsize=10, parse_math=False)
    figure.suptitle("median, 80 % and 95 % intervals; steps from the last value", fontsize=10)
    figure.savefig(path)
    plt.close(figure)
