"""Train on a series larger than the memory allowed: a 4 GiB file, 1 GiB of memory.

    python -m benchmarks.large_series                   # some minutes
    python -m benchmarks.large_series --steps 300

Makes a sparse ``.npy`` file of a billion float32 steps, trains on random windows of all of it in a process of
its own (``make_streamed_epoch``), and watches that process's resident memory, the file's mapped pages included. It
must stay below the limit, and must not grow: its highest in the second half of the run against that in the first.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from benchmarks.common.command import RecordOptions, command
from benchmarks.common.process import Process, memory
from jaxrnn.data import SeriesFile
from jaxrnn.models import RNNForecaster
from jaxrnn.training import TrainState, huber, make_optimizer, make_streamed_epoch, pure_apply

ALLOWED = 1024
"""MiB."""


@dataclass(frozen=True)
class SeriesOptions(RecordOptions):
    """How large, and how long."""

    gibibytes: int = 4
    """Of the file."""

    steps: int = 5000
    """Batches of 128 windows of 30 steps."""


def run(options: SeriesOptions) -> int:
    found = in_a_process(options.gibibytes, options.steps)
    options.write("large-series", ("jax", "flax", "numpy"), found)
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
        with Process() as process:
            found = process.ask(train, path, steps)
    return {"file_gib": gibibytes, "allowed_mib": ALLOWED, **found}


def train(path: Path, steps: int) -> dict[str, Any]:
    """Train on the series at ``path`` and watch this process's memory, MiB."""
    series = SeriesFile(path)
    apply, params = pure_apply(lambda: RNNForecaster(hidden_features=16, rngs=nnx.Rngs(0)))
    optimizer = make_optimizer("sgd", 1e-3)
    arrays = series, series[1:], range(len(series) - 30)
    sizes: dict[str, Any] = dict(window=30, batch_size=128, every_step=False)
    epoch = make_streamed_epoch(apply, optimizer, huber, *arrays, **sizes)
    used = []
    state, _ = epoch.advance(TrainState.create(params, optimizer), 1)
    while int(state.position) < steps:
        state, _ = epoch.advance(state, max(1, steps // 100))
        used.append(memory("VmRSS") / 2**20)
    half = len(used) // 2
    return {
        "steps": int(state.position),
        "windows_of_the_file": len(series) - 30,
        "peak_rss_mib": round(memory() / 2**20),
        "growth_mib": round(max(used[half:]) - max(used[:half])),
    }


main = command(SeriesOptions, run, "large_series", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
