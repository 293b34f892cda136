"""Kill and interrupt training runs, damage their files, fill their disks, and count what they survive.

    python -m benchmarks.survival                                    # the long form: about 20 minutes on two cores
    python -m benchmarks.survival --kills 6 --stops 3 --flips 20     # a short one: about 3 minutes
    python -m benchmarks.survival --hidden 128                       # larger layers, of 32 to 128 units

Runs of ``experiments.forecast`` (seq2vec, seq2seq and stateful; Adam, clipping, a schedule, averaged parameters)
save every third step, get signals at random instants, are resumed with ``--resume``, and at the end must equal an
undisturbed run bit for bit. The command prints its counts, writes them to benchmarks/results/, and ends with 1 if
anything was lost. Counts in capitals are failures; there should be none.
"""

import os
import tempfile
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.command import RecordOptions, command
from benchmarks.survival import damage, jobs


@dataclass(frozen=True)
class SurvivalOptions(RecordOptions):
    """What to do to the runs, and how often."""

    kills: int = 100
    """SIGKILLs at random instants, divided among the three tasks."""

    stops: int = 20
    """SIGTERMs, and as many SIGINTs, divided among the three tasks."""

    flips: int = 200
    """Bits flipped in the newest checkpoint, one at a time."""

    disks: bool = True
    """Fill up a disk, make it read-only, and delete the folder, each under a run."""

    hidden: int = 64
    """Units of the layers that the disturbed runs train; 64 share work between threads, as real trainings do."""

    seed: int = 0
    """Of the instants and the bits."""

    workers: int = os.cpu_count() or 1
    """Runs at the same time."""


def run(options: SurvivalOptions) -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="survival-") as folder:
        counts = count(Path(folder), options)
    minutes = round((time.monotonic() - began) / 60, 1)
    found = {"seed": options.seed, "hidden": options.hidden, "minutes": minutes, "counts": counts}
    options.write("survival", ("jax", "flax", "optax", "orbax-checkpoint"), found)
    return int(any(failed(found) for found in counts.values()))


def count(folder: Path, options: SurvivalOptions) -> dict[str, Counter]:
    """All counts, by what was done."""
    counts = {
        "damage": damage.damage(folder, options.flips, options.seed),
        "NaN in one batch of a stateful run": damage.not_a_number(epochs=5),
    }
    found: dict[str, Future[Counter]] = {}
    with ThreadPoolExecutor(options.workers) as pool:
        for i, task in enumerate(jobs.TASKS):
            # The task's part of the signals: of 100, the three get 34, 33 and 33.
            kills, stops = (len(range(i, number, len(jobs.TASKS))) for number in (options.kills, options.stops))
            arguments = folder, task, kills, stops, options.seed
            found[f"{task}, hit"] = pool.submit(jobs.signals, *arguments, hidden=options.hidden)
        if options.disks:
            found["disks"] = pool.submit(jobs.disks, folder / "disks", "stateful", 60, hidden=options.hidden)
    for name, future in found.items():
        try:
            counts[name] = future.result()
        except jobs.Unexpected as error:
            counts[name] = Counter({f"BROKEN OFF: {error}": 1})
    return counts


def failed(counts: Counter) -> bool:
    """Whether anything happened that must not."""
    return any(number and (name.split(":")[0].isupper() or "older" in name) for name, number in counts.items())


main = command(SurvivalOptions, run, "survival", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
