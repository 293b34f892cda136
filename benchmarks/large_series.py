"""Train on a series larger than the memory allowed: a 4 GiB file, 1 GiB of memory.

    python -m benchmarks.large_series                   # some minutes
    python -m benchmarks.large_series --steps 300

Makes a sparse ``.npy`` file of a billion float32 steps, trains on random windows of all of it in a process of
its own (``make_streamed_epoch``), and watches that process's resident memory, the file's mapped pages included. It
must stay below the limit, and must not grow: its highest in the second half of the run against that in the first.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.common.report import write_record

ROOT = Path(__file__).parents[1]
ALLOWED = 1024
"""MiB."""


@dataclass(frozen=True)
class Options:
    """How large, and how long."""

    gibibytes: int = 4
    """Of the file."""

    steps: int = 5000
    """Batches of 128 windows of 30 steps."""

    out: Path | None = None
    """The file for the result (default: benchmarks/results/large-series.json)."""


def main(arguments: list[str] | None = None) -> int:
    options = tyro.cli(Options, prog="python -m benchmarks.large_series", args=arguments, description=__doc__)
    found = in_a_process(options.gibibytes, options.steps)
    write_record(options.out, "large-series", ("jax", "flax", "numpy"), found)
    print(json.dumps(found, indent=2))
    return int(found["peak_rss_mib"] >= ALLOWED)


def in_a_process(gibibytes: int, steps: int) -> dict[str, Any]:
    """Make the file, train in a new process, and return what it measured of itself."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "series.npy"
        series = np.lib.format.open_memmap(path, "w+", np.float32, (gibibytes * 2**28,))
        noise = np.random.default_rng(0)
        for first in noise.integers(0, len(series) - 4096, 64).tolist():  # the rest is a hole in the file
            series[first : first + 4096] = noise.standard_normal(4096)
        del series
        command = [sys.executable, "-m", "benchmarks.large_series", "train", str(path), str(steps)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return {"file_gib": gibibytes, "allowed_mib": ALLOWED, **json.loads(done.stdout.splitlines()[-1])}


def train(path: str, steps: int) -> dict[str, Any]:
    """Train for so many steps and watch this process's memory, MiB."""

    from flax import nnx

    from jaxrnn.data import SeriesFile
    from jaxrnn.models import RNNForecaster
    from jaxrnn.training import TrainState, huber, make_optimizer, make_streamed_epoch, pure_apply

    series = SeriesFile(path)
    apply, params = pure_apply(lambda: RNNForecaster(hidden_features=16, rngs=nnx.Rngs(0)))
    optimizer = make_optimizer("sgd", 1e-3)
    epoch = make_streamed_epoch(
        apply,
        optimizer,
        huber,
        series,
        series[1:],
        range(len(series) - 30),
        window=30,
        batch_size=128,
        every_step=False,
    )
    state = TrainState.create(params, optimizer)
    memory = []
    state, _ = epoch.advance(state, 1)
    while int(state.position) < steps:
        state, _ = epoch.advance(state, max(1, steps // 100))
        memory.append(resident())
    half = len(memory) // 2
    return {
        "steps": int(state.position),
        "windows_of_the_file": len(series) - 30,
        "peak_rss_mib": round(resident("VmHWM")),
        "growth_mib": round(max(memory[half:]) - max(memory[:half])),
    }


def resident(which: str = "VmRSS") -> float:
    """This process's resident memory now (VmRSS) or at its highest (VmHWM), MiB; Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {which}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        print(json.dumps(train(sys.argv[2], int(sys.argv[3]))))
        sys.exit()
    sys.exit(main())
