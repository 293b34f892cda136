"""What a run with --horizon prints and records: errors beside simple forecasts, and what was chosen and why."""

from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from experiments.common.report import console, digits, say
from jaxrnn.forecasting import Forecaster

NAMES = {
    "naive": "naive",
    "seasonal_naive": "seasonal naive",
    "ar": "least-squares AR",
    "model": "ours",
}
MEASURES = {"mase": "MASE", "smape": "sMAPE", "wql": "WQL", "coverage_80": "in 80 %", "coverage_95": "in 95 %"}
_MOST_STEPS = 12


def report_backtest(metrics: dict[str, Any]) -> None:
    """Print the errors over the whole horizon and by its steps, and say what is better than ours."""
    season = metrics["season"]
    names = [name for name in NAMES if name in metrics and not (name == "seasonal_naive" and season == 1)]
    what = "1 series" if metrics["series"] == 1 else f"{metrics['series']} series"
    table = Table(title=f"backtest of {what}, {metrics['origins']} origins, {metrics['horizon']} steps ahead")
    table.add_column("forecast")
    for shown in MEASURES.values():
        table.add_column(shown, justify="right")
    for name in names:
        style = "bold" if name == "model" else ""
        values = [metrics[name][key] for key in MEASURES]
        cells = [_shown(value) for value in values]
        cells = cells if name == "model" else [*cells[:3], "", ""]  # one value has no interval
        table.add_row(*(Text(cell, style) for cell in (NAMES[name], *cells)))
    console.print(table)
    if np.isnan(metrics["model"]["mase"]):
        say(
            "there are no errors, since no origin with a value has a value after it: fill in missing values, or "
            "give more --origins"
        )
    elif np.isnan(metrics["model"]["wql"]):
        say("there is no WQL, since it is relative to the sum of the values, and all of these are 0")
    if metrics["horizon"] > 1:
        console.print(_by_step(metrics, names))
    ours = metrics["model"]["mase"]
    better = [name for name in names if name != "model" and ours > 1.001 * metrics[name]["mase"] + 1e-3]
    for name in better:
        say(
            f"the MASE of {digits(ours)} is worse than that of a forecast without a network, {NAMES[name]} "
            f"({digits(metrics[name]['mase'])})"
        )


def _by_step(metrics: dict[str, Any], names: list[str]) -> Table:
    steps = metrics["horizon"]
    shown = sorted({round(1 + place * (steps - 1) / (_MOST_STEPS - 1)) for place in range(_MOST_STEPS)})
    table = Table(title="by step of the horizon: MASE of each forecast, and our intervals")
    table.add_column("step", justify="right")
    for name in names:
        table.add_column(NAMES[name], justify="right")
    for key in ("coverage_80", "coverage_95"):
        table.add_column(MEASURES[key], justify="right")
    for step in shown:
        rows = {name: metrics["by_step"][name][step - 1] for name in names}
        covered = [_shown(rows["model"][key]) for key in ("coverage_80", "coverage_95")]
        table.add_row(str(step), *(_shown(rows[name]["mase"]) for name in names), *covered)
    return table


def _shown(value: float) -> str:
    """An error for a table; a dash where none could be measured."""
    return "-" if np.isnan(value) else digits(value)


def choices(model: Forecaster) -> dict[str, Any]:
    """What was given and what was found on the series to train on, with the numbers that decided."""
    settings, season, effects, calibration = (
        model.settings,
        model.season_choice,
        model.known.effects,
        model.calibration,
    )
    record: dict[str, Any] = {
        "season": model.settled_season,
        "season_found": None if season is None else season.to_json()["ratios"],
        "window": settings.window,
        "non_negative": settings.non_negative,
        "calendar": list(model.known.covariates.phases),
    }
    if settings.future_columns:
        record["future_columns"] = {
            "regression": effects.used,
            "error": effects.error,
            "error_without": effects.error_without,
        }
    if calibration is not None:
        record["share"] = calibration.share
        record["errors_by_share"] = calibration.errors
        record["held_out_origins"] = calibration.origins
    return record


def explain(choice: dict[str, Any]) -> list[str]:
    """The same in sentences."""
    said = []
    ratios = choice["season_found"]
    if ratios is not None:
        tried = ", ".join(f"{season} steps: {digits(ratio)} times" for season, ratio in ratios.items())
        season = f"{choice['season']} steps" if choice["season"] > 1 else "none"
        said.append(
            f"season: {season}, as the series show; --season sets it. (How much values one season apart differ, "
            f"beside values up to a season apart: {tried}.)"
            if ratios
            else "season: none, because the series are too short or too plain to show one; --season sets it"
        )
    if choice["non_negative"]:
        said.append("no value is negative, so no forecast is; --non-negative False allows them")
    if choice["calendar"]:
        said.append(f"the network reads the {', '.join(choice['calendar'])} of the dates")
    if (columns := choice.get("future_columns")) is not None:
        what = "is used" if columns["regression"] else "is not used"
        with_it, without = digits(columns["error"]), digits(columns["error_without"])
        said.append(
            f"the regression on the columns that are known in advance {what}: on parts of the series that it was "
            f"not fitted to, its error is {with_it}; without it {without}"
        )
    if not choice.get("held_out_origins"):
        said.append(
            "the series are too short to hold anything out: intervals are those of the network, not calibrated"
        )
        return said
    share = f"{100 * choice['share']:.0f} %"
    if not choice["errors_by_share"]:
        said.append(
            f"networks make {share} of the median, simple forecasts the rest; the {choice['held_out_origins']} "
            f"held-out origins lie in too few periods of time to choose another share, but calibrate the intervals"
        )
        return said
    errors = ", ".join(f"{share} {digits(error)}" for share, error in choice["errors_by_share"].items())
    said.append(
        f"chosen on {choice['held_out_origins']} held-out origins: networks make {share} of the median, simple "
        f"forecasts the rest (errors: {errors}); the origins calibrate the intervals too"
    )
    return said
