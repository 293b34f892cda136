"""The messages, progress lines and tables of the experiments."""

import contextlib
import io
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from experiments.common.pipeline import Forecasting
from jaxrnn.data import Series, autoregressive_forecast, moving_average_forecast, naive_forecast
from jaxrnn.forecasting import Correction
from jaxrnn.training import Run

AR_ORDER = 30
LINE_EVERY = 5.0
"""Seconds between progress lines if the output is not a terminal, which could redraw one line."""


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the process here, before the results are written."""
        discard_output()


console = _Output(highlight=False)


def fail(message: str) -> int:
    """Print an error message to stderr. Returns the exit code, 2."""
    Console(stderr=True, highlight=False).print(
        Text.assemble(("error:", "bold red"), f" {message}"), soft_wrap=True
    )
    return 2


def ended_early(message: str) -> None:
    """Print to stderr why a command ended before it was done, as after Ctrl-C: that is no error."""
    Console(stderr=True, highlight=False).print(message, soft_wrap=True, markup=False)


def say(message: object) -> None:
    """Print a message without wrapping and without markup, because a path may look like markup."""
    console.print(str(message), soft_wrap=True, markup=False)


def digits(value: float) -> str:
    """A number with the digits that a reader needs; the files of a run hold all digits.

    >>> digits(5.187654321), digits(2202666.4), digits(0.000123456)
    ('5.188', '2.203e+06', '0.0001235')
    """
    return f"{value:.3f}" if 0.1 <= abs(value) < 1e6 or value == 0 else f"{value:.4g}"


def discard_output() -> None:
    """From now on, nothing is written to stdout, because nobody reads it any more."""
    with contextlib.suppress(OSError, AttributeError):  # an output that is no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # for what Python still writes at its end
        os.close(nowhere)
    sys.stdout = io.StringIO()


def plain_warnings() -> None:
    """Show warnings as plain messages, without the source line that caused them."""
    warnings.formatwarning = lambda message, *_args, **_options: f"warning: {message}\n"


@contextmanager
def epoch_progress(
    epochs: int, done: int = 0, *, metric: str = "valid_mae", name: str = "validation MAE", before: str = ""
) -> Iterator[Callable[[Run], None]]:
    """Yield a function to call after every epoch. It redraws one line on a terminal, else prints a few lines.

    Args:
      epochs: how many epochs there are in all.
      done: how many of them a resumed run has done already.
      metric, name: the metric of the history that is shown, and what it is called.
      before: what to print before each line.
    """
    began = time.perf_counter()

    def describe(run: Run) -> str:
        row = run.history[-1]
        text = (
            f"{before}epoch {run.epochs_run}/{epochs} loss {row['loss']:.4g} {name} {row[metric]:.4g} "
            f"best {run.best_row.get(metric, float('nan')):.4g} (epoch {run.stopping.best_epoch})"
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

    printed, unprinted = began, None

    def line(run: Run) -> None:
        nonlocal printed, unprinted
        now = time.perf_counter()
        unprinted = run
        if run.epochs_run == done + 1 or now - printed >= LINE_EVERY:
            printed, unprinted = now, None
            try:
                print(describe(run), flush=True)
            except BrokenPipeError:  # as after "| head": save and stop, as when the terminal is closed
                discard_output()
                ended_early("nobody reads the output any more: the run is saved and stops, --resume continues it")
                signal.raise_signal(signal.SIGTERM)

    try:
        yield line
    finally:
        if unprinted is not None:  # the last epoch
            say(describe(unprinted))


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
    season, correction = forecasting.config.season, forecasting.preparation
    if isinstance(correction, Correction):
        if season is not None and season <= start:
            forecasts["seasonal_naive"] = values[start - season : len(values) - season]
        forecasts["average"] = forecasting.prepared.baseline[start - 1 : -1]
    elif correction.level_width is not None:
        forecasts["underneath"] = forecasting.prepared.baseline[start - 1 : -1]
    return forecasts


BASELINE_NAMES = {
    "naive": "naive: the last value",
    "moving_average": "moving average of 5",
    "moving_average_30": "moving average of 30",
    "ar": f"least-squares AR({AR_ORDER})",
    "seasonal_naive": "seasonal naive: the value one season before",
    "average": "average of simple forecasts, without the network",
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


def next_step(series: Series) -> str:
    """The step after the last one of a series, with its date if the series has dates."""
    step = f"step {len(series.values)}"
    if series.times is None or series.step is None or series.times.dtype.kind != "M":
        return step
    (after,) = series.step.after(series.times[-1], 1)
    return f"{step} ({str(after).removesuffix('T00:00:00')})"


def choice_record(forecasting: Forecasting, params: Any) -> dict[str, Any] | None:
    """What was chosen on the training part, with the errors that decided; None if nothing was to be chosen."""
    correction = forecasting.preparation
    if not isinstance(correction, Correction):
        return None
    average = correction.whole
    methods = {method.name: {"held_out_mae": method.error, "weight": method.weight} for method in average.methods}
    begin, end = forecasting.parts.monitor
    return {
        "methods": methods,
        "held_out_steps": average.held_out,
        "monitored_steps": [begin, end],
        **vars(forecasting.choose(params)),
    }


def explain_choice(forecasting: Forecasting, choice: dict[str, Any] | None) -> list[str]:
    """Which simple forecasts were averaged, how much of the network is used, and why, in sentences."""
    if choice is None:
        return []
    used = [(name, one) for name, one in choice["methods"].items() if one["weight"]]
    listed = ", ".join(
        f"{name} {100 * one['weight']:.0f} % (MAE {digits(one['held_out_mae'])})" for name, one in used
    )
    begin, end = choice["monitored_steps"]
    why = (
        f"over steps {begin} to {end - 1}, the end of the training part, the average has an MAE of "
        f"{digits(choice['average'])} and with all of the network's corrections {digits(choice['network'])}"
    )
    share = choice["share"]
    what = (
        f"so {100 * share:.0f} % of the corrections are used ({digits(choice['chosen'])})"
        if share
        else "which is not clearly better, so the network is not used"
    )
    return [
        f"chosen on the training part: {len(used)} of {len(choice['methods'])} simple forecasts are averaged, "
        f"with weights by their errors on its last {choice['held_out_steps']} steps: {listed}",
        f"the network: {why}, {what}",
    ]


def comparison(maes: dict[str, float], ours: float) -> str | None:
    """A sentence that names the forecasts without a network that are better than ours; None if there are none."""
    better = [f"{BASELINE_NAMES[name]} ({digits(mae)})" for name, mae in maes.items() if not ours <= mae]
    if not better:
        return None
    listed = better[0] if len(better) == 1 else f"{', '.join(better[:-1])} and {better[-1]}"
    return f"the MAE of {digits(ours)} is worse than that of forecasts without a network: {listed}"


def advice(forecasting: Forecasting, run: Run, maes: dict[str, float], ours: float) -> str | None:
    """A suggestion for a run that is worse than a forecast without a network; None if it is not."""
    config = forecasting.config
    # On a CSV file the network was chosen, or not, on the training part; there is nothing that a user should set.
    if isinstance(forecasting.preparation, Correction) or all(ours <= mae for mae in maes.values()):
        return None
    # The head starts at zero, so the untrained model forecasts the baseline of the preparation.
    start = forecasting.parts.test
    untrained = forecasting.mae(forecasting.prepared.baseline[start - 1 : -1])
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
