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
learning_curve.png and the checkpoints. Ctrl-C and SIGTERM save and stop (exit codes 130 and 143); the same command
with --resume goes on, to the same numbers, bit for bit on a CPU, as if nothing had happened.
"""

import signal
import time

_BEGAN = time.perf_counter()
if __name__ == "__main__":
    # While modules are being imported, Ctrl-C just ends the process; main() says something too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import math  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402

from experiments.common import runs  # noqa: E402
from experiments.common.compilation_cache import use_compilation_cache  # noqa: E402
from experiments.common.config import Settings, read_settings, resolve  # noqa: E402
from experiments.common.devices import batch_mesh, claim_devices  # noqa: E402
from experiments.common.distributed import join_processes, leave, lost_peer, require_same_everywhere  # noqa: E402
from experiments.common.pipeline import Forecasting, load  # noqa: E402
from experiments.common.recipes import Config  # noqa: E402
from experiments.common.report import baselines, console, epoch_progress, fail, plain_warnings, results_table  # noqa: E402
from jaxrnn.training import EXIT_CODES, CheckpointStore, Run, describe_divergence, fit  # noqa: E402
from jaxrnn.training.distributed import processes  # noqa: E402

INTERRUPTED = EXIT_CODES["interrupted"]
LOST_PEER = 75
"""Exit code where another process of the job is gone: EX_TEMPFAIL of sysexits.h, try again."""


class CtrlC:
    """What Ctrl-C does to this program outside of training: it ends, at once and whatever it is doing.

    As an exception it would get lost now and then, where it strikes within one of JAX's callbacks from the
    garbage collector: Python prints such an exception, ignores it and goes on.
    """

    message: str

    def __call__(self, *_: Any) -> None:
        os.write(2, f"error: {self.message}\n".encode())
        os._exit(INTERRUPTED)


ctrl_c = CtrlC()


def main(arguments: list[str] | None = None) -> int:
    ctrl_c.message = "interrupted before there was anything to save"
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, ctrl_c)
    settings = read_settings(__doc__, arguments)
    plain_warnings()
    try:
        if settings.distributed:
            return run_with_others(settings)
        return run_experiment(settings)
    except (ValueError, OSError) as error:
        return fail(str(error))
    except KeyboardInterrupt:
        fail(ctrl_c.message)
        return INTERRUPTED


def run_with_others(settings: Settings) -> int:
    """One process of several. What ends one of them ends all, so that a scheduler can start them anew."""
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
            f"this one ends too. Start all of them again with --resume: they go on from the last checkpoint. "
            f"({str(error).splitlines()[0]})"
        )
        return LOST_PEER
    leave()
    return code


def run_experiment(settings: Settings) -> int:
    config, preparation = resolve(settings), None
    if settings.resume and settings.out is None:
        raise ValueError("--resume needs --out, the folder of the run to go on with")
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

    series = load(config)
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
        ctrl_c.message = f"interrupted; what has been saved is in {folder}, and --resume goes on from there"
        train(forecasting, run, train_epoch, store, settings)
    console.print(f"stopped: {_reason(run, config)}", soft_wrap=True)
    if run.stopped == "diverged" and main:
        fail(describe_divergence(run))
    code = {"diverged": 1, **EXIT_CODES}.get(run.stopped or "", 0)
    if run.save_error is not None:  # what was learned is still worth a look
        code = fail(run.save_error) if main else 2
    if run.stopped == "terminated" or not main:  # whoever sends SIGTERM will not wait for pictures
        return code
    metrics = finish(forecasting, run, folder)
    epoch = run.stopping.best_epoch
    which = f"best model of epoch {epoch}" if epoch else "no epoch was finite: this is the untrained model"
    console.print(f"{which}; its MAE over the last {len(forecasting.actual)} values is {metrics['valid_mae']!r}")
    naive = metrics["baselines"]["naive"]
    if not metrics["valid_mae"] < naive:
        console.print(
            f"that is worse than the last value repeated ({naive:.3f}): more --epochs may help, or another "
            "--learning-rate, for which python -m experiments.lr_range looks",
            soft_wrap=True,
        )
    console.print(f"everything is in {folder}", soft_wrap=True)
    return code


def claim(folder: Path, store: CheckpointStore, forecasting: Forecasting, *, new: bool) -> None:
    """Make the folder this run's own; an error if another one has it or is training in it."""
    write = partial(runs.write_config, folder, forecasting.config, forecasting.preparation, forecasting.series)
    runs.make_folder(folder)
    if new:
        write(new=True)
    store.claim()
    if not new:
        write(new=False)


def restore(run: Run, store: CheckpointStore) -> Run:
    """The run as its newest undamaged checkpoint has it, in every process; as it is where there is none yet."""
    arrays: list[Any] = [run.arrays]

    def read() -> dict[str, Any] | None:
        if not store.steps():
            return None
        restored = store.restore(run.arrays)
        arrays[0] = restored.arrays
        return restored.record

    record = processes.on_main(read)
    if record is None:
        console.print("there is no checkpoint yet: beginning with the first epoch")
        return run
    run = run.restored(processes.share_arrays(arrays[0]), record)
    batch = int(run.state.position)
    console.print(f"going on after epoch {run.epochs_run}" + (f" and {batch} batches" if batch else ""))
    return run


def train(
    forecasting: Forecasting, run: Run, train_epoch: Any, store: CheckpointStore, settings: Settings
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
        "skipped_steps": sum(row["skipped"] for row in run.history),
        "stopped": run.stopped,
        "seconds_per_epoch": float(np.median(seconds)) if seconds else None,
        "seconds_to_first_epoch": first[-1] if first else None,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "devices": 1 if forecasting.mesh is None else forecasting.mesh.size,
    }
    console.print(results_table(forecasting, maes, metrics["valid_mae"]))  # first: a full disk cannot take it away
    runs.write_json(folder / "metrics.json", metrics)
    runs.write_json(folder / "history.json", run.history)
    runs.write_forecast(folder / "forecast.csv", forecasting.parts.test, actual, forecast)

    from experiments.common import plots

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
        "diverged": "it diverged",
        "interrupted": "Ctrl-C; --resume with this --out goes on",
        "terminated": "SIGTERM; --resume with this --out goes on",
    }[run.stopped or "epochs"]


if __name__ == "__main__":
    code = main()
    # At once: a program that is still being compiled cannot be taken down in order, and of a save that failed
    # Orbax leaves threads behind that Python would wait for, for ten minutes.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
