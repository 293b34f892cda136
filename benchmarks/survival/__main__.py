"""Kill, interrupt, corrupt and starve training runs, and count what they survive.

    python -m benchmarks.survival                                    # the long form: about 20 minutes on two cores
    python -m benchmarks.survival --kills 6 --stops 3 --flips 20     # a short one: about 3 minutes

Runs of ``experiments.forecast`` (seq2vec, seq2seq and stateful; Adam, clipping, a schedule, averaged parameters)
save every third step and are hit at random instants, go on with ``--resume``, and at the end must equal, bit for
bit, a run that was left alone. Prints its counts, writes them to benchmarks/results/, and ends with 1 if anything
was lost. Words in capitals are failures; there should be none.
"""

import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.machine import cores, processor, version
from benchmarks.survival import damage, jobs

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class Options:
    """How often."""

    kills: int = 100
    """SIGKILLs at random instants, shared out among the three tasks."""

    stops: int = 20
    """SIGTERMs, and as many SIGINTs, shared out among the three tasks."""

    flips: int = 200
    """Bits flipped in the newest checkpoint, one at a time."""

    disks: bool = True
    """Fill up a disk, make it read-only, and delete the folder, each under a run."""

    seed: int = 0
    """Of the instants and the bits."""

    workers: int = os.cpu_count() or 1
    """Runs at the same time."""

    out: Path | None = None
    """The file for the counts (default: benchmarks/results/survival.json)."""


def main(arguments: list[str] | None = None) -> int:
    options = tyro.cli(Options, prog="python -m benchmarks.survival", args=arguments, description=__doc__)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="survival-") as folder:
        counts = count(Path(folder), options)
    report: dict[str, Any] = {
        "machine": {"processor": processor(), "cores": cores(), "python": platform.python_version()},
        "versions": {package: version(package) for package in ("jax", "flax", "optax", "orbax-checkpoint")},
        "seed": options.seed,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "counts": {name: dict(found) for name, found in counts.items()},
    }
    out = options.out or RESULTS / "survival.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, found in counts.items():
        print(f"{name}:")
        for what, number in found.items():
            print(f"  {number:6d}  {what}")
    print(f"{report['minutes']} minutes; counts are in {out}")
    return int(any(failed(found) for found in counts.values()))


def count(folder: Path, options: Options) -> dict[str, Counter]:
    """Everything, by what was done."""
    counts = {
        "damage": damage.damage(folder, options.flips, options.seed),
        "NaN in one batch of a stateful run": damage.not_a_number(epochs=5),
    }
    with ThreadPoolExecutor(options.workers) as pool:
        found = {
            f"{task}, hit": pool.submit(
                jobs.signals, folder, task, share(options.kills, i), share(options.stops, i), options.seed
            )
            for i, task in enumerate(jobs.TASKS)
        }
        if options.disks:
            found["disks"] = pool.submit(jobs.disks, folder / "disks", "stateful", 60)
        return counts | {name: outcome(future) for name, future in found.items()}


def outcome(future: "Future[Counter]") -> Counter:
    """What was counted, or why it broke off."""
    try:
        return future.result()
    except jobs.Unexpected as error:
        return Counter({f"BROKEN OFF: {error}": 1})


def share(number: int, task: int) -> int:
    """Of ``number``, what one of the tasks gets.

    >>> [share(100, task) for task in range(3)]
    [34, 33, 33]
    """
    return number // len(jobs.TASKS) + (task < number % len(jobs.TASKS))


def failed(counts: Counter) -> bool:
    """Whether anything that may not happen did."""
    return any(number and (name.split(":")[0].isupper() or "older" in name) for name, number in counts.items())


if __name__ == "__main__":
    sys.exit(main())
