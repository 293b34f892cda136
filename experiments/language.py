"""Train a character language model on a text, compare it with n-grams, and let it write.

    pip install -e '.[applications]'
    python -m experiments.language --text kjv

reads the King James Bible three times with two LSTM layers of 256 units. That took 40 minutes on two cores which
other programs used too; with ``--passes 1`` it is a third of it. The carry of the layers goes on from window to
window of the text, and gradients flow back through each window: truncated backpropagation through time. Other
things to try:

    python -m experiments.language --text my.txt                      # your own, in UTF-8
    python -m experiments.language --text kjv --passes 1 --hidden 128
    python -m experiments.language --text kjv --cell gru
    python -m experiments.generate RUN --prompt "In the " --temperature 0.8

The last 5 % of the text are the test part, the 2 % before them choose the best model, and everything before is for
training. Everything is written into one run folder: config.json, metrics.json (``bits_per_character`` of the test
part, and those of n-grams with Kneser-Ney smoothing, counted on the training part), history.json, sample.txt,
learning_curve.png and the checkpoints. Characters that the training part does not have count as one unknown
character. Ctrl-C, SIGTERM and closing the terminal save the run and stop it (exit codes 130 and 143). After Ctrl-C
the best model so far is tested, and writes. The same command with --resume continues the run and, on a CPU, ends
with the same numbers, bit for bit, as an uninterrupted run.
"""

import signal

if __name__ == "__main__":
    # During the imports Ctrl-C ends the process without a traceback. main() installs a handler with a message.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.table import Table

from experiments.common import runs
from experiments.common.command import end_at_once, run_command
from experiments.common.compilation_cache import use_compilation_cache
from experiments.common.config import read_command_line
from experiments.common.language import Modelling, write_text
from experiments.common.language_config import LanguageConfig, Settings, check_resumable, resolve
from experiments.common.ngram import KneserNey
from experiments.common.report import console, epoch_progress, fail, say
from experiments.common.signals import CtrlC, answered
from experiments.common.text import Text, load_text
from jaxrnn.training import EXIT_CODES, CheckpointStore, Run, describe_divergence, fit

ctrl_c = CtrlC()
ORDERS = (5, 7)
"""The n-grams to compare with."""
SAMPLE = 1000
"""Characters of the sample."""


def main(arguments: list[str] | None = None) -> int:
    def run() -> int:
        settings = read_command_line(Settings, "language", __doc__, arguments)
        with answered():
            return run_experiment(settings)

    return run_command(ctrl_c, run)


def run_experiment(settings: Settings) -> int:
    config = resolve(settings)
    if settings.resume and settings.out is None:
        raise ValueError("--resume needs --out: give the folder of the run to continue")
    use_compilation_cache(settings.compilation_cache)
    folder = settings.out or runs.new_folder_named(f"{Path(config.text).stem}-{config.cell}-seed{config.seed}")
    record = runs.find_run(folder, resume=settings.resume)
    if record is not None:
        runs.check_experiment(folder, record, "experiments.language")
        config = check_resumable(record, settings, config)
    text = load_text(config.text)
    if record is not None and record["series"] != describe_text(text):
        raise ValueError(
            f"the text {config.text} has changed since the run in {folder} began. Continue with the old text, or "
            f"choose another --out"
        )
    if text.unknown:
        say(f"note: the training part does not have {', '.join(map(repr, text.unknown))}: one unknown character")
    modelling = Modelling(config, text)
    state, train_epoch = modelling.start()
    run = Run.create(state)

    def write_config(*, new: bool = False) -> None:
        characters = {"characters": text.characters}
        runs.write_record(folder, vars(config), characters, describe_text(text), new=new)

    with CheckpointStore(folder / runs.CHECKPOINTS) as store:
        runs.make_folder(folder)
        if record is None:
            write_config(new=True)
        store.claim()
        write_config()
        if record is not None:
            run = restore(run, store)
        ctrl_c.message = f"interrupted; what is saved of the run is in {folder}, and --resume continues it"
        guard = runs.FolderGuard(folder, write_config)
        train(modelling, run, train_epoch, store, settings, guard)
        guard.check()
        guard.close()
    say(f"stopped: {_reason(run, config)}")
    code = {"diverged": 1, **EXIT_CODES}.get(run.stopped or "", 0)
    if run.stopped == "diverged":
        fail(describe_divergence(run))
    if run.save_error is not None:  # the trained model can still be tested below
        code = fail(run.save_error)
    if run.stopped == "terminated":  # there is no time for more
        return code
    finish(modelling, run, folder)
    say(f"everything is in {folder}")
    return code


def describe_text(text: Text) -> dict[str, Any]:
    return {"length": len(text.tokens), "sha256": text.sha256}


def restore(run: Run, store: CheckpointStore) -> Run:
    """Restore the newest undamaged checkpoint; without a checkpoint, return the run unchanged."""
    resumed = run.resumed(store)
    if resumed is run:
        say("there is no checkpoint yet: starting at the beginning")
    else:
        say(f"going on after update {int(resumed.state.step)}")
    return resumed


def train(
    modelling: Modelling,
    run: Run,
    train_epoch: Any,
    store: CheckpointStore,
    settings: Settings,
    guard: runs.FolderGuard,
) -> None:
    characters = train_epoch.steps * modelling.config.batch_size * modelling.config.window
    say(f"{modelling.updates} updates of {modelling.config.batch_size} x {modelling.config.window} characters")
    with epoch_progress(
        modelling.epochs, done=run.epochs_run, metric="valid_bits", name="validation bits"
    ) as show:

        def on_epoch(run: Run) -> None:
            row = run.history[-1]
            row["valid_bits"] = row["valid_loss"] / math.log(2)
            row["characters_per_second"] = characters / row["seconds"]
            show(run)
            guard.check()

        fit(
            run,
            train_epoch,
            modelling.evaluate,
            epochs=modelling.epochs,
            on_epoch=on_epoch,
            checkpoints=store,
            save_every=settings.save_every,
            save_every_steps=settings.save_every_steps,
        )


def finish(modelling: Modelling, run: Run, folder: Path) -> None:
    """Test the best model, compare it with n-grams, let it write, and write everything into the folder."""
    text, config = modelling.text, modelling.config
    ours = modelling.bits(run.best_params, text.test, len(text.tokens))
    compared = baselines(text)
    model = run.best_model(modelling.make_model)
    began = time.perf_counter()
    prompt = text.tokens[text.test - 20 : text.test]
    sample = write_text(model, text.characters, [prompt], SAMPLE, temperature=0.8, seed=config.seed)[0]
    seconds = [row["seconds"] for row in run.history]
    metrics = {
        **vars(config),
        "bits_per_character": ours,
        "baselines": compared,
        "valid_bits_per_character": run.best_row.get("valid_bits"),
        "test_characters": len(text.tokens) - text.test,
        "unknown_characters": int((text.tokens[text.test :] == len(text.characters)).sum()),
        "best_epoch": run.stopping.best_epoch,
        "epochs_run": run.epochs_run,
        "updates": int(run.state.step),
        "skipped_steps": sum(row["skipped"] for row in run.history),
        "stopped": run.stopped,
        "seconds": float(np.sum(seconds)),
        "sample_seconds": time.perf_counter() - began,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }
    console.print(results_table(modelling, compared, ours))
    if not run.stopping.best_epoch:
        say("no validation was finite or reached: this is the untrained model")
    say(f"the model goes on from the test part's beginning, at a temperature of 0.8:\n{sample[:300]}")
    runs.write_json(folder / "metrics.json", metrics)
    runs.write_json(folder / "history.json", run.history)
    (folder / "sample.txt").write_text(sample + "\n", encoding="utf-8")
    finite = [row for row in run.history if math.isfinite(row["loss"] + row["valid_loss"])]
    if run.stopping.best_epoch:
        from experiments.common import plots

        plots.plot_learning_curve(
            folder / "learning_curve.png",
            finite,
            run.stopping.best_epoch,
            f"{text.name}, {config.cell}: {ours:.3f} bits per character of the test part",
            loss="cross-entropy, nats per character",
            epoch=f"validation, {config.validations} in a pass",
        )


def baselines(text: Text) -> dict[str, float]:
    """Bits per character of the test part under n-gram models of the training part."""
    orders = [order for order in ORDERS if order * math.log2(text.vocabulary_size) < 63 and order < text.train]
    return {
        f"kneser_ney_{order}": KneserNey(text.tokens[: text.train], text.vocabulary_size, order).bits(
            text.tokens, text.test
        )
        for order in orders
    }


def results_table(modelling: Modelling, compared: dict[str, float], ours: float) -> Table:
    text, config = modelling.text, modelling.config
    table = Table(title=f"{text.name}: the last {len(text.tokens) - text.test} characters")
    table.add_column("model")
    table.add_column("bits per character", justify="right")
    for name, bits in compared.items():
        table.add_row(f"{name.removeprefix('kneser_ney_')}-grams, Kneser-Ney", f"{bits:.4f}")
    table.add_row(f"{config.cell} {' '.join(map(str, config.hidden))}", f"{ours:.4f}", style="bold")
    return table


def _reason(run: Run, config: LanguageConfig) -> str:
    return {
        "epochs": f"the text has been read {config.passes} time{'s' * (config.passes > 1)}",
        "diverged": "it diverged",
        "interrupted": "Ctrl-C; --resume with this --out continues the run",
        "terminated": "SIGTERM, or the terminal was closed; --resume with this --out continues the run",
    }[run.stopped or "epochs"]


if __name__ == "__main__":
    end_at_once(main())
