"""Forecast many steps of one series, or of all series of a file.

    python -m experiments.forecast --series sales.csv --horizon 14
    python -m experiments.forecast --series shops.csv --horizon 14 --id-column shop --future-columns promotion
    python -m experiments.backtest --series shops.csv --horizon 24 --origins 20

A file has a column of dates or whole numbers and one to forecast, and for several series one with their names;
the names unique_id, ds and y need no option. The run is judged on the past first, then a model is trained on
everything. The run folder gets forecast.csv (unique_id, ds, yhat, lo-80, hi-80, lo-95, hi-95), backtest.csv,
metrics.json, forecast.png and the model, which python -m experiments.predict uses. Ctrl-C stops a training; the
same command with --resume continues it.
"""

import csv
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import arg

from experiments.common import runs
from experiments.common.devices import claim_devices
from experiments.common.many_steps import record
from experiments.common.many_steps.panel_file import PanelOptions, load_future, load_panel
from experiments.common.many_steps.progress import training_progress
from experiments.common.many_steps.report import choices, explain, report_backtest
from experiments.common.options import Out
from experiments.common.report import ended_early, say
from experiments.common.signals import CtrlC
from jaxrnn.forecasting import Forecaster, OneSeries, TrainingStopped, Watch, with_future
from jaxrnn.training import EXIT_CODES

MODEL = "model"
MOST_ORIGINS = 20
MANY_SERIES = 30


@dataclass(frozen=True)
class Settings(PanelOptions):
    """Forecast many steps of one series, or of all series of a file."""

    horizon: Annotated[
        int | None, arg(metavar="STEPS", help="Steps to forecast.", help_behavior_hint="(required)")
    ] = None
    series: Annotated[
        str, arg(metavar="NAME|PATH.csv", help="The series: a file of one or many, or one of the package.")
    ] = "course"
    season: Annotated[
        int | None,
        arg(
            metavar="STEPS",
            help="Steps per season, as 12 for months; 1 for none.",
            help_behavior_hint="(default: found in the series)",
        ),
    ] = None
    future: Annotated[
        Path | None,
        arg(
            metavar="PATH.csv",
            help="A file with the future columns at the steps to forecast.",
            help_behavior_hint="(default: the rows of --series without a value)",
        ),
    ] = None
    quantiles: Annotated[
        tuple[float, ...],
        arg(
            metavar="LEVEL ...",
            help="Further columns of forecast.csv, as q-0.05, beside the intervals: quantiles of these levels, "
            "from 0.01 to 0.99.",
        ),
    ] = ()
    distribution: Annotated[
        Literal["normal", "student-t", "negative-binomial"] | None,
        arg(
            help="Train the networks for the parameters of a distribution; negative-binomial is for counts.",
            help_behavior_hint="(default: for quantiles)",
        ),
    ] = None
    origins: Annotated[
        int | None,
        arg(
            metavar="N",
            help="Rolling origins of the backtest of each series; 0 forecasts without a backtest.",
            help_behavior_hint=f"(default: up to {MOST_ORIGINS} for one series, 1 for {MANY_SERIES} or more)",
        ),
    ] = None
    steps: Annotated[int, arg(metavar="N", help="Training steps of each network.")] = 1500
    seeds: Annotated[int, arg(metavar="N", help="Networks whose forecasts are averaged.")] = 3
    seed: Annotated[int, arg(metavar="N", help="The first seed.")] = 0
    calendar: Annotated[bool, arg(help="Read hour, weekday and month of the dates.")] = True
    non_negative: Annotated[
        bool | None,
        arg(
            help="No value can be negative, so no forecast is.",
            help_behavior_hint="(default: as the series show)",
        ),
    ] = None
    out: Out = None
    resume: Annotated[bool, arg(help="Continue the run in the folder --out.")] = False


def run(settings: Settings, ctrl_c: CtrlC, *, forecast: bool = True) -> int:
    """Backtest, then train on everything and forecast; write the run folder. Returns the exit code."""
    if settings.horizon is None:
        raise ValueError("--horizon is missing: give the number of steps to forecast")
    if settings.resume and settings.out is None:
        raise ValueError("--resume needs --out: give the folder of the run to continue")
    model = make_model(settings)
    panel = load_panel(settings.series, settings)
    future: list[OneSeries] = []
    if settings.future is not None:
        if not settings.future_columns:
            raise ValueError(f"--future {settings.future} needs --future-columns: which of its columns are known?")
        future = load_future(str(settings.future), settings, panel)
        panel = with_future(panel, future, settings.horizon)
    origins = default_origins(settings, panel) if settings.origins is None else settings.origins
    check_horizon(settings, panel, origins, forecast=forecast)
    if forecast:
        model.require_future(panel, future)
    folder = settings.out or runs.new_folder_named(f"{Path(settings.series).stem}-horizon{settings.horizon}")
    record.begin(folder, settings, panel)
    if settings.resume and forecast and record.complete(folder):
        say(f"the run in {folder} is complete: nothing is left to train")
        return 0
    claim_devices(None)
    ctrl_c.message = f"interrupted; what is saved of the run is in {folder}, and --resume continues it"
    try:
        metrics = judge(settings, model, panel, origins, folder) if origins else unjudged(settings, panel)
        if not forecast:
            say(f"everything is in {folder}")
            return 0
        train(settings, model, panel, folder, metrics)
    except ValueError:
        record.undo(folder)
        raise
    except TrainingStopped as stopped:
        ended_early(f"{stopped.reason} in the backtest; --resume with --out {folder} continues")
        return EXIT_CODES[stopped.reason]
    if model.stopped:
        what = "the forecast is that of the training so far" if model.stopped == "interrupted" else "it was saved"
        ended_early(f"{model.stopped}: {what}; --resume with --out {folder} continues it")
        return EXIT_CODES[model.stopped]
    record.finish(folder)
    say(f"everything is in {folder}")
    return 0


def make_model(settings: Settings) -> Forecaster:
    return Forecaster(
        settings.horizon or 0,
        settings.season,
        steps=settings.steps,
        seeds=settings.seeds,
        seed=settings.seed,
        quantiles=settings.quantiles,
        future_columns=settings.future_columns,
        past_columns=settings.past_columns,
        static_columns=settings.static_columns,
        calendar=settings.calendar,
        non_negative=settings.non_negative,
        distribution=settings.distribution,
    )


def judge(
    settings: Settings, model: Forecaster, panel: list[OneSeries], origins: int, folder: Path
) -> dict[str, Any]:
    """Backtest, and write its rows and its errors."""
    say(f"backtest: {origins} origins of each series; training on what comes before the first origin")
    began = time.perf_counter()
    with training_progress("backtest") as report:
        watch = Watch(folder / record.CHECKPOINTS / "backtest", report)
        tested = model.backtest(panel, origins=origins, watch=watch)
    left_out = [repr(one.name) for one in panel if one.name not in tested["by_series"]]
    if left_out:
        more = ", ..." if len(left_out) > 3 else ""
        say(
            f"{len(left_out)} series ({', '.join(left_out[:3])}{more}) are not judged: too few values lie before "
            f"their first origin"
        )
    choice = choices(tested["model"])
    metrics = tested["metrics"] | {
        "series": len(tested["by_series"]),
        "origins": origins,
        "horizon": settings.horizon,
        "season": choice["season"],
        "backtest_seconds": time.perf_counter() - began,
        "mase_by_series": tested["by_series"],
        "choice_of_backtest": choice,
    }
    write_columns(folder / "backtest.csv", tested["rows"])
    runs.write_json(folder / "metrics.json", metrics)
    report_backtest(metrics)
    return metrics


def unjudged(settings: Settings, panel: list[OneSeries]) -> dict[str, Any]:
    say("no backtest, as --origins 0 says: how good this forecast is remains unknown")
    return {"series": len(panel), "origins": 0, "horizon": settings.horizon, "mase_by_series": {}}


def train(
    settings: Settings, model: Forecaster, panel: list[OneSeries], folder: Path, metrics: dict[str, Any]
) -> None:
    """Train on everything, forecast, and write forecast, picture and model."""
    say("training on everything")
    began = time.perf_counter()
    with training_progress("training") as report:
        model.fit(panel, watch=Watch(folder / record.CHECKPOINTS / "forecast", report))
    if model.stopped == "terminated":  # after SIGTERM there is no time to forecast
        return
    for note in model.known.covariates.unknown_texts(panel, model.settings.horizon):
        say(f"note: {note}")
    columns = model.predict()
    write_columns(folder / record.FORECAST, columns)
    model.save(folder / MODEL)
    choice = choices(model)
    metrics |= {"choice": choice, "training_seconds": time.perf_counter() - began}
    runs.write_json(folder / "metrics.json", metrics)
    for sentence in explain(choice):
        say(sentence)
    from experiments.common.many_steps import plots

    plots.plot_fans(folder / record.PICTURE, panel, columns, settings.horizon or 1, metrics["mase_by_series"])


def check_horizon(settings: Settings, panel: list[OneSeries], origins: int, *, forecast: bool = True) -> None:
    """Raise a ValueError if season, horizon or origins do not fit into the longest series."""
    longest = max(len(one.values) for one in panel)
    if settings.season is not None and settings.season >= longest:
        raise ValueError(
            f"--season {settings.season} must be shorter than the series: the longest has {longest} steps"
        )
    least = 0 if forecast else 1
    if origins < least:
        raise ValueError(f"--origins must be at least {least}, not {origins}")
    if not origins:
        return
    remedy = ": give fewer" + (", or --origins 0 for a forecast without a backtest" if forecast else "")
    if (settings.horizon or 0) + 4 > longest:
        raise ValueError(
            f"--horizon {settings.horizon} is too long to be judged: the longest series has {longest} steps, and "
            f"at least {(settings.horizon or 0) + 4} are needed{remedy}"
        )
    if (needed := (settings.horizon or 0) + origins + 2) > longest:
        raise ValueError(
            f"--origins {origins} with --horizon {settings.horizon} need series of at least {needed} steps, but "
            f"the longest has {longest}{remedy}"
        )


def default_origins(settings: Settings, panel: list[OneSeries]) -> int:
    if len(panel) >= MANY_SERIES:
        return 1
    longest = max(len(one.values) for one in panel)
    return max(1, min(MOST_ORIGINS, longest // 5, longest - 2 * (settings.horizon or 1) - (settings.season or 1)))


def write_columns(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Write a CSV file. The OSError, if it cannot be written, names it."""
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*([_shown(value) for value in column] for column in columns.values())))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _shown(value: Any) -> Any:
    if isinstance(value, np.datetime64):
        return str(value).removesuffix("T00:00:00")
    return "" if isinstance(value, float) and np.isnan(value) else value
