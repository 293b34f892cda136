"""Evaluates the trained networks on the test part, and writes the files of a run."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.table import Table
from rich.text import Text

from experiments.common import runs
from experiments.common.labelled.baselines import NAMES, baselines
from experiments.common.labelled.datasets import Examples
from experiments.common.labelled.pipeline import Classification
from experiments.common.report import console, say
from jaxrnn.training import Run, accuracy, confusion_matrix, macro_f1


def evaluate(classification: Classification, found: Sequence[Run], folder: Path) -> dict[str, Any]:
    """Evaluate the mean of the networks, print the comparison, and write metrics, predictions and pictures."""
    config, data = classification.config, classification.data
    labels, classes = data.test.labels, len(data.classes)
    of_members = [classification.probabilities(run.best_params, classification.test) for run in found]
    probabilities = np.mean(of_members, axis=0)
    predicted = probabilities.argmax(axis=1)
    compared = baselines(data)
    matrix = confusion_matrix(predicted, labels, classes)
    right = _right_where_held_out(classification, found)
    metrics = {
        "data": config.data,
        "cell": config.cell,
        "seed": config.seed,
        "test_accuracy": accuracy(predicted, labels),
        "test_macro_f1": macro_f1(predicted, labels, classes),
        "baselines": compared,
        "test_accuracy_of_each_network": [accuracy(p.argmax(axis=1), labels) for p in of_members],
        "held_out_accuracy": float(right.mean()),
        "held_out_examples": len(right),
        "classes": list(data.classes),
        "confusion": matrix.tolist(),
        "networks": len(found),
        "best_epochs": [run.stopping.best_epoch for run in found],
        "epochs_run": [run.epochs_run for run in found],
        "stopped": [run.stopped for run in found],
        "programs": classification.buckets.num_programs,
        "seconds": sum(row["seconds"] for run in found for row in run.history),
        "source": data.source,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }
    console.print(results_table(classification, compared, metrics))  # before writing, which may fail
    say(
        f"on {len(right)} of the {len(data.train.labels)} examples of the training part, each judged by the "
        f"network that held it out: {100 * right.mean():.1f} %"
    )
    better = [f"{NAMES[n]} ({100 * v:.1f} %)" for n, v in compared.items() if v > metrics["test_accuracy"]]
    if better:
        say(f"these methods without a network are better: {', '.join(better)}")
    runs.write_json(folder / "metrics.json", metrics)
    runs.write_json(folder / "history.json", [run.history for run in found])
    write_predictions(folder / "predictions.csv", data.classes, probabilities, data.test)

    from experiments.common.labelled import plots

    title = f"{data.name}, {config.cell}: {100 * metrics['test_accuracy']:.1f} % of the test part are right"
    plots.plot_confusion(folder / "confusion.png", matrix, data.classes, title)
    plots.plot_curves(
        folder / "learning_curve.png", [(r.history, r.stopping.best_epoch) for r in found], data.name
    )
    return metrics


def _right_where_held_out(classification: Classification, found: Sequence[Run]) -> np.ndarray:
    """Which examples of the training part are right that a network held out, as this network says."""
    right = []
    for member, run in enumerate(found):
        rows = classification.held_out(member)
        probabilities = classification.probabilities(run.best_params, [classification.train[row] for row in rows])
        right.append(probabilities.argmax(axis=1) == classification.data.train.labels[rows])
    return np.concatenate(right)


def results_table(classification: Classification, compared: dict[str, float], metrics: dict[str, Any]) -> Table:
    config, data = classification.config, classification.data
    table = Table(title=Text(f"{data.name}: {len(data.test.labels)} test examples"))
    table.add_column("method")
    table.add_column("accuracy", justify="right")
    table.add_column("macro F1", justify="right")
    for name, value in compared.items():
        table.add_row(NAMES[name], f"{value:.4f}", "")
    ours = f"{metrics['networks']} x {config.cell}, {config.pooling} pooling"
    numbers = (f"{metrics[name]:.4f}" for name in ("test_accuracy", "test_macro_f1"))
    table.add_row(Text(ours, "bold"), *(Text(number, "bold") for number in numbers))
    return table


def write_predictions(
    path: Path, classes: Sequence[str], probabilities: np.ndarray, examples: Examples | None = None
) -> None:
    """Write a row for each example.

    It holds its place in its file, from 0, its class if known, the predicted one, and all probabilities.
    """
    numbers = None if examples is None else examples.numbers
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        known = [] if examples is None else ["label"]
        writer.writerow(["example", *known, "predicted", *(f"probability of {name}" for name in classes)])
        for place, row in enumerate(probabilities):
            label = [] if examples is None else [classes[examples.labels[place]]]
            number = place if numbers is None else numbers[place]
            writer.writerow([number, *label, classes[row.argmax()], *(f"{p:.6f}" for p in row)])
