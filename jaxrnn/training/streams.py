"""Epochs over a series larger than memory: a thread reads the next batches while the device computes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrnn import checks
from jaxrnn.data.series_file import SeriesFile, shuffled
from jaxrnn.ops.native.elementwise import one_device
from jaxrnn.training.apply import Apply, check_apply
from jaxrnn.training.distributed import batch_axis, padded, put
from jaxrnn.training.state import Batch, StepMetrics, TrainState
from jaxrnn.training.step import Loss, train_step
from jaxrnn.training.stepped import BatchPlan, SteppedEpoch, begin, count, finish

_BATCHES_AHEAD = 2


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
    """Make an epoch like that of :func:`jaxrnn.training.make_windowed_epoch` whose series are read from files.

    The windows of batch k depend only on the key, the epoch and k, so an interrupted run continues at the exact
    window. If several processes train together, each reads only the rows of its own devices.

    Args:
      features: the series, ``[time, dims]``.
      targets: ``targets[t]`` is to be forecast from the features up to and including t; often ``features[1:]``.
      starts: where the windows start. It is a range, because a list of them might not fit into memory either.
      The other arguments are those of :func:`jaxrnn.training.make_windowed_epoch`, but the random order differs
      from that function's.

    Raises:
      ValueError: a window does not fit into the series, ``starts`` is no range, or a number is not a positive
        integer.

    >>> import tempfile
    >>> from flax import nnx
    >>> from jaxrnn import RNNForecaster, data, training
    >>> apply, params = training.pure_apply(lambda: RNNForecaster(hidden_features=4, rngs=nnx.Rngs(0)))
    >>> optimizer = training.make_optimizer("adam", 1e-2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/series.npy", np.sin(np.arange(101) / 3).astype(np.float32))
    ...     series = data.SeriesFile(f"{folder}/series.npy")
    ...     epoch = make_streamed_epoch(
    ...         apply, optimizer, training.huber, series, series[1:], range(80), window=20, batch_size=32,
    ...         every_step=False)
    ...     state, metrics = epoch(TrainState.create(params, optimizer))
    >>> epoch.steps, int(state.step)
    (3, 3)
    """
    check_apply(apply)
    if not isinstance(starts, range) or not starts:
        shown = checks.shown(starts)
        raise ValueError(f"starts must be a range with at least 1 number, such as range(100), not {shown}")
    batch_size = checks.positive_integer("batch_size", batch_size)
    window = checks.positive_integer("window", window)
    first, last = sorted((starts[0], starts[-1]))
    if first < 0 or last + window > min(len(features), len(targets)):
        raise ValueError(
            f"windows of {window} steps from {starts} do not fit into the series: features have {len(features)} "
            f"steps, targets {len(targets)}"
        )
    plan = BatchPlan.of(len(starts), batch_size)
    steps = plan.steps

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
            with one_device(mesh is None):
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
        rows = np.arange(padded(plan.batch_size, mesh))

        def read(order: int | None, batch: int, chosen: np.ndarray) -> Batch:
            """Read the chosen rows of a batch."""
            place, filled = plan.rows(batch, chosen)
            weights = filled.astype(np.float32)
            if order is not None:
                place = shuffled(place, len(starts), order)
            first = starts.start + place * starts.step
            wanted = targets.take_windows(first, window) if every_step else _last_step(targets, first, window)
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
                if len(done) > _BATCHES_AHEAD:  # otherwise batches that wait for the device would fill the memory
                    jax.block_until_ready(done.pop(0))
                state, metrics = compiled(state, batch)
                done.append(metrics)
            return state, done[-1]

        def known() -> dict[str, Any]:
            found: dict[str, Any] = {"starts": str(starts), "window": int(window), "batch_size": int(batch_size)}
            found["the shape of the features"] = list(features.shape)
            found["the shape of the targets"] = list(targets.shape)
            if mesh is None:  # each process reads all rows, of which some tell other files apart
                some = np.linspace(0, len(starts) - 1, min(len(starts), 64)).astype(int)
                found["features"] = features.take_windows(starts.start + some * starts.step, 1)
            return found

        return SteppedEpoch(steps, program, mesh, make, known)

    return make(mesh)


def _read_ahead(load: Any, batches: range) -> Iterator[Batch]:
    """Yield the batches in order. A thread reads the next ones while the earlier ones are used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(load, batch) for batch in batches[:_BATCHES_AHEAD]]
        for batch in batches:
            if batch + _BATCHES_AHEAD < batches.stop:
                waiting.append(pool.submit(load, batch + _BATCHES_AHEAD))
            yield waiting.pop(0).result()


def _last_step(targets: SeriesFile, first: np.ndarray, window: int) -> np.ndarray:
    return targets.take_windows(first + window - 1, 1)[..., 0, :]


def _seed(state: TrainState) -> int:
    """The seed of an epoch's random order. It depends only on the key and the epoch."""
    words = np.asarray(jax.random.key_data(state.key)).ravel().tolist()
    return int.from_bytes(
        b"".join(int(word).to_bytes(4, "little") for word in [*words, int(state.epoch)]), "little"
    )


def _spread(read: Any, rows: np.ndarray, mesh: Mesh) -> Batch:
    """Spread a batch over the mesh. This process reads only the rows that its own devices need."""
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
