"""The plots of experiments.classify. Import this module only when it is needed, because it imports matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.plots import INK, OTHER, OURS, plt, save


def plot_confusion(path: Path, matrix: np.ndarray, classes: Sequence[str], title: str) -> None:
    """Plot how many examples of each class were taken for each class, ``matrix [classes, classes]``."""
    size = min(4 + 0.4 * len(classes), 16)
    figure, axes = plt.subplots(figsize=(size + 1, size), layout="constrained")
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.grid(False)
    if len(classes) <= 30:
        for row, column in np.argwhere(matrix > 0):
            colour = "white" if share[row, column] > 0.5 else INK
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour)
    steep = {"rotation": 45, "ha": "right"} if max(map(len, classes)) > 4 else {}
    axes.set_xticks(range(len(classes)), classes, **steep)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted class", ylabel="class")
    axes.set_title(title, loc="left", parse_math=False)
    save(figure, path)


def plot_curves(path: Path, members: Sequence[tuple[Sequence[dict[str, Any]], int]], title: str) -> None:
    """Plot training and held-out loss of each network by epoch, and mark its best epoch."""
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for number, (history, best_epoch) in enumerate(members):
        epochs = [row["epoch"] for row in history]
        marker = "o" if len(epochs) < 3 else None
        for name, colour, label in (("loss", OTHER, "training"), ("valid_loss", OURS, "held out")):
            values = [row[name] for row in history]
            axes.plot(epochs, values, color=colour, linewidth=0.9, marker=marker, label=None if number else label)
        if best_epoch:
            axes.plot([best_epoch], [history[best_epoch - 1]["valid_loss"]], "o", color=OURS, fillstyle="none")
    axes.plot([], [], "o", color=OURS, fillstyle="none", label="best epoch of a network")
    axes.set(xlabel="epoch", ylabel="cross-entropy")
    axes.set_title(title, loc="left", parse_math=False)
    axes.legend()
    save(figure, path)
