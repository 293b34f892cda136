"""Runs of experiments.forecast that are killed, interrupted, or lose their disk, and are then resumed.

A disturbed run is compared with an undisturbed one by the last checkpoints of both: the SHA-256 of every
leaf (parameters, optimiser, steps, key, carry, position, best parameters), and the history but for its seconds.
"""

import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TASKS = ("seq2vec", "seq2seq", "stateful")
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}

CHECKPOINT = re.compile(r"step_[0-9]{8,}(\.[0-9]+)?")
FELL_BACK = "restarts that fell back to an older checkpoint"

PATIENCE = 300
"""Seconds until a run that shows no sign of life counts as hung."""


class Unexpected(RuntimeError):
    """A run behaved in a way that it must not."""


class Job:
    """One run of experiments.forecast in a folder, started, ended and resumed any number of times.

    Args:
      folder, task, epochs, hidden: its ``--out``, ``--task``, ``--epochs`` and ``--hidden``.
      log: the file for what it prints; None: beside the folder.
    """

    def __init__(self, folder: Path, task: str, epochs: int, hidden: int, log: Path | None = None):
        self.folder, self.checkpoints = folder, folder / "checkpoints"
        self.log = log or folder.with_suffix(".log")
        # The tuned recipe: Adam, gradient clipping, a schedule and averaged parameters, all that a state can hold.
        options = f"--recipe tuned --task {task} --hidden {hidden} --epochs {epochs} --patience 0 --devices 1"
        self.command = [sys.executable, "-m", "experiments.forecast", "--resume", *options.split()]
        self.command += ["--out", str(folder)]

    def start(self, *options: str) -> "subprocess.Popen[bytes]":
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "JAX_PLATFORMS": "cpu"}
        with self.log.open("wb") as log:
            return subprocess.Popen([*self.command, *options], cwd=ROOT, stdout=log, stderr=log, env=environment)

    def start_saving(self) -> "subprocess.Popen[bytes]":
        """Start it to be disturbed: it saves as often as the disk allows."""
        return self.start("--save-every-steps", "3")

    def finish(self, says: str = "") -> str:
        """Run it to its end; returns what it printed."""
        return self.wait(self.start(), 0, says)

    def wait(self, process: "subprocess.Popen[bytes]", expect: int, says: str = "") -> str:
        """Returns what it printed; it must end with this exit code, and say this without a traceback."""
        for _ in range(PATIENCE):  # second by second: if the machine is paused, its clock may run on
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(1)
                break
        else:
            process.kill()
            process.wait()
            raise Unexpected(f"no end after {PATIENCE} s:\n{self.printed()}")
        printed = self.printed()
        if code != expect:
            raise Unexpected(f"exit code {code} instead of {expect}:\n{printed}")
        if says and (says not in printed or "Traceback" in printed):
            raise Unexpected(f"no word of {says!r}, or a traceback:\n{printed}")
        return printed

    def printed(self) -> str:
        return " ".join(self.log.read_text().split())

    def saved(self) -> set[str]:
        """The names of the existing checkpoints."""
        found = os.listdir(self.checkpoints) if self.checkpoints.is_dir() else []
        return {name for name in found if CHECKPOINT.fullmatch(name)}

    def wait_for_a_save(self, process: "subprocess.Popen[bytes]") -> bool:
        """Wait until it has saved once more; False if it ended before that."""
        before = self.saved()
        for _ in range(int(PATIENCE / 0.002)):
            if process.poll() is not None or self.saved() - before:
                return process.poll() is None
            time.sleep(0.002)
        process.kill()
        raise Unexpected(f"no checkpoint after {PATIENCE} s:\n{self.printed()}")

    def outcome(self) -> dict[str, Any]:
        """The results, which must not depend on what happened during the run."""
        newest = max(self.saved(), key=lambda name: [int(number) for number in re.findall("[0-9]+", name)])
        content = json.loads((self.checkpoints / newest / "record.json").read_text())["content"]
        record = content["record"]
        history = [{k: v for k, v in row.items() if "seconds" not in k} for row in record["history"]]
        leaves = {path: leaf["sha256"] for path, leaf in content["leaves"].items()}
        return {"leaves": leaves, "history": history, "best": record["best"], "best_epoch": record["best_epoch"]}


def hit(job: Job, how: signal.Signals, number: int, generator: random.Random, counts: Counter) -> None:
    """Start it and send the signal at a random instant, ``number`` times over; counts what happened.

    Four of five times the instant lies where it saves all the time, else anywhere from its start on.
    """
    for done in range(number):
        had_saved = bool(job.saved())
        process = job.start_saving()
        if generator.random() < 0.8 or how != signal.SIGKILL:
            if job.wait_for_a_save(process):
                time.sleep(generator.uniform(0, 0.4))
        else:
            time.sleep(generator.uniform(0, 8))
        if process.poll() is not None:
            raise Unexpected(f"the run ended before signal {done + 1} of {number}: give it more epochs")
        process.send_signal(how)
        printed = job.wait(process, EXIT_CODES[how])
        counts[f"ended by {how.name}"] += 1
        counts[FELL_BACK] += "restored the older step" in printed
        if had_saved and "beginning with the first epoch" in printed:
            raise Unexpected(f"the run began anew although it had saved:\n{printed}")
        counts["hits in the middle of an epoch"] += "batches" in printed


def compare(job: Job, undisturbed: Job, counts: Counter, what: str) -> None:
    """Count it as ``what`` if its outcome is that of the undisturbed run."""
    counts[what if job.outcome() == undisturbed.outcome() else "RUNS THAT DIFFER"] += 1


def signals(folder: Path, task: str, kills: int, stops: int, seed: int, *, hidden: int) -> Counter:
    """One task: a run that is killed, one that is stopped by SIGTERM and SIGINT, and an undisturbed one."""
    counts: Counter = Counter()
    generator = random.Random(f"{seed} {task}")
    # A stateful epoch has 12 steps, the others 15: enough epochs that no run ends before its last signal.
    make = functools.partial(Job, task=task, epochs=20 + 6 * max(kills, 2 * stops), hidden=hidden)
    undisturbed = make(folder / f"{task}-undisturbed")
    undisturbed.finish()
    kinds = {"killed": ([signal.SIGKILL], kills), "stopped": ([signal.SIGTERM, signal.SIGINT], stops)}
    for name, (kind, number) in kinds.items():
        if number:
            job = make(folder / f"{task}-{name}")
            for how in kind:
                hit(job, how, number, generator, counts)
            counts[FELL_BACK] += "restored the older step" in job.finish()
            compare(job, undisturbed, counts, "runs equal to the undisturbed one, bit for bit")
    return counts


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A tmpfs of that size; an OSError where mounting is not allowed."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)]
    if (done := subprocess.run(mount, capture_output=True, text=True)).returncode:
        raise OSError(done.stderr.strip())
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def disks(folder: Path, task: str, epochs: int, *, hidden: int) -> Counter:
    """A disk that fills up under a run, becomes read-only under it, and a folder that is deleted under it."""
    counts: Counter = Counter()
    folder.mkdir(parents=True, exist_ok=True)
    make = functools.partial(Job, task=task, epochs=epochs, hidden=hidden)
    undisturbed = make(folder / "undisturbed")
    undisturbed.finish()
    try:
        with small_disk(folder, megabytes=8 + hidden**2 // 1000) as disk:
            for harmed, message, what in (
                (full, "No space left on device", "full disks"),
                (read_only, "Read-only file system", "disks made read-only"),
            ):
                job = make(disk / harmed.__name__, log=folder / f"{harmed.__name__}.log")
                process = job.start_saving()
                job.wait_for_a_save(process)
                with harmed(disk):
                    job.wait(process, 2, message)
                job.finish("going on after")
                compare(job, undisturbed, counts, f"{what} survived, and equal after resuming")
    except OSError as error:
        counts[f"left out, since nothing can be mounted here: {error}"] += 1

    job = make(folder / "deleted")
    process = job.start_saving()
    job.wait_for_a_save(process)
    shutil.rmtree(job.checkpoints, ignore_errors=True)
    job.wait(process, 0)
    compare(job, undisturbed, counts, "folders deleted under a run that went on and saved")
    return counts


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Fill a disk until not even a byte has room, and make room again."""
    with (disk / "filler").open("wb", buffering=0) as filler:
        for size in (2**16, 1):
            with suppress(OSError):
                while True:
                    filler.write(bytes(size))
    yield
    (disk / "filler").unlink()


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Make a disk read-only, and writable again."""
    for _ in range(10_000):  # refused while a file is being written
        if not subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True).returncode:
            break
    else:
        raise Unexpected(f"{disk} could not be made read-only")
    yield
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
