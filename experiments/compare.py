"""Compare every recipe and task, over several seeds, with forecasts that need no network: the README's table.

    python -m experiments.compare
    python -m experiments.compare --seeds 0 --series seattle melbourne

Prints a Markdown table, and writes it to compare.md, with the numbers of every run in compare.json.
"""

import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
from rich.progress import Progress
from tyro.conf import arg

from experiments.common import runs
from experiments.common.command import error_message
from experiments.common.config import Settings as ForecastSettings
from experiments.common.config import read_command_line, resolve
from experiments.common.devices import batch_mesh, claim_devices
from experiments.common.pipeline import Forecasting, load
from experiments.common.recipes import TASKS, Config
from experiments.common.report import BASELINE_NAMES, baselines, console, ended_early, fail, say
from jaxrnn.data import available_series
from jaxrnn.training import Run, fit


@dataclass(frozen=True)
class Settings:
    """The series and seeds to compare."""

    series: Annotated[tuple[str, ...], arg(help="The series to forecast.")] = available_series()
    seeds: Annotated[tuple[int, ...], arg(help="Seeds of the runs; the table shows their mean.")] = (0, 1, 2, 3, 4)
    out: Annotated[Path, arg(metavar="DIR", help="The folder for compare.md and compare.json.")] = Path(
        "runs/compare"
    )


def main(arguments: list[str] | None = None) -> int:
    try:
        settings = read_command_line(Settings, "compare", __doc__, arguments)
        claim_devices(None)
        compare(settings)
    except (ValueError, OSError) as error:
        return fail(error_message(error))
    except KeyboardInterrupt:
        ended_early("interrupted; no results were written")
        return 130
    return 0


def compare(settings: Settings) -> None:
    configs = []
    for series in settings.series:
        # The course recipe's output scale and learning rates only suit the course series.
        recipes = ("course", "tuned") if series == "course" else ("tuned",)
        for recipe in recipes:
            for task in TASKS:
                options = [ForecastSettings(recipe, task, series=series, seed=seed) for seed in settings.seeds]
                configs.append([resolve(option) for option in options])
    runs.make_folder(settings.out)
    rows, known = [], {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task("training", total=len(configs) * len(settings.seeds))
        for group in configs:
            if group[0].series not in known:
                known[group[0].series] = baseline_maes(group[0])
            results = []
            for config in group:
                results.append(train_once(config))
                bar.advance(line)
            rows.append(_summary(group[0], results, settings.seeds))
            if not console.is_terminal:
                print(f"{rows[-1]['series']} {rows[-1]['forecast']}: {rows[-1]['mae']:.3f}", flush=True)
    table = markdown(known, rows)
    (settings.out / "compare.md").write_text(table, encoding="utf-8")
    machine = {"processor": platform.processor() or platform.machine(), "jax": jax.__version__}
    runs.write_json(settings.out / "compare.json", {"machine": machine, "baselines": known, "networks": rows})
    print(table)
    say(f"the table and the numbers are in {settings.out}")


def train_once(config: Config) -> dict[str, float]:
    """Train, and forecast with the parameters of the best epoch."""
    forecasting = Forecasting(config, load(config), mesh=batch_mesh(config.batch_size, None))
    state, epoch = forecasting.start(forecasting.optimizer())
    run = fit(Run.create(state, patience=config.patience), epoch, forecasting.evaluate, epochs=config.epochs)
    forecast = forecasting.forecast(run.best_params)[:-1]
    return {
        "mae": forecasting.mae(forecast),
        "best_epoch": run.stopping.best_epoch,
        "epochs_run": run.epochs_run,
        "seconds": sum(row["seconds"] for row in run.history),
    }


def baseline_maes(config: Config) -> dict[str, float]:
    """The errors of the forecasts without a network, by name."""
    forecasting = Forecasting(resolve(ForecastSettings(recipe="tuned", series=config.series)), load(config))
    return {name: forecasting.mae(forecast) for name, forecast in baselines(forecasting).items()}


def _summary(config: Config, results: list[dict[str, float]], seeds: tuple[int, ...]) -> dict:
    maes = [result["mae"] for result in results]
    return {
        "series": config.series,
        "forecast": f"{config.cell} {config.task}, {config.recipe} recipe",
        "mae": float(np.mean(maes)),
        "lowest": min(maes),
        "highest": max(maes),
        "seconds": float(np.median([result["seconds"] for result in results])),
        "seeds": list(seeds),
        "runs": results,
    }


def markdown(known: dict[str, dict[str, float]], rows: list[dict]) -> str:
    """A Markdown table with a row per forecast and a column per series; the best of each series is bold."""
    cells: dict[str, dict[str, tuple[float, str]]] = {}
    for series, maes in known.items():
        for name, mae in maes.items():
            cells.setdefault(BASELINE_NAMES[name], {})[series] = (mae, "")
    for row in rows:
        spread = f" ({row['lowest']:.3f} to {row['highest']:.3f})"
        cells.setdefault(row["forecast"], {})[row["series"]] = (row["mae"], spread)
    best = {series: min(row[series][0] for row in cells.values() if series in row) for series in known}

    def shown(row: dict[str, tuple[float, str]], series: str) -> str:
        if series not in row:
            return ""
        mae, spread = row[series]
        return (f"**{mae:.3f}**" if mae == best[series] else f"{mae:.3f}") + spread

    lines = [f"| forecast | {' | '.join(known)} |", "| --- |" + " ---: |" * len(known)]
    lines += [f"| {name} | {' | '.join(shown(row, series) for series in known)} |" for name, row in cells.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
