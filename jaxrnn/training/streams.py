"""Epochs over a series larger than memory: each batch is read from its file while the one before is computed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrnn.data.series_file import SeriesFile, shuffled
from jaxrnn.training.apply import Apply, check_apply
from jaxrnn.training.distributed import batch_axis, padded, put
from jaxrnn.training.epochs import SteppedEpoch, begin, count, finish
from jaxrnn.training.state import Batch, StepMetrics, TrainState
from jaxrnn.training.step import Loss, train_step

_AHEAD = 2


def make_streamed_epoch(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    features: SeriesFile,
    targets: SeriesFile,
    starts: range,
    *,
    window: int,
    batch_size: int,
    every_step: bool,
    shuffle: bool = True,
    average_decay: float = 0.99,
    skip_non_finite: bool = True,
    mesh: Mesh | None = None,
) -> SteppedEpoch:
    """What :func:`jaxrnn.training.make_windowed_epoch` is to arrays, for series that are read from files.

    Batch k of an epoch is a function of the key, the epoch and k, so an interrupted run goes on at the exact
    window. With several processes each reads the rows of its own devices and no others.

    Args:
      features: the series, ``[time, dims]``.
      targets: ``targets[t]`` is to be forecast from the features up to and with t: often ``features[1:]``.
      starts: where the windows start: a range, since a list of them would not fit into memory either.
      The others as in :func:`jaxrnn.training.make_windowed_epoch`. The random order is another one.

    Raises:
      ValueError: windows reach out of the series, or a number is below 1.
    """
    check_apply(apply)
    if batch_size < 1 or window < 1 or not len(starts):
        raise ValueError(f"{batch_size=}, {window=} and the number of {starts=} must be at least 1")
    if min(starts) < 0 or max(starts) + window > min(len(features), len(targets)):
        raise ValueError(
            f"windows of {window} steps from {starts} reach out of the series: features have {len(features)} "
            f"steps, targets {len(targets)}"
        )
    rows_in_batch = min(batch_size, len(starts))
    steps = -(-len(starts) // rows_in_batch)

    def make(mesh: Mesh | None) -> SteppedEpoch:
        axis_name = None if mesh is None else batch_axis(mesh)[1]
        step = partial(
            train_step,
            apply,
            optimizer,
            loss,
            average_decay=average_decay,
            skip_non_finite=skip_non_finite,
            axis_name=axis_name,
        )

        def one(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
            state, metrics = step(begin(state), batch)
            weight = batch.weights.sum()
            state = count(state, metrics, weight if axis_name is None else jax.lax.psum(weight, axis_name))
            return finish(state, steps)

        auto = None
        if mesh is not None:
            auto, axis = batch_axis(mesh)
            along: Any = P(axis)
            specs = (P(), Batch(along, along, along))
            one = jax.shard_map(one, mesh=auto, in_specs=specs, out_specs=P(), check_vma=False)
        compiled = jax.jit(one, donate_argnums=0)
        rows = np.arange(padded(rows_in_batch, mesh))

        def read(order: int | None, batch: int, chosen: np.ndarray) -> Batch:
            """Some of a batch's rows."""
            place = batch * rows_in_batch + chosen
            weights = ((chosen < rows_in_batch) & (place < len(starts))).astype(np.float32)
            place = np.minimum(place, len(starts) - 1)
            if order is not None:
                place = shuffled(place, len(starts), order)
            first = starts.start + place * starts.step
            wanted = targets.take_windows(first, window) if every_step else _last(targets, first, window)
            arrays: Any = (features.take_windows(first, window), wanted, weights)
            return Batch(*arrays)

        def load(order: int | None, batch: int) -> Batch:
            return read(order, batch, rows) if auto is None else _spread(partial(read, order, batch), rows, auto)

        def program(state: TrainState, stop: int, fresh: bool = True) -> tuple[TrainState, StepMetrics]:
            if auto is not None:
                state = put(state, auto)
            order = _seed(state) if shuffle else None
            done: list[StepMetrics] = []
            for batch in _read_ahead(partial(load, order), range(int(state.position), stop)):
                if len(done) > _AHEAD:  # else what has been read and not yet used would pile up
                    jax.block_until_ready(done.pop(0))
                state, metrics = compiled(state, batch)
                done.append(metrics)
            return state, done[-1]

        return SteppedEpoch(steps, program, mesh, make)

    return make(mesh)


def _read_ahead(load: Any, batches: range) -> Iterator[Batch]:
    """The batches in turn, each read by a thread while those before are used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(load, batch) for batch in batches[:_AHEAD]]
        for batch in batches:
            if batch + _AHEAD < batches.stop:
                waiting.append(pool.submit(load, batch + _AHEAD))
            yield waiting.pop(0).result()


def _last(targets: SeriesFile, first: np.ndarray, window: int) -> np.ndarray:
    return targets.take_windows(first + window - 1, 1)[..., 0, :]


def _seed(state: TrainState) -> int:
    """Of an epoch's order: the same for the same key and epoch."""
    words = np.asarray(jax.random.key_data(state.key)).ravel().tolist()
    return int.from_bytes(
        b"".join(int(word).to_bytes(4, "little") for word in [*words, int(state.epoch)]), "little"
    )


def _spread(read: Any, rows: np.ndarray, mesh: Mesh) -> Batch:
    """A batch over the mesh, of which this process reads only what its own devices need."""
    sharding = NamedSharding(mesh, P(mesh.axis_names[0]))
    mine = sorted(
        {
            row
            for index in sharding.addressable_devices_indices_map((len(rows),)).values()
            for row in rows[index].tolist()  # pyright: ignore[reportOptionalSubscript, reportArgumentType, reportCallIssue]
        }
    )
    part = read(np.array(mine))

    def whole(values: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, values, (len(rows), *values.shape[1:]))

    return Batch(*map(whole, part))
