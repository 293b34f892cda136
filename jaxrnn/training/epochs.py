"""A whole epoch of steps as one compiled program, which can also be taken in parts and over many devices.

The program loops from ``state.position`` to a given batch, so one compilation serves a whole epoch and any part
of it, and where an epoch is interrupted does not show in a single bit of what comes out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxrnn.data.windows import take_windows
from jaxrnn.training.apply import Apply, check_apply
from jaxrnn.training.distributed import batch_axis, padded, put
from jaxrnn.training.state import Batch, StepMetrics, Totals, TrainState
from jaxrnn.training.step import Loss, train_step

Epoch = Callable[[TrainState], tuple[TrainState, StepMetrics]]
"""From a train state, which it may donate, to the state an epoch later and the epoch's mean metrics."""

Step = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


class Program(Protocol):
    """Trains on the batches from ``state.position`` up to ``stop``, which is not included.

    With ``fresh`` the call does not block: it computes the order again. Otherwise it waits for the state to
    see which epoch it is in, and reuses the order that it has computed for that epoch.
    """

    def __call__(self, state: TrainState, stop: int, fresh: bool = True) -> tuple[TrainState, StepMetrics]: ...


class SteppedEpoch:
    """An epoch that can be taken in parts: call it for what is left of an epoch, or :meth:`advance` it.

    Attributes:
      steps: batches in an epoch.
      mesh: the devices over which each batch is spread; None for one device.
    """

    def __init__(
        self, steps: int, program: Program, mesh: Mesh | None, make: Callable[[Mesh | None], "SteppedEpoch"]
    ):
        self.steps, self.mesh = steps, mesh
        self._program, self._make = program, make

    def __call__(self, state: TrainState) -> tuple[TrainState, StepMetrics]:
        """From ``state.position`` (normally 0) to the end of the epoch. Does not wait for the result."""
        return self._program(state, self.steps)

    def advance(self, state: TrainState, steps: int) -> tuple[TrainState, StepMetrics]:
        """The next batches, at most ``steps`` of them and not beyond the end of the epoch."""
        if steps < 1:
            raise ValueError(f"{steps=} must be at least 1")
        position = int(state.position)
        if position >= self.steps:
            raise ValueError(
                f"the state stands before batch {position} of an epoch that has {self.steps}: it was saved with "
                f"other data or another batch size"
            )
        return self._program(state, min(position + steps, self.steps), fresh=False)

    def over(self, mesh: Mesh | None) -> "SteppedEpoch":
        """The same epoch, with each batch spread over the devices of another mesh."""
        return self if mesh == self.mesh else self._make(mesh)


def begin(state: TrainState, initial_carry: Any = None) -> TrainState:
    """At an epoch's first batch, reset the totals and the carry; later, change nothing."""
    first = state.position == 0
    old = (state.totals, state.carry)
    totals, carry = jax.tree.map(lambda new, old: jnp.where(first, new, old), (Totals.zero(), initial_carry), old)
    return state.replace(totals=totals, carry=carry)


def count(state: TrainState, metrics: StepMetrics, weight: Array) -> TrainState:
    """Add a step to the epoch's totals."""
    taken = state.skipped_in_a_row == 0
    totals = state.totals
    add = partial(jnp.where, taken)
    return state.replace(
        position=state.position + 1,
        totals=Totals(
            loss=totals.loss + add(metrics.loss * weight, 0),
            weight=totals.weight + add(weight, 0),
            grad_norm=totals.grad_norm + add(metrics.grad_norm, 0),
            taken=totals.taken + taken,
            skipped=totals.skipped + ~taken,
        ),
    )


def finish(state: TrainState, steps: int) -> tuple[TrainState, StepMetrics]:
    """Count the epoch if all its batches are done; returns the mean metrics so far, NaN if no step was taken."""
    done = state.position == steps
    totals = state.totals
    state = state.replace(epoch=state.epoch + done, position=jnp.where(done, 0, state.position))
    return state, StepMetrics(totals.loss / totals.weight, totals.grad_norm / totals.taken)


def make_windowed_epoch(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    features: Array,
    targets: Array,
    starts: Array,
    *,
    window: int,
    batch_size: int,
    every_step: bool,
    shuffle: bool = True,
    average_decay: float = 0.99,
    skip_non_finite: bool = True,
    mesh: Mesh | None = None,
) -> SteppedEpoch:
    """A stateless epoch as one program: shuffle, gather each batch of windows, and step.

    Args:
      apply, optimizer, loss: as in :func:`jaxrnn.training.train_step`.
      features: ``[time, dims]``.
      targets: ``[time, out]``; ``targets[t]`` is to be forecast from the features up to and with t.
      starts: where the windows start.
      window: steps in a window.
      batch_size: windows in a batch. The last batch may have fewer: it is filled up with rows of weight zero.
      every_step: forecast at every step of a window (sequence-to-sequence), or only after its last.
      shuffle: take the windows in a new random order, the same one for the same key and epoch.
      average_decay, skip_non_finite: as in :func:`jaxrnn.training.train_step`.
      mesh: spread each batch's rows over the devices of this mesh of one axis, and compute in parallel; a batch
        that does not divide is filled up with rows of weight zero. The results differ by rounding only. On a CPU,
        one device per core keeps all cores busy, where a single recurrence is too small for more than one:
        ``jax.config.update("jax_num_cpu_devices", 2)`` before anything else.

    Returns:
      A compiled function from a train state, which is donated, to the next one and the mean metrics.

    Raises:
      ValueError: windows reach out of features or targets, there are no windows, a number is not a positive
        integer, or ``apply`` is not a function of parameters, inputs and carry.
    """
    check_apply(apply)
    starts = checked_starts(starts, 1, features, targets, window)
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ValueError(f"{batch_size=} must be an integer, at least 1")
    number = starts.shape[0]
    rows_in_batch = min(batch_size, number)
    steps = -(-number // rows_in_batch)

    def make(mesh: Mesh | None) -> SteppedEpoch:
        axis_name = None if mesh is None else batch_axis(mesh)[1]
        rows = np.arange(padded(rows_in_batch, mesh))
        # Row r of batch b is window b * rows_in_batch + r, where there is one.
        place = np.arange(steps)[:, None] * rows_in_batch + rows
        weights = ((rows < rows_in_batch) & (place < number)).astype(features.dtype)
        place = np.minimum(place, number - 1)
        step = partial(
            train_step,
            apply,
            optimizer,
            loss,
            average_decay=average_decay,
            skip_non_finite=skip_non_finite,
            axis_name=axis_name,
        )

        def loop(state: TrainState, stop: Array, order: Array, features: Array, targets: Array, place, weights):
            def body(batch: Array, state: TrainState) -> TrainState:
                first = order[place[batch]]
                wanted = take_windows(targets, first, window) if every_step else targets[first + window - 1]
                weight = weights[batch]
                state, metrics = step(state, Batch(take_windows(features, first, window), wanted, weight))
                return count(state, metrics, _sum(weight, axis_name))

            return finish(lax.fori_loop(state.position, stop, body, begin(state)), steps)

        def reorder(key: Array, epoch: Array, starts: Array) -> Array:
            return jax.random.permutation(jax.random.fold_in(key, epoch), starts) if shuffle else starts

        # The series is an argument and not a constant of the program: constants slow compilation down.
        arrays = (starts, features, targets, jnp.asarray(place), jnp.asarray(weights))
        if mesh is None:
            return SteppedEpoch(steps, _Ordered(jax.jit(loop, donate_argnums=0), reorder, arrays), mesh, make)
        auto, axis = batch_axis(mesh)
        specs = (P(), P(), P(), P(), P(), P(None, axis), P(None, axis))
        # No check of what varies over the mesh: the engine's own derivative does not say.
        loop = jax.shard_map(loop, mesh=auto, in_specs=specs, out_specs=P(), check_vma=False)
        arrays = tuple(put(array, auto, spec) for array, spec in zip(arrays, specs[2:]))
        return SteppedEpoch(steps, _Ordered(jax.jit(loop, donate_argnums=0), reorder, arrays, auto), mesh, make)

    return make(mesh)


def checked_starts(starts: Any, axes: int, features: Array, targets: Array, window: int) -> Array:
    """``starts`` as an array, or a ValueError if a window from one of them reaches out of the series."""
    known = np.asarray(starts)
    if known.ndim != axes or not known.size or not np.issubdtype(known.dtype, np.integer):
        raise ValueError(f"starts must be integers on {axes} axes, at least one, not {known.dtype} {known.shape}")
    if not isinstance(window, (int, np.integer)) or window < 1:
        raise ValueError(f"{window=} must be an integer, at least 1")
    for name, array in (("features", features), ("targets", targets)):
        if np.ndim(array) < 2:
            raise ValueError(f"{name} {np.shape(array)} must be [time, dims]: one series x needs x[:, None]")
    least, most = int(known.min()), int(known.max())
    if least < 0 or most + window > min(len(features), len(targets)):
        raise ValueError(
            f"windows of {window} steps, which start at {least} to {most}, reach out of the series: features have "
            f"{len(features)} steps, targets {len(targets)}"
        )
    return jnp.asarray(starts)


class _Ordered:
    """A program that is given the order of the windows, which is computed once an epoch."""

    def __init__(self, loop: Any, reorder: Any, arrays: tuple[Array, ...], mesh: Mesh | None = None):
        self._loop, self._reorder, self._mesh = loop, jax.jit(reorder), mesh
        self._starts, *self._arrays = arrays
        self._known: tuple[Any, Array] | None = None

    def __call__(self, state: TrainState, stop: int, fresh: bool = True) -> tuple[TrainState, StepMetrics]:
        if self._mesh is not None:
            state = put(state, self._mesh)
        if fresh:  # reading the epoch's number would block until the epoch before is done
            order = self._reorder(state.key, state.epoch, self._starts)
        else:
            epoch = int(state.epoch), np.asarray(jax.random.key_data(state.key)).tobytes()
            if self._known is None or self._known[0] != epoch:
                self._known = epoch, self._reorder(state.key, state.epoch, self._starts)
            order = self._known[1]
        return self._loop(state, np.int32(stop), order, *self._arrays)


def make_sequential_epoch(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    features: Array,
    targets: Array,
    starts: Array,
    *,
    window: int,
    initial_carry: Any,
    average_decay: float = 0.99,
    skip_non_finite: bool = True,
    mesh: Mesh | None = None,
) -> SteppedEpoch:
    """A stateful epoch as one program: consecutive windows in order, the carry handed from batch to batch.

    The carry returns to ``initial_carry`` when the epoch begins, and is detached at every border between
    batches. Afterwards ``state.carry`` is the carry at the end of the last window.

    Args:
      starts: ``[batches, batch]`` of :func:`jaxrnn.data.sequential_starts`.
      initial_carry: the model's first carry for that batch size; arrays ``[batch, ...]``.
      mesh: spread the rows of every batch, and of the carry, over the devices of this mesh of one axis; rows that
        do not divide are filled up with ones of weight zero. ``state.carry`` keeps its shape.
      The others as in :func:`make_windowed_epoch`; the model forecasts at every step.

    Raises:
      ValueError: as there, or a leaf of ``initial_carry`` has another number of rows than ``starts``.
    """
    check_apply(apply, with_carry=True)
    starts = checked_starts(starts, 2, features, targets, window)
    steps, batch = starts.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(initial_carry):
        if leaf.shape[:1] != (batch,):
            raise ValueError(
                f"leaf {jax.tree_util.keystr(path)} of the initial carry has {leaf.shape=}, but must begin "
                f"with the {batch} rows of {starts.shape=}"
            )

    def make(mesh: Mesh | None) -> SteppedEpoch:
        axis_name = None if mesh is None else batch_axis(mesh)[1]
        rows = np.arange(padded(batch, mesh))
        # The rows added to fill the batch are copies of the last row and its carry, so that they stay finite.
        weights = (rows < batch).astype(features.dtype)
        rows = np.minimum(rows, batch - 1)
        step = partial(
            train_step,
            apply,
            optimizer,
            loss,
            average_decay=average_decay,
            skip_non_finite=skip_non_finite,
            axis_name=axis_name,
        )

        def loop(state: TrainState, stop: Array, features: Array, targets: Array, starts: Array, weights: Array):
            def body(batch: Array, state: TrainState) -> TrainState:
                first = starts[batch]
                inputs, wanted = take_windows(features, first, window), take_windows(targets, first, window)
                state, metrics = step(state, Batch(inputs, wanted, weights))
                return count(state, metrics, _sum(weights, axis_name))

            return finish(lax.fori_loop(state.position, stop, body, state), steps)

        if mesh is None:

            @partial(jax.jit, donate_argnums=0)
            def run(state: TrainState, stop: Array, initial_carry: Any, *arrays: Array):
                return loop(begin(state, initial_carry), stop, *arrays)

            here = (initial_carry, features, targets, starts, jnp.asarray(weights))

            def program(state: TrainState, stop: int, fresh: bool = True):
                return run(state, np.int32(stop), *here)

            return SteppedEpoch(steps, program, mesh, make)
        auto, axis = batch_axis(mesh)
        whole, spread = P(), P(axis)
        fields: dict[str, Any] = dict.fromkeys(TrainState.__dataclass_fields__, whole)
        state_specs = TrainState(**{**fields, "carry": spread})
        specs = (state_specs, whole, whole, whole, P(None, axis), spread)
        mapped = jax.shard_map(loop, mesh=auto, in_specs=specs, out_specs=(state_specs, whole), check_vma=False)

        @partial(jax.jit, donate_argnums=0, out_shardings=jax.NamedSharding(auto, whole))
        def run_spread(state: TrainState, stop: Array, initial_carry: Any, *arrays: Array):
            state = begin(state, initial_carry)
            state, metrics = mapped(state.replace(carry=_rows(state.carry, rows)), stop, *arrays)
            return state.replace(carry=_rows(state.carry, np.arange(batch))), metrics

        shards = (put(features, auto), put(targets, auto), put(starts[:, rows], auto, P(None, axis)))
        shards += (put(weights, auto, spread),)
        first = put(initial_carry, auto)

        def program(state: TrainState, stop: int, fresh: bool = True):
            return run_spread(put(state, auto), np.int32(stop), first, *shards)

        return SteppedEpoch(steps, program, mesh, make)

    return make(mesh)


def _rows(tree: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _sum(values: Array, axis_name: str | None) -> Array:
    return values.sum() if axis_name is None else lax.psum(values.sum(), axis_name)
