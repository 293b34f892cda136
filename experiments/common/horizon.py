"""Forecasts of many steps of one series or a panel: what the commands forecast, backtest and predict share."""

import csv
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from rich.table import Table
from tyro.conf import arg

from experiments.common import runs
from experiments.common.devices import claim_devices
from experiments.common.report import console, digits, say
from jaxrnn.data import available_series, load_series, read_long
from jaxrnn.forecasting import Forecaster, OneSeries, read_panel

MODEL = "model"
MOST_ORIGINS = 20
MANY_SERIES = 30


@dataclass(frozen=True)
class Settings:
    """Forecast many steps of one series, or of all series of a file with the columns unique_id, ds and y."""

    horizon: Annotated[int, arg(metavar="STEPS", help="Steps to forecast.")]
    series: Annotated[
        str, arg(metavar="NAME|PATH.csv", help="The series, or a file with the columns unique_id, ds and y.")
    ] = "course"
    season: Annotated[int, arg(metavar="STEPS", help="Steps per season, as 12 for months; 1 for none.")] = 1
    column: Annotated[
        str | None,
        arg(metavar="NAME", help="The column to forecast.", help_behavior_hint="(default: the only one)"),
    ] = None
    origins: Annotated[
        int | None,
        arg(
            metavar="N",
            help="Rolling origins of the backtest of each series.",
            help_behavior_hint=f"(default: up to {MOST_ORIGINS} for one series, 1 for {MANY_SERIES} or more)",
        ),
    ] = None
    steps: Annotated[int, arg(metavar="N", help="Training steps of each network.")] = 2000
    seeds: Annotated[int, arg(metavar="N", help="Networks whose forecasts are averaged.")] = 2
    seed: Annotated[int, arg(metavar="N", help="The first seed.")] = 0
    out: Annotated[
        Path | None,
        arg(metavar="DIR", help="The folder of the run.", help_behavior_hint="(default: a new one under runs/)"),
    ] = None


def load_panel(name: str, column: str | None) -> list[OneSeries]:
    """The series of a file or of a name. Says what was done to the rows."""
    long = read_long(Path(name)) if name not in available_series() and Path(name).is_file() else None
    if long is not None:
        return read_panel(long)
    series = load_series(name, column=column, split=1)
    for note in series.notes:
        say(f"note: {note}")
    values = series.values[:, 0]
    if series.observed is not None:
        values = np.where(series.observed, values, np.nan)
    columns = {"unique_id": np.full(len(values), series.columns[0]), "y": values}
    columns["ds"] = np.arange(len(values)) if series.times is None or series.step is None else series.times
    return read_panel(columns)


def run(settings: Settings, *, forecast: bool = True) -> int:
    """Backtest, then train on everything and forecast; write the run folder. Returns the exit code."""
    panel = load_panel(settings.series, settings.column)
    check_horizon(settings, panel)
    folder = settings.out or new_folder(settings)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose another --out")
    claim_devices(None)
    origins = settings.origins or default_origins(settings, panel)
    frame = as_columns(panel)
    runs.make_folder(folder)
    model = Forecaster(
        settings.horizon, settings.season, steps=settings.steps, seeds=settings.seeds, seed=settings.seed
    )
    say(f"backtest: {len(panel)} series, {origins} origins each; training on what comes before the first origin")
    began = time.perf_counter()
    tested = model.backtest(panel_values(panel), origins=origins)
    metrics = tested["metrics"] | {"series": len(panel), "origins": origins, "horizon": settings.horizon}
    metrics["backtest_seconds"] = time.perf_counter() - began
    write_columns(folder / "backtest.csv", tested["rows"])
    runs.write_json(folder / "metrics.json", metrics)
    console.print(table_of(metrics))
    if forecast:
        say("training on everything")
        model.fit(frame, progress=sys.stderr.isatty())
        columns = model.predict()
        write_columns(folder / "forecast.csv", columns)
        model.save(folder / MODEL)
        explain(model)
        from experiments.common import fans

        fans.plot_fans(folder / "forecast.png", panel, columns, settings.horizon)
    say(f"everything is in {folder}")
    return 0


def check_horizon(settings: Settings, panel: list[OneSeries]) -> None:
    longest = max(len(one.values) for one in panel)
    if settings.season >= longest:
        raise ValueError(
            f"--season {settings.season} must be shorter than the series: the longest has {longest} steps"
        )
    if settings.horizon + 4 > longest:
        raise ValueError(
            f"--horizon {settings.horizon} is too long to be judged: the longest series has {longest} steps, and "
            f"at least {settings.horizon + 4} are needed"
        )


def default_origins(settings: Settings, panel: list[OneSeries]) -> int:
    if len(panel) >= MANY_SERIES:
        return 1
    longest = max(len(one.values) for one in panel)
    return max(1, min(MOST_ORIGINS, longest // 5, longest - 2 * settings.horizon - settings.season))


def as_columns(panel: list[OneSeries]) -> dict[str, np.ndarray]:
    """The long format of a panel; its times are counted back from the last."""
    return {
        "unique_id": np.concatenate([np.full(len(one.values), one.name) for one in panel]),
        "ds": np.concatenate([one.times for one in panel]),
        "y": np.concatenate([np.where(one.observed, one.values, np.nan) for one in panel]),
    }


def panel_values(panel: list[OneSeries]) -> dict[str, np.ndarray]:
    return {one.name: np.where(one.observed, one.values, np.nan) for one in panel}


def new_folder(settings: Settings) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{stamp}-{Path(settings.series).stem}-horizon{settings.horizon}-seed{settings.seed}"


def write_columns(path: Path, columns: dict[str, np.ndarray]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*([_shown(value) for value in column] for column in columns.values())))


def _shown(value: Any) -> Any:
    if isinstance(value, np.datetime64):
        return str(value).removesuffix("T00:00:00")
    return "" if isinstance(value, float) and np.isnan(value) else value


def table_of(metrics: dict[str, Any]) -> Table:
    table = Table(title=f"backtest of {metrics['series']} series, {metrics['horizon']} steps ahead")
    names = {"mase": "MASE", "smape": "sMAPE", "wql": "WQL", "coverage_80": "in 80 %", "coverage_95": "in 95 %"}
    table.add_column("forecast")
    for shown in names.values():
        table.add_column(shown, justify="right")
    for name, title in (("seasonal_naive", "seasonal naive"), ("model", "ours")):
        cells = [digits(metrics[name][key]) for key in names]
        # One value has no interval.
        table.add_row(title, *(cells if name == "model" else [*cells[:3], "", ""]))
    return table


def explain(model: Forecaster) -> None:
    calibration = model.calibration
    if calibration is None or not calibration.origins:
        say("the series are too short to hold anything out: intervals are those of the network, not calibrated")
        return
    errors = ", ".join(f"{share} {digits(error)}" for share, error in calibration.errors.items())
    say(
        f"chosen on {calibration.origins} held-out origins: {100 * calibration.share:.0f} % of the network's "
        f"change to seasonal naive is used (errors by share: {errors}); they calibrate the intervals too"
    )
