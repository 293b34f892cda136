"""What an experiment shows while it runs and when it ends."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from experiments.common.pipeline import Forecasting
from jaxrnn.data import autoregressive_forecast, moving_average_forecast, naive_forecast
from jaxrnn.training import Run

AR_ORDER = 30
LINE_EVERY = 5.0
"""Seconds between progress lines where no terminal can redraw one."""

console = Console(highlight=False)


def fail(message: str) -> int:
    """Say what is wrong on stderr; returns the exit code."""
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {_plain(message)}", soft_wrap=True)
    return 2


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def plain_warnings() -> None:
    """Show warnings as messages, without the line of code that they came from."""
    warnings.formatwarning = lambda message, *_args, **_options: f"warning: {message}\n"


@contextmanager
def epoch_progress(epochs: int, done: int = 0) -> Iterator[Callable[[Run], None]]:
    """A function to call after every epoch: redraws one line on a terminal, prints a few elsewhere."""
    began = time.perf_counter()

    def describe(run: Run) -> str:
        row = run.history[-1]
        left = (time.perf_counter() - began) / (run.epochs_run - done) * (epochs - run.epochs_run)
        return (
            f"epoch {run.epochs_run}/{epochs} loss {row['loss']:.4g} validation MAE {row['valid_mae']:.4g} "
            f"best {run.best_row.get('valid_mae', float('nan')):.4g} ({run.stopping.best_epoch}) "
            f"{timedelta(seconds=round(left))} left"
        )

    if console.is_terminal:
        with Progress(
            BarColumn(bar_width=6), TextColumn("{task.description}"), console=console, transient=True
        ) as bar:
            task = bar.add_task("compiling the first epoch", total=epochs, completed=done)
            yield lambda run: bar.update(task, completed=run.epochs_run, description=describe(run))
        return

    printed = began

    def line(run: Run) -> None:
        nonlocal printed
        now = time.perf_counter()
        if run.epochs_run == done + 1 or now - printed >= LINE_EVERY or run.stopped:
            printed = now
            print(describe(run), flush=True)

    yield line


def baselines(forecasting: Forecasting) -> dict[str, np.ndarray]:
    """The forecasts that the network is compared with, by name; each of the last part's values."""
    values, start = forecasting.series.values[:, 0], forecasting.parts.test
    forecasts = {
        "naive": naive_forecast(values, start),
        "moving_average": moving_average_forecast(values, start, 5),
        "moving_average_30": moving_average_forecast(values, start, 30),
    }
    if start > 2 * AR_ORDER:
        forecasts["ar"] = autoregressive_forecast(values, start, AR_ORDER)
    if forecasting.preparation.level_width is not None:
        forecasts["underneath"] = forecasting.prepared.baseline[start - 1 : -1]
    return forecasts


BASELINE_NAMES = {
    "naive": "naive: the last value",
    "moving_average": "moving average of 5",
    "moving_average_30": "moving average of 30",
    "ar": f"least-squares AR({AR_ORDER})",
    "underneath": "moving average under the network",
}


def results_table(forecasting: Forecasting, maes: dict[str, float], ours: float) -> Table:
    series, test = forecasting.series, forecasting.parts.test
    table = Table(title=f"{series.name}: the last {len(series.values) - test} values")
    table.add_column("forecast")
    table.add_column("MAE", justify="right")
    for name, mae in maes.items():
        table.add_row(BASELINE_NAMES[name], f"{mae:.3f}")
    config = forecasting.config
    table.add_row(
        f"[bold]{config.cell} {config.task} ({config.recipe} recipe)", f"[bold]{ours:.3f}", end_section=True
    )
    return table
