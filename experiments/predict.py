"""Forecast with the best model of a run, in a new process.

    python -m experiments.forecast --recipe tuned --out runs/first
    python -m experiments.predict runs/first                       # the same series: the same numbers, bit for bit
    python -m experiments.predict runs/first --series new.csv      # another series, scaled as the run's own

Prints how good the forecasts of the series's last part are, and the forecast of the step after its end.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tyro.conf import Positional, arg

from experiments.common import runs
from experiments.common.devices import claim_devices
from experiments.common.pipeline import Forecasting, load
from experiments.common.report import baselines, console, fail, plain_warnings, results_table
from jaxrnn.data import available_series
from jaxrnn.training import CheckpointStore, Run


@dataclass(frozen=True)
class Settings:
    """Which run, and which series."""

    run: Annotated[Positional[Path], arg(metavar="RUN", help="Folder of a run of experiments.forecast.")]
    series: Annotated[
        str | None,
        arg(
            metavar="NAME|PATH.csv",
            help="The series to forecast.",
            help_behavior_hint="(default: the run's own)",
        ),
    ] = None
    column: Annotated[
        str | None, arg(metavar="NAME", help="Its column.", help_behavior_hint="(default: the run's own)")
    ] = None
    split: Annotated[
        int | None,
        arg(
            metavar="STEP",
            help="The first step to forecast.",
            help_behavior_hint="(default: the series's own, or 70 % of a file)",
        ),
    ] = None
    out: Annotated[
        Path | None,
        arg(metavar="FILE.csv", help="Write the forecasts there.", help_behavior_hint="(default: nowhere)"),
    ] = None


def main(arguments: list[str] | None = None) -> int:
    settings = tyro.cli(Settings, prog="python -m experiments.predict", args=arguments, description=__doc__)
    plain_warnings()
    try:
        predict(settings)
    except (ValueError, OSError) as error:
        return fail(str(error))
    return 0


def predict(settings: Settings) -> None:
    config, preparation = runs.read_config(settings.run)
    claim_devices(None)
    if settings.series is not None:
        same = settings.series == config.series
        column = config.column if same or settings.series not in available_series() else None
        config = replace(config, series=settings.series, column=column, split=config.split if same else None)
    if settings.column is not None:
        config = replace(config, column=settings.column)
    if settings.split is not None:
        config = replace(config, split=settings.split)
    forecasting = Forecasting(config, load(config), preparation)
    template = Run.create(forecasting.start(forecasting.optimizer())[0])
    with CheckpointStore(settings.run / runs.CHECKPOINTS) as store:
        restored = store.restore(template.arrays)
    forecast = forecasting.forecast(restored.arrays["best_params"])
    mae = float(np.abs(forecast[:-1] - forecasting.actual).mean())
    compared = {name: float(np.abs(f - forecasting.actual).mean()) for name, f in baselines(forecasting).items()}
    console.print(results_table(forecasting, compared, mae))
    count = len(forecasting.actual)
    console.print(
        f"best model of epoch {restored.record['best_epoch']}; its MAE over the last {count} values is {mae!r}"
    )
    console.print(f"step {len(forecasting.series.values)}, the one after the series: {float(forecast[-1])!r}")
    if settings.out is not None:
        runs.write_forecast(settings.out, forecasting.parts.test, forecasting.actual, forecast)
        console.print(f"forecasts are in {settings.out}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
