"""Train recurrent networks to classify sequences or texts; compare them with methods that need no network.

    python -m experiments.classify --data speech       # who speaks? nine speakers, 12 channels, 7 to 29 steps
    python -m experiments.classify --data gesture      # ten gestures with a Wii remote, 29 to 361 steps
    python -m experiments.classify --data motion       # standing, walking, running, badminton; 100 steps
    python -m experiments.classify --data sentiment    # is a sentence from a movie review positive?

The data are files of installed packages: pip install -e '.[applications]'. (The texts of sentiment are only in a
source distribution. Without it, the command says how to get it.) Your own data:

    python -m experiments.classify --data letters.csv                  # columns text and label
    python -m experiments.classify --data mails.jsonl --label-column topic
    python -m experiments.classify --data Wafer_TRAIN.ts               # and Wafer_TEST.ts beside it
    python -m experiments.classify --data new.csv --run runs/letters   # classify with the networks of a run

A network reads a sequence in both directions, the outputs of all steps are pooled into one vector, and a dense
layer turns it into probabilities of the classes. --members networks are trained, each without another fold of the
training part: its epoch with the lowest loss there is the best one. Their mean probability decides. Nothing is
chosen on the test part.

Everything is written into one run folder: config.json, metrics.json, history.json, predictions.csv, confusion.png,
learning_curve.png and the checkpoints. Ctrl-C, SIGTERM and closing the terminal save the run and stop it (exit
codes 130 and 143); after Ctrl-C, the networks so far are evaluated. The same command with --resume continues it
and, on a CPU, ends with the same numbers, bit for bit, as an uninterrupted run.
"""

import signal

if __name__ == "__main__":
    # During the imports Ctrl-C ends the process without a traceback. main() installs a handler with a message.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import hashlib
from functools import partial
from pathlib import Path

from experiments.common import runs
from experiments.common.command import end_at_once, run_command
from experiments.common.compilation_cache import use_compilation_cache
from experiments.common.config import given, read_command_line
from experiments.common.labelled.datasets import Labelled, load
from experiments.common.labelled.evaluation import evaluate
from experiments.common.labelled.options import Settings, resolve
from experiments.common.labelled.pipeline import Classification
from experiments.common.labelled.recipes import Config
from experiments.common.labelled.trained import classify_with, member_folder, parsed
from experiments.common.report import epoch_progress, fail, say
from experiments.common.signals import CtrlC, answered
from jaxrnn.training import EXIT_CODES, CheckpointStore, Run, describe_divergence, fit

ctrl_c = CtrlC()


def main(arguments: list[str] | None = None) -> int:
    def run() -> int:
        settings = read_command_line(Settings, "classify", __doc__, arguments)
        with answered():
            return run_experiment(settings)

    return run_command(ctrl_c, run)


def run_experiment(settings: Settings) -> int:
    use_compilation_cache(settings.compilation_cache)
    if settings.run is not None:
        classify_with(settings.run, settings)
        return 0
    if settings.resume and settings.out is None:
        raise ValueError("--resume needs --out: give the folder of the run to continue")
    config, data = prepared(settings)
    folder = settings.out or runs.new_folder_named(f"{Path(config.data).stem}-{config.cell}-seed{config.seed}")
    record, preparation = runs.find_run(folder, resume=settings.resume), None
    if record is not None:
        config, preparation = parsed(folder, record)
        config = runs.check_unchanged(config, given(settings))
        check_data(folder, record, data)
    say(f"{data.name}: {len(data.train.labels)} examples to learn from, {len(data.test.labels)} to test")
    classification = Classification(config, data, preparation)
    for note in classification.notes():
        say(note)
    write = partial(runs.write_record, folder, vars(config), classification.preparation.to_json(), described(data))
    runs.make_folder(folder)
    write(new=record is None)
    ctrl_c.message = f"interrupted; what is saved of the run is in {folder}, and --resume continues it"
    found, code = train(classification, folder, settings, partial(write, new=False))
    found = [run for run in found if run.stopping.best_epoch]  # the last one may have been stopped too early
    if code == EXIT_CODES["terminated"] or not found:  # after SIGTERM there is no time to draw
        if code in EXIT_CODES.values():
            what = "stopped by a signal" if found else "stopped before a network had finished an epoch"
            say(f"{what}: --resume continues the run in {folder}")
        return code
    evaluate(classification, found, folder)
    say(f"everything is in {folder}")
    return code


def prepared(settings: Settings) -> tuple[Config, Labelled]:
    """The configuration and the data of the command line."""
    if settings.data is None:
        raise ValueError("--data is missing: speech, gesture, motion, sentiment, or the path of a file")
    data = load(
        settings.data,
        test=settings.test,
        text_column=settings.text_column or "text",
        label_column=settings.label_column or "label",
    )
    return resolve(settings, is_text=data.is_text), data


def train(
    classification: Classification, folder: Path, settings: Settings, write: partial[None]
) -> tuple[list[Run], int]:
    """Train one network after the other. Returns their runs and the exit code."""
    config, found = classification.config, []
    guard = None
    try:
        for member in range(config.members):
            run, epoch, evaluate_member = classification.start(member)
            with CheckpointStore(member_folder(folder, member)) as store:
                store.claim()
                guard = guard or runs.FolderGuard(folder, write)
                run = run.resumed(store)
                if run.stopped in ("interrupted", "terminated") and settings.resume:
                    say(f"network {member + 1}: going on after epoch {run.epochs_run}")
                name = dict(metric="valid_accuracy", name="validation accuracy")
                before = f"network {member + 1}/{config.members}: "
                with epoch_progress(config.epochs, run.epochs_run, before=before, **name) as show:

                    def on_epoch(run: Run, show=show, guard=guard) -> None:
                        show(run)
                        guard.check()

                    run = fit(
                        run,
                        epoch,
                        evaluate_member,
                        epochs=config.epochs,
                        on_epoch=on_epoch,
                        checkpoints=store,
                        save_every=settings.save_every,
                        save_every_steps=settings.save_every_steps,
                    )
                guard.check()
            found.append(run)
            if run.stopped == "diverged":
                fail(f"network {member + 1}: {describe_divergence(run)}")
                return found, 1
            if run.save_error is not None:
                return found, fail(run.save_error)
            if run.stopped in EXIT_CODES:
                return found, EXIT_CODES[run.stopped]
    finally:
        if guard is not None:
            guard.close()
    return found, 0


def described(data: Labelled) -> dict[str, object]:
    """What identifies a data set, for config.json."""
    contents = hashlib.sha256()
    for part in (data.train, data.test):
        contents.update(part.labels.astype("<i8").tobytes())
        for one in part.inputs:
            contents.update(one.encode() if isinstance(one, str) else one.astype("<f4").tobytes())
    return {
        "is_text": data.is_text,
        "classes": list(data.classes),
        "examples": [len(data.train.labels), len(data.test.labels)],
        "contents": contents.hexdigest(),
    }


def check_data(folder: Path, record: dict, data: Labelled) -> None:
    if record["series"] != described(data):
        raise ValueError(
            f"{data.name} has changed since the run in {folder} began. Continue with the old data, or choose "
            f"another --out"
        )


if __name__ == "__main__":
    end_at_once(main())
