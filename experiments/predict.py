"""Forecast with the best model of a run, in a new process.

    python -m experiments.forecast --recipe tuned --out runs/first
    python -m experiments.predict runs/first                       # the same series: the same numbers, bit for bit
    python -m experiments.predict runs/first --series new.csv      # another series, with the scale of the run
    python -m experiments.predict runs/shops --series new.csv      # a run with --horizon: the steps after new rows
    python -m experiments.predict runs/shops --series new.csv --future promotions.csv
    python -m experiments.predict runs/shops --series new.csv --sample-paths 1000   # for sums over the steps

Prints the error of the forecasts of the test part, and the forecast of the step after the end of the series. Of a
run with --horizon it writes the forecasts of the steps after the end of every series of the file.
"""

import signal

if __name__ == "__main__":
    # During the imports Ctrl-C ends the process without a traceback. main() installs a handler with a message.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from flax import nnx
from tyro.conf import Positional, arg

from experiments.common import runs
from experiments.common.command import end_at_once, run_command
from experiments.common.config import read_command_line
from experiments.common.devices import claim_devices
from experiments.common.many_steps import pipeline, record
from experiments.common.many_steps.panel_file import PanelOptions, load_future, load_panel, names_for
from experiments.common.options import option
from experiments.common.pipeline import Forecasting, load
from experiments.common.report import (
    baselines,
    comparison,
    console,
    digits,
    next_step,
    results_table,
    say,
)
from experiments.common.signals import CtrlC
from jaxrnn.data import available_series
from jaxrnn.forecasting import Forecaster, with_future
from jaxrnn.models import RNNForecaster
from jaxrnn.training import CheckpointStore, Run

_OF_HORIZON = "{} Only for a run with --horizon."
_AS_RUN = "(default: as the run)"


@dataclass(frozen=True)
class Settings:
    """The run and the series."""

    run: Annotated[Positional[Path], arg(metavar="RUN", help="Folder of a run of experiments.forecast.")]
    series: Annotated[
        str | None,
        arg(
            metavar="NAME|PATH.csv",
            help="The series to forecast.",
            help_behavior_hint="(default: that of the run; needed for a run with --horizon)",
        ),
    ] = None
    column: Annotated[
        str | None,
        arg(metavar="NAME", help="The column to forecast.", help_behavior_hint="(default: that of the run)"),
    ] = None
    split: Annotated[
        int | None,
        arg(
            metavar="STEP",
            help="The first step to forecast.",
            help_behavior_hint="(default: that of the named series, or 70 % of a file)",
        ),
    ] = None
    out: Annotated[
        Path | None,
        arg(
            metavar="FILE.csv",
            help="Write the forecasts into this file.",
            help_behavior_hint="(default: no file; for a run with --horizon RUN/forecast-SERIES.csv)",
        ),
    ] = None
    overwrite: Annotated[bool, arg(help="Replace the file if it exists.")] = False
    id_column: Annotated[
        str | None,
        arg(
            metavar="NAME",
            help=_OF_HORIZON.format("The column that names the series of each row."),
            help_behavior_hint=_AS_RUN,
        ),
    ] = None
    time_column: Annotated[
        str | None,
        arg(metavar="NAME", help=_OF_HORIZON.format("The column of dates."), help_behavior_hint=_AS_RUN),
    ] = None
    aggregate: Annotated[
        str | None,
        arg(
            metavar="sum|mean|...",
            help=_OF_HORIZON.format("How rows of one series with one date become one."),
            help_behavior_hint=_AS_RUN,
        ),
    ] = None
    future: Annotated[
        Path | None,
        arg(
            metavar="PATH.csv",
            help=_OF_HORIZON.format("A file with the future columns at the steps to forecast."),
            help_behavior_hint="(default: the rows of --series without a value)",
        ),
    ] = None
    sample_paths: Annotated[
        int | None,
        arg(
            metavar="N",
            help=_OF_HORIZON.format(
                "Also write N paths: values of all steps together, for intervals of their sum, for example."
            ),
            help_behavior_hint="(default: none)",
        ),
    ] = None


def main(arguments: list[str] | None = None) -> int:
    ctrl_c = CtrlC()

    def run() -> int:
        ctrl_c.message = "interrupted before the forecasts were complete"
        settings = read_command_line(Settings, "predict", __doc__, arguments)
        if settings.out is not None:
            _check_free(settings.out, settings.overwrite)
        if (settings.run / record.CONFIG).exists() or (settings.run / pipeline.MODEL).exists():
            predict_horizon(settings)
        else:
            predict(settings)
        return 0

    return run_command(ctrl_c, run)


def _check_free(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder: give the path of a file")
    if not path.parent.is_dir():
        raise ValueError(f"--out {path} needs the folder {path.parent}, which does not exist: make it first")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already: give another path, or --overwrite to replace it")


@dataclass(frozen=True)
class LoadedRun:
    """A run's best model, and everything that is needed to forecast with it.

    Attributes:
      model: a Flax module that takes prepared windows ``[batch, time, features]`` of ``forecasting.features`` and
        returns scaled forecasts.
      forecasting: the experiment. ``forecasting.forecast(params)`` returns forecasts in the units of the series.
      params: the parameters of the model, as ``forecasting`` takes them.
      best_epoch: the epoch that they come from; 0 if no epoch was finite.
    """

    model: RNNForecaster
    forecasting: Forecasting
    params: Any
    best_epoch: int


def load_run(
    folder: Path | str, *, series: str | None = None, column: str | None = None, split: int | None = None
) -> LoadedRun:
    """Load the best model of a run of experiments.forecast from the run's folder.

        run = load_run("runs/first")
        outputs = run.model(run.forecasting.features[None, -30:])     # scaled, as the model was trained
        forecasts = run.forecasting.forecast(run.params)              # of the test part, in the series' units

    Args:
      folder: the folder that the run was given as ``--out``.
      series, column, split: another series to forecast, which is scaled like that of the run; None keeps the
        run's own.

    Raises:
      FileNotFoundError: there is no run in this folder.
      ValueError: the run is damaged, or the series does not fit it.
    """
    folder = Path(folder)
    config, preparation = runs.read_config(folder)
    if series is not None:
        same = series == config.series
        own_column = config.column if same or series not in available_series() else None
        config = replace(config, series=series, column=own_column, split=config.split if same else None)
    if column is not None:
        config = replace(config, column=column)
    if split is not None:
        config = replace(config, split=split)
    forecasting = Forecasting(config, load(config), preparation, training=False)
    template = Run.create(forecasting.new_state(forecasting.optimizer(steps=1)))
    with CheckpointStore(folder / runs.CHECKPOINTS) as store:
        restored = store.restore(template.arrays)
    params = restored.arrays["best_params"]
    model = forecasting.make_model()
    nnx.update(model, params)
    return LoadedRun(model, forecasting, params, restored.record["best_epoch"])


def predict(settings: Settings) -> None:
    for name in ("id_column", "time_column", "aggregate", "future", "sample_paths"):
        if getattr(settings, name) is not None and (settings.run / runs.CONFIG).exists():
            raise ValueError(
                f"{option(name)} needs a run with --horizon, but {settings.run} forecasts a single step"
            )
    claim_devices(None)
    run = load_run(settings.run, series=settings.series, column=settings.column, split=settings.split)
    forecasting = run.forecasting
    forecast = forecasting.forecast(run.params)
    for note in forecasting.series.notes:
        say(f"note: {note}")
    mae = forecasting.mae(forecast[:-1])
    compared = {name: forecasting.mae(f) for name, f in baselines(forecasting).items()}
    console.print(results_table(forecasting, compared, mae))
    count = np.isfinite(forecasting.actual).sum()
    say(f"best model of epoch {run.best_epoch}; its MAE over the last {count} values is {digits(mae)}")
    say(f"forecast of {next_step(forecasting.series)}, after the series: {digits(float(forecast[-1]))}")
    if (message := comparison(compared, mae)) is not None:
        say(message)
    if settings.out is not None:
        runs.write_forecast(settings.out, forecasting.parts.test, forecasting.actual, forecast)
        say(f"the forecasts are in {settings.out}")


def predict_horizon(settings: Settings) -> None:
    """Forecast many steps with a run of ``experiments.forecast --horizon``, of new rows or new series."""
    if settings.series is None:
        raise ValueError(f"{settings.run} is a run with --horizon: give the --series whose next steps to forecast")
    if settings.split is not None:
        raise ValueError(f"--split belongs to runs that forecast a single step, but {settings.run} has --horizon")
    out = settings.out or settings.run / f"forecast-{Path(settings.series).stem}.csv"
    paths_out = out.with_name(f"{out.stem}-paths.csv")
    _check_free(out, settings.overwrite)
    if settings.sample_paths is not None:
        if settings.sample_paths < 1:
            raise ValueError(f"--sample-paths must be at least 1, not {settings.sample_paths}")
        _check_free(paths_out, settings.overwrite)
    if not (settings.run / pipeline.MODEL / "forecaster.json").exists():
        raise ValueError(
            f"the run in {settings.run} has no model: it is a backtest alone, or it ended before its model was "
            f"trained. To train one, give python -m experiments.forecast the options of the run, with --resume "
            f"--out {settings.run}"
        )
    given = record.read(settings.run)["settings"]
    if settings.future is not None and not given["future_columns"]:
        raise ValueError(
            f"--future {settings.future} needs a run with --future-columns, but that in {settings.run} has none"
        )
    names = [field.name for field in fields(PanelOptions)]
    mine = {name: value for name in names if (value := getattr(settings, name, None)) is not None}
    theirs = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if name in names
    }
    theirs = {name: value for name, value in theirs.items() if name not in mine}
    if settings.series not in available_series() and Path(settings.series).is_file():
        theirs = names_for(Path(settings.series), theirs)
    options = PanelOptions(**theirs, **mine)
    model = Forecaster.load(settings.run / pipeline.MODEL)
    panel = load_panel(settings.series, options, known=model.known.times, texts=model.known.covariates.texts)
    if settings.future is not None:
        future = load_future(str(settings.future), options, panel)
        panel = with_future(panel, future, model.settings.horizon)
        model.require_future(panel, future)
    claim_devices(None)
    for note in model.known.covariates.unknown_texts(panel, model.settings.horizon):
        say(f"note: {note}")
    forecasts = model.predict(panel)
    pipeline.write_columns(out, forecasts)
    say(f"the forecasts of {len(panel)} series are in {out}")
    if settings.sample_paths is not None:
        paths = np.concatenate([one.T for one in model.sample(settings.sample_paths, panel).values()])
        columns = {f"path-{number + 1}": column for number, column in enumerate(paths.T)}
        pipeline.write_columns(paths_out, {name: forecasts[name] for name in ("unique_id", "ds")} | columns)
        say(f"{settings.sample_paths} paths of each are in {paths_out}: each adds up to one possible sum")


if __name__ == "__main__":
    end_at_once(main())
