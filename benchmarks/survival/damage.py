"""Damage to saved checkpoints and to the data: what is loaded must be right, or older with a warning."""

import random
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrnn import data, training
from jaxrnn.models import RNNForecaster

WINDOW = 10


def train_stateful(series: np.ndarray, starts: np.ndarray, epochs: int, store: Any = None) -> training.Run:
    """A small stateful run on ``series [time, 1]``; saves after every step."""

    def model() -> RNNForecaster:
        return RNNForecaster(hidden_features=5, return_sequences=True, rngs=nnx.Rngs(0))

    apply, params = training.pure_apply(model)
    optimizer = training.make_optimizer("adam", 1e-3)
    carry = model().initialize_carry(starts.shape[1])
    values = jnp.asarray(series, jnp.float32)
    arrays = values, jnp.roll(values, -1, axis=0), jnp.asarray(starts)
    made: Any = {"window": WINDOW, "initial_carry": carry}
    epoch = training.make_sequential_epoch(apply, optimizer, training.huber, *arrays, **made)
    run = training.Run.create(training.TrainState.create(params, optimizer, carry=carry))
    saves: Any = {"checkpoints": store, "save_every_steps": 1}
    return training.fit(run, epoch, lambda state: {"valid_loss": state.totals.loss}, epochs=epochs, **saves)


def wave(steps: int = 101) -> np.ndarray:
    """A sine ``[steps, 1]``."""
    return np.sin(np.arange(steps) / 3)[:, None]


def contents(tree: Any) -> list[bytes]:
    """Every leaf's bytes."""
    plain = (
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(tree)
    )
    return [np.asarray(leaf).tobytes() for leaf in plain]


def damage(folder: Path, flips: int, seed: int) -> Counter:
    """Bits flipped in the newest checkpoint, and its files deleted, emptied and cut, one at a time."""
    counts: Counter = Counter()
    store = training.CheckpointStore(folder / "damaged")
    run = train_stateful(wave(), data.sequential_starts(100, WINDOW, 2), 2, store)
    known = {step: store.restore(run.arrays, step=step) for step in store.steps()}
    newest = store.steps()[-1]
    (latest,) = (folder / "damaged").glob(f"step_{newest:08d}*")
    files = sorted(path for path in latest.rglob("*") if path.is_file() and path.stat().st_size)
    for what, path, left in damages(files, flips, random.Random(seed)):
        intact = path.read_bytes()
        path.unlink()
        if left is not None:
            path.write_bytes(left)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            restored = store.restore(run.arrays)
        path.write_bytes(intact)
        right = known[restored.step]
        same = contents(restored.arrays) == contents(right.arrays) and restored.record == right.record
        fell_back = restored.step != newest
        if not same or fell_back != bool(caught):
            counts["WRONG VALUES ACCEPTED"] += 1
        counts[f"{what}: {'the checkpoint before was loaded' if fell_back else 'harmless, same values'}"] += 1
    return counts


def damages(files: list[Path], flips: int, generator: random.Random) -> Iterator[tuple[str, Path, bytes | None]]:
    """What is done to which file, and what is left of its bytes (None: no file)."""
    sizes = [path.stat().st_size for path in files]
    for i in range(flips):
        # Half of them anywhere by size, half of them file by file, so that small files get their share.
        path = generator.choices(files, sizes)[0] if i % 2 else files[i // 2 % len(files)]
        changed = bytearray(path.read_bytes())
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
        yield "bit flips", path, bytes(changed)
    for path in files:
        intact = path.read_bytes()
        for what, left in (("deleted", None), ("emptied", b""), ("cut", intact[: len(intact) // 2])):
            yield f"files {what}", path, left


def not_a_number(epochs: int) -> Counter:
    """A NaN in one batch of a stateful run: the same as if that batch had not been there."""
    counts: Counter = Counter()
    starts = data.sequential_starts(100, WINDOW)
    series = wave()
    series[3 * WINDOW + 5] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hurt = train_stateful(series, starts, epochs)
    clean = train_stateful(wave(), np.delete(starts, 3, axis=0), epochs)
    counts["steps skipped"] = sum(row["skipped"] for row in hurt.history)
    counts["steps taken"] = int(hurt.state.step) - counts["steps skipped"]
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((hurt.state.params, hurt.state.carry)))
    counts["parameters and carry finite" if finite else "PARAMETERS OR CARRY NOT FINITE"] += 1
    left, expected = (contents((s.params, s.opt_state, s.carry)) for s in (hurt.state, clean.state))
    same = left == expected
    counts["equal to a run without that batch, bit for bit" if same else "RUNS THAT DIFFER"] += 1
    return counts
