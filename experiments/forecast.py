"""Train a recurrent network to forecast a series one step ahead; save, plot and compare the best model.

    python -m experiments.forecast

trains the lesson's sequence-to-vector network on the lesson's series (about 30 s on two cores). Its forecasts of
the test part reach an MAE near 5.2; repeating the last value has an MAE of 5.94. Other things to try:

    python -m experiments.forecast --recipe tuned                  # about 4.27, within 10 s
    python -m experiments.forecast --task seq2seq                  # learn from every step of each window
    python -m experiments.forecast --task stateful                 # carry the hidden state along the series
    python -m experiments.forecast --series melbourne              # ten years of real temperatures
    python -m experiments.forecast --series my.csv --column sales  # your own
    python -m experiments.forecast --activation relu               # better than tanh on the course recipe
    python -m experiments.forecast --series my.csv --horizon 14    # the next 14 steps, with intervals
    python -m experiments.forecast --horizon 14 --help             # the options for many steps

(With ReLU, the course recipe's MAE is 4.81 instead of 5.29, the mean of seeds 0 to 2. The lesson prefers tanh
because ReLU has no upper bound: with larger recurrent weights or longer sequences, hidden states and gradients
can explode. python -m experiments.gradient_flow shows when.)

Everything is written into one run folder: config.json, metrics.json, history.json, forecast.csv, forecast.png,
learning_curve.png and the checkpoints. Ctrl-C, SIGTERM and closing the terminal save the run and stop it (exit
codes 130 and 143). The same command with --resume continues it and, on a CPU, ends with the same numbers, bit for
bit, as an uninterrupted run.
"""

import signal
import time

_BEGAN = time.perf_counter()
if __name__ == "__main__":
    # During the imports Ctrl-C ends the process without a traceback. main() installs a handler with a message.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import math  # noqa: E402
import sys  # noqa: E402
from dataclasses import replace  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402

from experiments.common import runs  # noqa: E402
from experiments.common.command import end_at_once, run_command  # noqa: E402
from experiments.common.compilation_cache import use_compilation_cache  # noqa: E402
from experiments.common.config import Settings, read_command_line, resolve  # noqa: E402
from experiments.common.devices import batch_mesh, claim_devices  # noqa: E402
from experiments.common.distributed import join_processes, leave, lost_peer, require_same_everywhere  # noqa: E402
from experiments.common.many_steps import pipeline as many_steps  # noqa: E402
from experiments.common.pipeline import Forecasting, load  # noqa: E402
from experiments.common.recipes import Config  # noqa: E402
from experiments.common.report import (  # noqa: E402
    advice,
    baselines,
    choice_record,
    comparison,
    console,
    digits,
    epoch_progress,
    explain_choice,
    fail,
    next_step,
    results_table,
    say,
)
from experiments.common.signals import CtrlC, answered  # noqa: E402
from jaxrnn.training import EXIT_CODES, CheckpointStore, Run, describe_divergence, fit  # noqa: E402
from jaxrnn.training.distributed import processes  # noqa: E402

LOST_PEER = 75
"""The exit code when another process of the job is gone (EX_TEMPFAIL in sysexits.h: try again)."""


ctrl_c = CtrlC()


def main(arguments: list[str] | None = None) -> int:
    def run() -> int:
        given = sys.argv[1:] if arguments is None else arguments
        if any(one.partition("=")[0] == "--horizon" for one in given):
            many = read_command_line(many_steps.Settings, "forecast", many_steps.__doc__, arguments)
            with answered():
                return many_steps.run(many, ctrl_c)
        settings = read_command_line(Settings, "forecast", __doc__, arguments)
        with answered():
            return run_with_others(settings) if settings.distributed else run_experiment(settings)

    return run_command(ctrl_c, run)


def run_with_others(settings: Settings) -> int:
    """Run as one process of several. When one of them ends, all end, so that a scheduler can restart the job."""
    resolve(settings)  # report invalid settings before waiting for anyone
    claim_devices(settings.devices or 1)
    join_processes(settings.heartbeat)
    try:
        require_same_everywhere(settings)
        code = run_experiment(settings)
        processes.wait_for_all("done")
    except processes.ProcessesDiffer:
        leave()
        raise
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not lost_peer(error):
            leave()
            raise
        fail(
            f"process {jax.process_index()} of {jax.process_count()}: another process of this job is gone, so "
            f"this one ends too. Start all of them again with --resume to continue from the last checkpoint. "
            f"({str(error).splitlines()[0]})"
        )
        return LOST_PEER
    leave()
    return code


def run_experiment(settings: Settings) -> int:
    config, preparation = resolve(settings), None
    if settings.resume and settings.out is None:
        raise ValueError("--resume needs --out: give the folder of the run to continue")
    if not settings.distributed:
        claim_devices(settings.devices)
    use_compilation_cache(settings.compilation_cache)
    main = processes.is_main()
    console.quiet = not main
    folder = settings.out or runs.new_folder(config)
    record = processes.on_main(lambda: runs.find_run(folder, resume=settings.resume))
    if record is not None:
        saved, preparation = runs.parse_config(folder, record)
        config = runs.check_resumable(saved, settings)
    elif settings.resume:
        config = resolve(replace(settings, resume=False))

    series = load(config)
    for note in series.notes:
        say(f"note: {note}")
    if record is not None:
        runs.check_series(folder, record, series)
    mesh = batch_mesh(config.batch_size, settings.devices)
    forecasting = Forecasting(config, series, preparation, mesh=mesh)
    optimizer = forecasting.optimizer()
    state, train_epoch = forecasting.start(optimizer)
    run = Run.create(state, patience=config.patience)
    with CheckpointStore(folder / runs.CHECKPOINTS) as store:
        processes.on_main(lambda: claim(folder, store, forecasting, new=record is None))
        if record is not None:
            run = restore(run, store)
        ctrl_c.message = f"interrupted; what is saved of the run is in {folder}, and --resume continues it"
        guard = runs.FolderGuard(folder, partial(write_config, folder, forecasting, new=False)) if main else None
        train(forecasting, run, train_epoch, store, settings, guard)
        if guard is not None:
            guard.check()
            guard.close()
    say(f"stopped: {_reason(run, config)}")
    if run.stopped == "diverged" and main:
        fail(describe_divergence(run))
    code = {"diverged": 1, **EXIT_CODES}.get(run.stopped or "", 0)
    if run.save_error is not None:  # the trained model can still be evaluated below
        code = fail(run.save_error) if main else 2
    if run.stopped == "terminated" or not main:  # after SIGTERM there is no time to draw
        return code
    metrics = finish(forecasting, run, folder)
    report_result(forecasting, run, metrics)
    say(f"everything is in {folder}")
    return code


def report_result(forecasting: Forecasting, run: Run, metrics: dict[str, Any]) -> None:
    """Print the error of the best model, and a suggestion if a simpler forecast is better."""
    epoch, ours, maes = run.stopping.best_epoch, metrics["valid_mae"], metrics["baselines"]
    which = f"best model of epoch {epoch}" if epoch else "no epoch was finite: this is the untrained model"
    say(f"{which}; its MAE over the last {np.isfinite(forecasting.actual).sum()} values is {digits(ours)}")
    if epoch:
        begin, end = forecasting.parts.monitor
        count = int(forecasting.observed[begin:end].sum())
        missing = end - begin - count
        less = f", of which {missing} are missing and do not count" if missing and count else ""
        none = "" if count else ", all of which are missing, so what stands in for them decided"
        say(
            f"the validation MAE of that epoch, which decided that it is the best, is "
            f"{digits(metrics['monitored_mae'])}; it is over the {end - begin} values from step {begin} on"
            f"{less}{none}"
        )
    say(f"forecast of {next_step(forecasting.series)}, after the series: {digits(metrics['next_value'])}")
    for line in explain_choice(forecasting, metrics["choice"]):
        say(line)
    for message in (comparison(maes, ours), advice(forecasting, run, maes, ours)):
        if message is not None:
            say(message)


def claim(folder: Path, store: CheckpointStore, forecasting: Forecasting, *, new: bool) -> None:
    """Reserve the folder for this run. Raises an error if it holds another run or another process trains in it."""
    runs.make_folder(folder)
    if new:
        write_config(folder, forecasting, new=True)
    store.claim()
    if not new:
        write_config(folder, forecasting, new=False)


def write_config(folder: Path, forecasting: Forecasting, *, new: bool) -> None:
    runs.write_config(folder, forecasting.config, forecasting.preparation, forecasting.series, new=new)


def restore(run: Run, store: CheckpointStore) -> Run:
    """Restore the newest undamaged checkpoint in every process; without a checkpoint, return the run unchanged."""
    resumed = run.resumed(store)
    if resumed is run:
        say("there is no checkpoint yet: starting with the first epoch")
        return run
    run = resumed
    batch = int(run.state.position)
    say(f"going on after epoch {run.epochs_run}" + (f" and {batch} batches" if batch else ""))
    return run


def train(
    forecasting: Forecasting,
    run: Run,
    train_epoch: Any,
    store: CheckpointStore,
    settings: Settings,
    guard: runs.FolderGuard | None,
) -> None:
    config = forecasting.config
    first_epoch_at: list[float] = []
    with epoch_progress(config.epochs, done=run.epochs_run) as show:

        def on_epoch(run: Run) -> None:
            if not first_epoch_at:
                first_epoch_at.append(time.perf_counter() - _BEGAN)
                run.history[-1]["seconds_to_first_epoch"] = first_epoch_at[0]
            if processes.is_main():
                show(run)
            if guard is not None:
                guard.check()

        fit(
            run,
            train_epoch,
            forecasting.evaluate,
            epochs=config.epochs,
            on_epoch=on_epoch,
            checkpoints=store,
            save_every=settings.save_every,
            save_every_steps=settings.save_every_steps,
        )


def finish(forecasting: Forecasting, run: Run, folder: Path) -> dict[str, Any]:
    """Forecast with the best model; write metrics, forecasts and plots into the folder."""
    config, actual = forecasting.config, forecasting.actual
    forecast = forecasting.forecast(run.best_params)
    compared = baselines(forecasting)
    maes = {name: forecasting.mae(f) for name, f in compared.items()}
    seconds = [row["seconds"] for row in run.history if "seconds_to_first_epoch" not in row]
    first = [row["seconds_to_first_epoch"] for row in run.history if "seconds_to_first_epoch" in row]
    metrics = {
        "task": config.task,
        "cell": config.cell,
        "series": config.series,
        "recipe": config.recipe,
        "seed": config.seed,
        "valid_mae": forecasting.mae(forecast[:-1]),
        "baselines": maes,
        "choice": choice_record(forecasting, run.best_params),
        "next_value": float(forecast[-1]),
        "monitored": "end of the training part" if config.holdout else "the last part itself",
        "monitored_mae": run.best_row.get("valid_mae"),
        "best_epoch": run.stopping.best_epoch,
        "epochs_run": run.epochs_run,
        "skipped_steps": sum(row["skipped"] for row in run.history),
        "stopped": run.stopped,
        "seconds_per_epoch": float(np.median(seconds)) if seconds else None,
        "seconds_to_first_epoch": first[-1] if first else None,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "devices": 1 if forecasting.mesh is None else forecasting.mesh.size,
    }
    console.print(
        results_table(forecasting, maes, metrics["valid_mae"])
    )  # before writing, which a full disk may prevent
    runs.write_json(folder / "metrics.json", metrics)
    runs.write_json(folder / "history.json", run.history)
    runs.write_forecast(folder / "forecast.csv", forecasting.parts.test, actual, forecast)

    from experiments.common import plots

    title = f"{forecasting.series.name}, {config.cell} {config.task}: MAE {digits(metrics['valid_mae'])}"
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
        "diverged": "it diverged",
        "interrupted": "Ctrl-C; --resume with this --out continues the run",
        "terminated": "SIGTERM, or the terminal was closed; --resume with this --out continues the run",
    }[run.stopped or "epochs"]


if __name__ == "__main__":
    end_at_once(main())
