"""The messages, progress lines and tables of the experiments."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from experiments.common.pipeline import Forecasting
from jaxrnn.data import autoregressive_forecast, moving_average_forecast, naive_forecast
from jaxrnn.training import Run

AR_ORDER = 30
LINE_EVERY = 5.0
"""Seconds between progress lines if the output is not a terminal, which could redraw one line."""

console = Console(highlight=False)


def fail(message: str) -> int:
    """Print an error message to stderr. Returns the exit code, 2."""
    Console(stderr=True, highlight=False).print(
        Text.assemble(("error:", "bold red"), f" {message}"), soft_wrap=True
    )
    return 2


def say(message: object) -> None:
    """Print a message without wrapping and without markup, because a path may look like markup."""
    console.print(str(message), soft_wrap=True, markup=False)


def digits(value: float) -> str:
    """A number with the digits that a reader needs; the files of a run hold all digits.

    >>> digits(5.187654321), digits(2202666.4), digits(0.000123456)
    ('5.188', '2.203e+06', '0.0001235')
    """
    return f"{value:.3f}" if 0.1 <= abs(value) < 1e6 or value == 0 else f"{value:.4g}"


def plain_warnings() -> None:
    """Show warnings as plain messages, without the source line that caused them."""
    warnings.formatwarning = lambda message, *_args, **_options: f"warning: {message}\n"


@contextmanager
def epoch_progress(epochs: int, done: int = 0) -> Iterator[Callable[[Run], None]]:
    """Yield a function to call after every epoch. It redraws one line on a terminal, else prints a few lines."""
    began = time.perf_counter()

    def describe(run: Run) -> str:
        row = run.history[-1]
        text = (
            f"epoch {run.epochs_run}/{epochs} loss {row['loss']:.4g} validation MAE {row['valid_mae']:.4g} "
            f"best {run.best_row.get('valid_mae', float('nan')):.4g} ({run.stopping.best_epoch})"
        )
        # The first epoch of this process includes the compilation, so it does not count.
        seconds = [row["seconds"] for row in run.history[done + 1 :]]
        if not seconds:
            return text
        left = sum(seconds) / len(seconds) * (epochs - run.epochs_run)
        return f"{text} at most {timedelta(seconds=round(left))} left"

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
    """The forecasts that the network is compared with, by name; each covers the values of the test part."""
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
    table = Table(title=Text(f"{series.name}: the last {len(series.values) - test} values"))
    table.add_column("forecast")
    table.add_column("MAE", justify="right")
    for name, mae in maes.items():
        table.add_row(BASELINE_NAMES[name], digits(mae))
    config = forecasting.config
    name = f"{config.cell} {config.task} ({config.recipe} recipe)"
    table.add_row(Text(name, "bold"), Text(digits(ours), "bold"), end_section=True)
    return table


def comparison(maes: dict[str, float], ours: float) -> str | None:
    """A sentence that names the forecasts without a network that are better than ours; None if there are none."""
    better = [f"{BASELINE_NAMES[name]} ({digits(mae)})" for name, mae in maes.items() if not ours <= mae]
    if not better:
        return None
    listed = better[0] if len(better) == 1 else f"{', '.join(better[:-1])} and {better[-1]}"
    return f"the network's MAE of {digits(ours)} is worse than that of forecasts without a network: {listed}"


def advice(forecasting: Forecasting, run: Run, maes: dict[str, float], ours: float) -> str | None:
    """A suggestion for a run that is worse than a forecast without a network; None if it is not."""
    config = forecasting.config
    if all(ours <= mae for mae in maes.values()):
        return None
    # The head starts at zero, so the untrained model forecasts the baseline of the preparation.
    start = forecasting.parts.test
    untrained = float(np.abs(forecasting.prepared.baseline[start - 1 : -1] - forecasting.actual).mean())
    if run.stopped == "diverged" or not ours <= untrained:
        return (
            f"training made the forecasts worse, so the learning rate of {config.learning_rate:g} is too high. "
            f"Try --learning-rate {config.learning_rate / 10:.2g}, or find one with python -m "
            f"experiments.lr_range"
        )
    if config.level_width and config.level_width > 2 and min(ours, untrained) > maes["naive"]:
        return (
            f"a moving average of {config.level_width} values, which the network adds its output to, is a worse "
            f"forecast of this series ({untrained:.3g}) than the last value ({maes['naive']:.3g}). A smaller one "
            f"may help: --level-width 2"
        )
    if ours <= maes["naive"]:
        return "--recipe tuned is usually better than the course recipe" if config.recipe == "course" else None
    if run.stopped == "epochs":
        return "more --epochs may help, or another --learning-rate: python -m experiments.lr_range finds one"
    return "another --learning-rate may help: python -m experiments.lr_range finds one"
