"""Train a recurrent network to forecast a series one step ahead; save, plot and compare the best model.

    python -m experiments.forecast

trains the lesson's sequence-to-vector network on the lesson's series (about 30 s on two cores) and reaches a
validation MAE near 5.2, where the last value as forecast has 5.94. Other things to try:

    python -m experiments.forecast --recipe tuned                  # about 4.27, within 10 s
    python -m experiments.forecast --task seq2seq                  # learn from every step of each window
    python -m experiments.forecast --task stateful                 # carry the hidden state along the series
    python -m experiments.forecast --series melbourne              # ten years of real temperatures
    python -m experiments.forecast --series my.csv --column sales  # your own
    python -m experiments.forecast --activation relu               # see why the lesson prefers tanh

Everything is written into one run folder: config.json, metrics.json, history.json, forecast.csv, forecast.png,
learning_curve.png and the checkpoints. Ctrl-C saves the best model and stops.
"""

import signal
import time

_BEGAN = time.perf_counter()
if __name__ == "__main__":
    # While modules are being imported, Ctrl-C just ends the process; main() turns it into an exception again.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import math  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402

from experiments import runs  # noqa: E402
from experiments.compilation_cache import use_compilation_cache  # noqa: E402
from experiments.config import Settings, read_settings, resolve  # noqa: E402
from experiments.devices import batch_mesh, claim_devices  # noqa: E402
from experiments.pipeline import Forecasting, load  # noqa: E402
from experiments.recipes import Config  # noqa: E402
from experiments.report import baselines, console, epoch_progress, fail, plain_warnings, results_table  # noqa: E402
from jaxrnn.training import CheckpointStore, Run, describe_divergence, fit  # noqa: E402

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    settings = read_settings(__doc__, arguments)
    plain_warnings()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run_experiment(settings)
    except (ValueError, OSError) as error:
        return fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted before there was anything to save")
        return INTERRUPTED


def run_experiment(settings: Settings) -> int:
    config, preparation = resolve(settings), None
    claim_devices(settings.devices)
    use_compilation_cache(settings.compilation_cache)
    folder = settings.out or runs.new_folder(config)
    if settings.resume:
        if settings.out is None:
            raise ValueError("--resume needs --out, the folder of the run to go on with")
        saved, preparation = runs.read_config(folder)
        config = runs.check_resumable(saved, settings)
    else:
        runs.check_free(folder)

    mesh = batch_mesh(config.batch_size, settings.devices)
    forecasting = Forecasting(config, load(config), preparation, mesh=mesh)
    optimizer = forecasting.optimizer()
    state, train_epoch = forecasting.start(optimizer)
    run = Run.create(state, patience=config.patience)
    runs.make_folder(folder)
    with CheckpointStore(folder / runs.CHECKPOINTS) as store:
        if settings.resume and store.steps():
            restored = store.restore(run.arrays)
            run = run.restored(restored.arrays, restored.record)
            console.print(f"going on after epoch {run.epochs_run}")
        elif settings.resume:
            console.print("there is no checkpoint yet: beginning with the first epoch")
        runs.write_config(folder, config, forecasting.preparation, new=not settings.resume)
        train(forecasting, run, train_epoch, store)
    console.print(f"stopped: {_reason(run, config)}", soft_wrap=True)
    if run.stopped == "diverged":
        fail(describe_divergence(run))
    try:
        metrics = finish(forecasting, run, folder)
    except KeyboardInterrupt:
        fail(f"interrupted while finishing; the model is saved in {folder}, and --resume finishes")
        return INTERRUPTED
    epoch = run.stopping.best_epoch
    which = f"best model of epoch {epoch}" if epoch else "no epoch was finite: this is the untrained model"
    console.print(f"{which}; its MAE over the last {len(forecasting.actual)} values is {metrics['valid_mae']!r}")
    console.print(f"everything is in {folder}", soft_wrap=True)
    return {"interrupted": INTERRUPTED, "diverged": 1}.get(run.stopped or "", 0)


def train(forecasting: Forecasting, run: Run, train_epoch: Any, store: CheckpointStore) -> None:
    config = forecasting.config
    first_epoch_at: list[float] = []
    with epoch_progress(config.epochs, done=run.epochs_run) as show:

        def on_epoch(run: Run) -> None:
            if not first_epoch_at:
                first_epoch_at.append(time.perf_counter() - _BEGAN)
                run.history[-1]["seconds_to_first_epoch"] = first_epoch_at[0]
            show(run)

        fit(
            run,
            train_epoch,
            forecasting.evaluate,
            epochs=config.epochs,
            on_epoch=on_epoch,
            checkpoints=store,
        )


def finish(forecasting: Forecasting, run: Run, folder: Path) -> dict[str, Any]:
    """Roll back to the best model, forecast with it, and write down and draw what came out."""
    config, actual = forecasting.config, forecasting.actual
    forecast = forecasting.forecast(run.best_params)
    compared = baselines(forecasting)
    maes = {name: float(np.abs(f - actual).mean()) for name, f in compared.items()}
    seconds = [row["seconds"] for row in run.history if "seconds_to_first_epoch" not in row]
    first = [row["seconds_to_first_epoch"] for row in run.history if "seconds_to_first_epoch" in row]
    metrics = {
        "task": config.task,
        "cell": config.cell,
        "series": config.series,
        "recipe": config.recipe,
        "seed": config.seed,
        "valid_mae": float(np.abs(forecast[:-1] - actual).mean()),
        "baselines": maes,
        "next_value": float(forecast[-1]),
        "monitored": "end of the training part" if config.holdout else "the last part itself",
        "monitored_mae": run.best_row.get("valid_mae"),
        "best_epoch": run.stopping.best_epoch,
        "epochs_run": run.epochs_run,
        "stopped": run.stopped,
        "seconds_per_epoch": float(np.median(seconds)) if seconds else None,
        "seconds_to_first_epoch": first[-1] if first else None,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "devices": 1 if forecasting.mesh is None else forecasting.mesh.size,
    }
    runs.write_json(folder / "metrics.json", metrics)
    runs.write_json(folder / "history.json", run.history)
    runs.write_forecast(folder / "forecast.csv", forecasting.parts.test, actual, forecast)
    console.print(results_table(forecasting, maes, metrics["valid_mae"]))

    from experiments import plots

    title = f"{forecasting.series.name}, {config.cell} {config.task}: MAE {metrics['valid_mae']:.3f}"
    plots.plot_forecast(
        folder / "forecast.png", forecasting.parts.test, actual, forecast[:-1], compared["naive"], title
    )
    if run.stopping.best_epoch:
        finite = [row for row in run.history if math.isfinite(row["loss"] + row["valid_loss"])]
        plots.plot_learning_curve(folder / "learning_curve.png", finite, run.stopping.best_epoch, title)
    return metrics


def _reason(run: Run, config: Config) -> str:
    return {
        "epochs": f"all {config.epochs} epochs are done",
        "patience": f"no better validation loss for {config.patience} epochs",
        "diverged": "the loss was not finite",
        "interrupted": "Ctrl-C; --resume with this --out goes on",
    }[run.stopped or "epochs"]


if __name__ == "__main__":
    code = main()
    if code == INTERRUPTED:  # at once: a program that is still being compiled cannot be taken down in order
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
