"""Kill and interrupt training runs, damage their files, fill their disks, and count what they survive.

    python -m benchmarks.survival                                    # the long form: about 20 minutes on two cores
    python -m benchmarks.survival --kills 6 --stops 3 --flips 20     # a short one: about 3 minutes
    python -m benchmarks.survival --hidden 128                       # larger layers; sizes from 32 to 128 are
    useful

Runs of ``experiments.forecast`` (seq2vec, seq2seq and stateful; Adam, clipping, a schedule, averaged parameters)
save every third step, get signals at random instants, are resumed with ``--resume``, and at the end must equal an
undisturbed run bit for bit. The command prints its counts, writes them to benchmarks/results/, and ends with 1 if
anything was lost. Counts in capitals are failures; there should be none.
"""

import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.common.report import write_record
from benchmarks.survival import damage, jobs


@dataclass(frozen=True)
class Options:
    """What to do to the runs, and how often."""

    kills: int = 100
    """SIGKILLs at random instants, divided among the three tasks."""

    stops: int = 20
    """SIGTERMs, and as many SIGINTs, divided among the three tasks."""

    flips: int = 200
    """Bits flipped in the newest checkpoint, one at a time."""

    disks: bool = True
    """Fill up a disk, make it read-only, and delete the folder, each under a run."""

    hidden: int = jobs.HIDDEN
    """Units of the layers that the disturbed runs train."""

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
        "seed": options.seed,
        "hidden": options.hidden,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "counts": {name: dict(found) for name, found in counts.items()},
    }
    out = write_record(options.out, "survival", ("jax", "flax", "optax", "orbax-checkpoint"), report)
    for name, found in counts.items():
        print(f"{name}:")
        for what, number in found.items():
            print(f"  {number:6d}  {what}")
    print(f"{report['minutes']} minutes; counts are in {out}")
    return int(any(failed(found) for found in counts.values()))


def count(folder: Path, options: Options) -> dict[str, Counter]:
    """All counts, by what was done."""
    counts = {
        "damage": damage.damage(folder, options.flips, options.seed),
        "NaN in one batch of a stateful run": damage.not_a_number(epochs=5),
    }
    with ThreadPoolExecutor(options.workers) as pool:
        found = {
            f"{task}, hit": pool.submit(
                jobs.signals,
                folder,
                task,
                share(options.kills, i),
                share(options.stops, i),
                options.seed,
                hidden=options.hidden,
            )
            for i, task in enumerate(jobs.TASKS)
        }
        if options.disks:
            found["disks"] = pool.submit(jobs.disks, folder / "disks", "stateful", 60, hidden=options.hidden)
        return counts | {name: outcome(future) for name, future in found.items()}


def outcome(future: "Future[Counter]") -> Counter:
    """What was counted, or why it was stopped."""
    try:
        return future.result()
    except jobs.Unexpected as error:
        return Counter({f"BROKEN OFF: {error}": 1})


def share(number: int, task: int) -> int:
    """The part of ``number`` that one of the tasks gets.

    >>> [share(100, task) for task in range(3)]
    [34, 33, 33]
    """
    return number // len(jobs.TASKS) + (task < number % len(jobs.TASKS))


def failed(counts: Counter) -> bool:
    """Whether anything happened that must not."""
    return any(number and (name.split(":")[0].isupper() or "older" in name) for name, number in counts.items())


if __name__ == "__main__":
    sys.exit(main())
