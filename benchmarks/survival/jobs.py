"""Runs of experiments.forecast that are killed, interrupted, or lose their disk, and are then resumed.

A disturbed run is compared with an undisturbed one by the last checkpoints of both: the SHA-256 of every
leaf (parameters, optimiser, steps, key, carry, position, best parameters), and the history but for its seconds.
"""

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
SAVING = ("--save-every-steps", "3")
"""Steps between saves in runs that are to be disturbed: as often as the disk allows."""

HIDDEN = 64
"""Units of the trained layers: enough that work is shared between threads, as in real trainings."""

_CHECKPOINT = re.compile(r"step_[0-9]{8,}(\.[0-9]+)?")

PATIENCE = 300
"""Seconds until a run that shows no sign of life counts as hung."""


class Unexpected(RuntimeError):
    """A run behaved in a way that it must not."""


class Job:
    """One run of experiments.forecast in a folder, started, ended and resumed any number of times.

    Args:
      folder: its ``--out``.
      task: seq2vec, seq2seq or stateful.
      epochs: of the whole run.
      log: the file for what it prints; None: beside the folder.
      hidden: units of its layers.
    """

    def __init__(self, folder: Path, task: str, epochs: int, log: Path | None = None, *, hidden: int = HIDDEN):
        self.folder, self.checkpoints = folder, folder / "checkpoints"
        self.log = log or folder.with_suffix(".log")
        # The tuned recipe: Adam, gradient clipping, a schedule and averaged parameters, all that a state can hold.
        options = f"--recipe tuned --task {task} --hidden {hidden} --epochs {epochs} --patience 0 --devices 1"
        self.command = [sys.executable, "-m", "experiments.forecast", "--resume", *options.split()]
        self.command += ["--out", str(folder)]

    def start(self, *options: str) -> "subprocess.Popen[bytes]":
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "JAX_PLATFORMS": "cpu"}
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [*self.command, *options], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def finish(self, *options: str, expect: int = 0) -> str:
        """Run it to its end; returns what it printed."""
        return self.wait(self.start(*options), expect)

    def wait(self, process: "subprocess.Popen[bytes]", expect: int) -> str:
        code = None
        for _ in range(PATIENCE):  # second by second: if the machine is paused, its clock may run on
            try:
                code = process.wait(1)
                break
            except subprocess.TimeoutExpired:
                continue
        if code is None:
            process.kill()
            process.wait()
            raise Unexpected(f"no end after {PATIENCE} s:\n{self.printed()}")
        if code != expect:
            raise Unexpected(f"exit code {code} instead of {expect}:\n{self.printed()}")
        return self.printed()

    def printed(self) -> str:
        return " ".join(self.log.read_text().split())

    def saved(self) -> set[str]:
        """The names of the existing checkpoints."""
        found = os.listdir(self.checkpoints) if self.checkpoints.is_dir() else []
        return {name for name in found if _CHECKPOINT.fullmatch(name)}

    def wait_for_a_save(self, process: "subprocess.Popen[bytes]") -> bool:
        """Wait until it has saved once more; False if it ended before that."""
        before, looks = self.saved(), 0
        while process.poll() is None and not self.saved() - before:
            looks += 1
            if looks > PATIENCE / 0.002:
                process.kill()
                raise Unexpected(f"no checkpoint after {PATIENCE} s:\n{self.printed()}")
            time.sleep(0.002)
        return process.poll() is None

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
    hits = 0
    while hits < number:
        had_saved = bool(job.saved())
        process = job.start(*SAVING)
        if generator.random() < 0.8 or how != signal.SIGKILL:
            running = job.wait_for_a_save(process)
            time.sleep(generator.uniform(0, 0.4) if running else 0)
        else:
            time.sleep(generator.uniform(0, 8))
        if process.poll() is not None:
            raise Unexpected(f"the run ended before signal {hits + 1} of {number}: give it more epochs")
        process.send_signal(how)
        printed = job.wait(process, EXIT_CODES[how])
        hits += 1
        counts[how.name] += 1
        counts["restarts that fell back to an older checkpoint"] += "restored the older step" in printed
        if had_saved and "beginning with the first epoch" in printed:
            raise Unexpected(f"the run began anew although it had saved:\n{printed}")
        counts["hits in the middle of an epoch"] += "batches" in printed


def compare(job: Job, undisturbed: Job, counts: Counter) -> None:
    """Run it to its end, and compare."""
    printed = job.finish()
    counts["restarts that fell back to an older checkpoint"] += "restored the older step" in printed
    same = job.outcome() == undisturbed.outcome()
    counts["runs equal to the undisturbed one, bit for bit" if same else "RUNS THAT DIFFER"] += 1


def signals(folder: Path, task: str, kills: int, stops: int, seed: int, *, hidden: int = HIDDEN) -> Counter:
    """One task: a run that is killed, one that is stopped by SIGTERM and SIGINT, and an undisturbed one."""
    counts: Counter = Counter()
    generator = random.Random(f"{seed} {task}")
    # A stateful epoch has 12 steps, the others 15: enough epochs that no run ends before its last signal.
    epochs = 20 + 6 * max(kills, 2 * stops)
    undisturbed = Job(folder / f"{task}-undisturbed", task, epochs, hidden=hidden)
    undisturbed.finish()
    if kills:
        killed = Job(folder / f"{task}-killed", task, epochs, hidden=hidden)
        hit(killed, signal.SIGKILL, kills, generator, counts)
        compare(killed, undisturbed, counts)
    if stops:
        stopped = Job(folder / f"{task}-stopped", task, epochs, hidden=hidden)
        for how in (signal.SIGTERM, signal.SIGINT):
            hit(stopped, how, stops, generator, counts)
        compare(stopped, undisturbed, counts)
    return counts


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A tmpfs of that size; an OSError where mounting is not allowed."""
    disk = folder / "disk"
    disk.mkdir()
    if shutil.which("mount") is None:
        raise OSError("there is no mount command")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip())
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def disks(folder: Path, task: str, epochs: int, *, hidden: int = HIDDEN) -> Counter:
    """A disk that fills up under a run, becomes read-only under it, and a folder that is deleted under it."""
    counts: Counter = Counter()
    folder.mkdir(parents=True, exist_ok=True)
    undisturbed = Job(folder / "undisturbed", task, epochs, hidden=hidden)
    undisturbed.finish()
    try:
        with small_disk(folder, megabytes=8 + hidden**2 // 1000) as disk:
            for name, message, harm, repair, what in (
                ("full", "No space left on device", _fill, _empty, "full disks"),
                ("readonly", "Read-only file system", _make_read_only, _make_writable, "disks made read-only"),
            ):
                job = Job(disk / name, task, epochs, folder / f"{name}.log", hidden=hidden)
                process = job.start(*SAVING)
                job.wait_for_a_save(process)
                harm(disk)
                _expect(job.wait(process, 2), message)
                repair(disk)
                _expect(job.finish(), "going on after")
                same = job.outcome() == undisturbed.outcome()
                counts[f"{what} survived, and equal after resuming" if same else "RUNS THAT DIFFER"] += 1
    except OSError as error:
        counts[f"left out, since nothing can be mounted here: {error}"] += 1

    job = Job(folder / "deleted", task, epochs, hidden=hidden)
    process = job.start(*SAVING)
    job.wait_for_a_save(process)
    shutil.rmtree(job.checkpoints, ignore_errors=True)
    job.wait(process, 0)
    same = job.outcome() == undisturbed.outcome()
    counts["folders deleted under a run that went on and saved" if same else "RUNS THAT DIFFER"] += 1
    return counts


def _fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as filler:
        for size in (2**16, 1):  # until not even a byte has room
            with suppress(OSError):
                while True:
                    filler.write(bytes(size))


def _empty(disk: Path) -> None:
    (disk / "filler").unlink()


def _make_read_only(disk: Path) -> None:
    for _ in range(10_000):  # refused while a file is being written
        if not subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True).returncode:
            return
    raise Unexpected(f"{disk} could not be made read-only")


def _make_writable(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def _expect(printed: str, text: str) -> None:
    if text not in printed or "Traceback" in printed:
        raise Unexpected(f"no word of {text!r}, or a traceback:\n{printed}")
