"""The plots of the experiments. Import this module only when it is needed, because it imports matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator

INK, ACTUAL, OURS, OTHER = "#333333", "#9a9a9a", "#1f5fbf", "#d98324"
plt.rcParams.update(
    {
        "figure.dpi": 110,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "axes.edgecolor": INK,
        "legend.frameon": False,
        "font.size": 10,
    }
)


def draw_values(axes: Any, steps: np.ndarray, values: np.ndarray, line: str = "-", **style: Any) -> None:
    """Draw a line through values ``[steps]``, and a dot where one has no neighbours, since no line shows it."""
    axes.plot(steps, values, line, **style)
    known = np.concatenate([[False], np.isfinite(values), [False]])
    alone = known[1:-1] & ~known[:-2] & ~known[2:]
    if alone.any():
        axes.plot(steps[alone], values[alone], "o", color=style["color"], markersize=3)


def plot_forecast(
    path: Path, start: int, actual: np.ndarray, forecast: np.ndarray, naive: np.ndarray, title: str
) -> None:
    """Plot values and forecasts of the test part, and of its last 90 steps.

    Args:
      path: the file to write.
      start: the first step of the test part.
      actual, forecast, naive: ``[steps]``, the values, the network's forecasts and the naive ones.
      title: the title of the figure.
    """
    steps = start + np.arange(len(actual))
    figure, (whole, close) = plt.subplots(2, 1, figsize=(11, 7), height_ratios=(3, 2), layout="constrained")
    for axes, last in ((whole, len(steps)), (close, min(90, len(steps)))):
        shown = steps[-last:]
        draw_values(axes, shown, actual[-last:], color=ACTUAL, linewidth=1, label="value")
        draw_values(axes, shown, naive[-last:], ":", color=OTHER, linewidth=0.9, label="naive (last value)")
        draw_values(axes, shown, forecast[-last:], color=OURS, linewidth=1.3, label="forecast")
    whole.set_title(title, loc="left", parse_math=False)
    whole.legend(loc="lower left", ncols=3)
    close.set_title(f"the last {min(90, len(steps))} steps", loc="left", fontsize=10)
    close.set_xlabel("step")
    save(figure, path)


def plot_learning_curve(
    path: Path,
    history: Sequence[dict[str, Any]],
    best_epoch: int,
    title: str,
    *,
    loss: str = "Huber loss",
    epoch: str = "epoch",
) -> None:
    """Plot training and validation loss by epoch, and mark the best epoch. ``loss``, ``epoch``: the labels."""
    epochs = [row["epoch"] for row in history]
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    marker = "o" if len(epochs) < 3 else None
    axes.plot(epochs, [row["loss"] for row in history], color=OTHER, linewidth=1, marker=marker, label="training")
    valid = [row["valid_loss"] for row in history]
    axes.plot(epochs, valid, color=OURS, linewidth=1, marker=marker, label="validation")
    if best_epoch:
        best = valid[best_epoch - 1]
        axes.plot([best_epoch], [best], "o", color=OURS, markersize=8, fillstyle="none")
        axes.axvline(best_epoch, color=OURS, linewidth=0.8, linestyle=":")
        axes.plot([], [], " ", label=f"best: {best:.4g} in epoch {best_epoch}")
    if all(row["loss"] > 0 and row["valid_loss"] > 0 for row in history):
        _log_losses(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=epoch, ylabel=loss)
    axes.set_title(title, loc="left", parse_math=False)
    axes.legend()
    save(figure, path)


def plot_lr_range(path: Path, tests: dict[str, Any]) -> None:
    """Plot loss against learning rate, one panel per task, and mark the suggested rate."""
    figure, panels = plt.subplots(
        1, len(tests), figsize=(4.6 * len(tests), 4), layout="constrained", squeeze=False
    )
    for axes, (task, test) in zip(panels[0], tests.items(), strict=True):
        axes.semilogx(test.learning_rates, test.losses, color=OURS, linewidth=1.2)
        _log_losses(axes)
        axes.axvline(test.suggestion, color=OTHER, linestyle=":")
        axes.set_title(f"{task}: try {test.suggestion:.1e}", loc="left")
        axes.set(xlabel="learning rate", ylabel="training loss of the epoch" if axes is panels[0][0] else "")
    save(figure, path)


def plot_gradient_flow(path: Path, flows: dict[str, dict[float, Any]], clip_norm: float) -> None:
    """Plot the norms of dL/dh_t by step, one panel per activation, one colour per gain; dashed after clipping."""
    figure, panels = plt.subplots(
        1, len(flows), figsize=(5.5 * len(flows), 4.5), layout="constrained", squeeze=False, sharey=True
    )
    for axes, (name, rows) in zip(panels[0], flows.items()):
        colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(rows)))
        for colour, (gain, flow) in zip(colours, rows.items()):
            norms = np.array(flow.hidden_norms)
            steps = np.arange(1, len(norms) + 1)
            axes.semilogy(steps, norms, color=colour, linewidth=1.5, label=f"gain {gain:g}")
            if flow.clipped_norm < flow.kernel_norm:
                axes.semilogy(
                    steps, norms * (flow.clipped_norm / flow.kernel_norm), "--", color=colour, linewidth=1
                )
        axes.plot([], [], "--", color=INK, linewidth=1, label=f"clipped to norm {clip_norm:g}")
        axes.set_title(name, loc="left")
        axes.set(xlabel="step t", ylabel="norm of dL/dh at step t" if axes is panels[0][0] else "")
        axes.set_ylim(1e-12, 1e16)  # outside this range, float32 norms are mostly rounding errors
    panels[0][0].legend(ncols=2)
    save(figure, path)


def plot_shares(
    path: Path,
    updates: np.ndarray,
    curves: dict[str, dict[float, list[list[float]]]],
    best_rates: dict[str, float],
    chance: float,
) -> None:
    """Plot the share of right answers by update, one panel per cell.

    Args:
      path: the file to write.
      updates: ``[points]``.
      curves: for every cell and learning rate, a curve of ``[points]`` for every seed.
      best_rates: the learning rate of every cell to draw in colour; the others are pale.
      chance: the share of right answers of a guess.
    """
    figure, panels = plt.subplots(
        1, len(curves), figsize=(4 * len(curves), 3.8), layout="constrained", squeeze=False, sharey=True
    )
    for axes, (cell, of_rates) in zip(panels[0], curves.items()):
        best = best_rates[cell]
        for rate in sorted(of_rates, key=lambda rate: rate == best):  # the best one last, above the others
            style: dict[str, Any] = (
                {"color": OURS, "linewidth": 1.6} if rate == best else {"color": ACTUAL, "linewidth": 0.9}
            )
            for number, curve in enumerate(of_rates[rate]):
                label = {OURS: f"learning rate {best:g}", ACTUAL: "other rates"}[style["color"]]
                axes.plot(updates, curve, **style, label=label if number == 0 else None)
        axes.axhline(chance, color=INK, linewidth=0.8, linestyle=":")
        axes.set_title(cell, loc="left", parse_math=False)
        axes.set(xlabel="update", ylabel="share of right answers" if axes is panels[0][0] else "", ylim=(0, 1.02))
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles))
        axes.legend(
            unique.values(), unique.keys(), loc="center right" if max(of_rates[best][0]) < 0.5 else "lower right"
        )
    save(figure, path)


def _log_losses(axes: Any) -> None:
    """A logarithmic axis with ticks at 1, 2, 5 times powers of ten, for ranges of less than a factor of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter("")


def save(figure: Any, path: Path) -> None:
    figure.savefig(path)
    plt.close(figure)
