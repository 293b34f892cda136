"""Epochs over a series in memory, each one compiled program: stateless and shuffled, or stateful and in order."""

import contextlib
from copy import copy
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.core import Tracer
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxrnn.data.windows import take_windows
from jaxrnn.ops.compilation import lower
from jaxrnn.ops.native.elementwise import one_device
from jaxrnn.training.apply import Apply, check_apply
from jaxrnn.training.compilation import compile_together
from jaxrnn.training.distributed import batch_axis, padded, put
from jaxrnn.training.state import Batch, StepMetrics, TrainState
from jaxrnn.training.step import Loss, train_step
from jaxrnn.training.stepped import BatchPlan, SteppedEpoch, begin, checked_starts, count, finish


def make_windowed_epoch(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    features: Array,
    targets: Array,
    starts: Array | np.ndarray,
    *,
    window: int,
    batch_size: int,
    every_step: bool,
    shuffle: bool = True,
    average_decay: float = 0.99,
    skip_non_finite: bool = True,
    mesh: Mesh | None = None,
) -> SteppedEpoch:
    """Make a stateless epoch: it shuffles the windows, gathers each batch of them, and takes a step on it.

    The package's docstring has an example.

    Args:
      apply, optimizer, loss: as in :func:`jaxrnn.training.train_step`.
      features: ``[time, dims]``.
      targets: ``[time, out]``; ``targets[t]`` is to be forecast from the features up to and including t.
      starts: int ``[windows]``, the first step of each window.
      window: steps in a window.
      batch_size: windows in a batch. If the last batch has fewer, rows of weight zero fill it up.
      every_step: True forecasts at every step of a window (sequence-to-sequence), False only after its last.
      shuffle: take the windows in a new random order each epoch, which depends only on the key and the epoch.
      average_decay, skip_non_finite: as in :func:`jaxrnn.training.train_step`.
      mesh: a mesh of one axis, over whose devices each batch's rows are spread. A batch that does not divide is
        filled up with rows of weight zero. The results differ by rounding only. A small recurrence keeps only one
        CPU core busy, so on CPUs make one device per core, before anything else:
        ``jax.config.update("jax_num_cpu_devices", 2)``. With several processes it holds the devices of all, each
        of which passes all features and targets, and trains on its own rows of each batch.

    Returns:
      A compiled function from a train state, which is donated, to the next one and the mean metrics.

    Raises:
      ValueError: a window does not fit into features or targets, there are no windows, a number is not a positive
        integer, or ``apply`` is not a function of parameters, inputs and carry.
    """
    check_apply(apply)
    starts = checked_starts(starts, 1, features, targets, window)
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ValueError(f"{batch_size=} must be an integer, at least 1")
    plan = BatchPlan.of(starts.shape[0], batch_size)
    steps = plan.steps

    def known() -> dict[str, Any]:
        numbers = {"window": int(window), "batch_size": int(batch_size)}
        return {"features": features, "targets": targets, "starts": starts, **numbers}

    def make(mesh: Mesh | None) -> SteppedEpoch:
        axis_name = None if mesh is None else batch_axis(mesh)[1]
        place, filled = plan.rows(np.arange(steps)[:, None], np.arange(padded(plan.batch_size, mesh)))
        weights = filled.astype(jnp.promote_types(features.dtype, jnp.float32))  # bfloat16 cannot count to 259
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
                with one_device(mesh is None):
                    state, metrics = step(state, Batch(take_windows(features, first, window), wanted, weight))
                return count(state, metrics, _sum(weight, axis_name))

            return finish(lax.fori_loop(state.position, stop, body, begin(state)), steps)

        def reorder(key: Array, epoch: Array, starts: Array) -> Array:
            return jax.random.permutation(jax.random.fold_in(key, epoch), starts) if shuffle else starts

        # The series is an argument of the program, because large constants slow compilation down.
        # Arrays of NumPy are put on devices without a program that divides them.
        if mesh is None:
            arrays = (starts, features, targets, jax.device_put(place), jax.device_put(weights))
            return SteppedEpoch(
                steps, _Ordered(jax.jit(loop, donate_argnums=0), reorder, arrays), mesh, make, known
            )
        auto, axis = batch_axis(mesh)
        specs = (P(), P(), P(), P(), P(), P(None, axis), P(None, axis))
        # check_vma=False: the engine's custom derivative does not declare which values vary over the mesh.
        loop = jax.shard_map(loop, mesh=auto, in_specs=specs, out_specs=P(), check_vma=False)
        arrays = tuple(
            put(array, auto, spec) for array, spec in zip((starts, features, targets, place, weights), specs[2:])
        )
        return SteppedEpoch(
            steps, _Ordered(jax.jit(loop, donate_argnums=0), reorder, arrays, auto), mesh, make, known
        )

    return make(mesh)


class _Ordered:
    """A program whose loop takes the order of the windows, which is computed once an epoch."""

    def __init__(self, loop: Any, reorder: Any, arrays: tuple[Array, ...], mesh: Mesh | None = None):
        self._loop, self._reorder, self._mesh = loop, jax.jit(reorder), mesh
        self._starts, *self._arrays = arrays
        self._known: tuple[Any, Array] | None = None
        self._compiled: Any = None  # the program of `reorder`

    def with_targets(self, targets: Array) -> "_Ordered":
        other = copy(self)
        features, old, *rest = self._arrays
        if (targets.shape, targets.dtype) != (old.shape, old.dtype):
            raise ValueError(f"{targets.shape=} of {targets.dtype} must be as before: {old.shape} of {old.dtype}")
        other._arrays = [features, targets if self._mesh is None else put(targets, self._mesh), *rest]
        return other

    def __call__(self, state: TrainState, stop: int, fresh: bool = True) -> tuple[TrainState, StepMetrics]:
        if self._mesh is not None:
            state = put(state, self._mesh)
        # Within a transformation, such as jax.vmap over many trainings, this is part of a larger program.
        if self._compiled is None and not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(state)):
            call = (state, np.int32(stop), self._starts, *self._arrays)
            ordering = partial(lower, self._reorder), (state.key, state.epoch, self._starts)
            _, self._compiled = compile_together([(self._loop.lower, call), ordering])
        if fresh:  # reading the epoch's number would wait until the epoch before is done
            order = self._order(state)
        else:
            epoch = int(state.epoch), np.asarray(jax.random.key_data(state.key)).tobytes()
            if self._known is None or self._known[0] != epoch:
                self._known = epoch, self._order(state)
            order = self._known[1]
        return self._loop(state, np.int32(stop), order, *self._arrays)

    def _order(self, state: TrainState) -> Array:
        arguments = state.key, state.epoch, self._starts
        if self._compiled is not None:
            with contextlib.suppress(TypeError, ValueError):  # traced by a transformation, or on another device
                return self._compiled(*arguments)
        return self._reorder(*arguments)


def make_sequential_epoch(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    features: Array,
    targets: Array,
    starts: Array | np.ndarray,
    *,
    window: int,
    initial_carry: Any,
    parts: int = 1,
    average_decay: float = 0.99,
    skip_non_finite: bool = True,
    mesh: Mesh | None = None,
) -> SteppedEpoch:
    """Make a stateful epoch: it takes consecutive windows in order and passes the carry from batch to batch.

    Each epoch begins with ``initial_carry``. No gradient flows from one batch into the batch before. After the
    epoch, ``state.carry`` is the carry at the end of the last window.

    A pass over a long text takes minutes, and a model should be validated and saved more often than that. With
    ``parts`` an epoch is only a part of a pass. The next epoch goes on where it ended, with its carry, and only
    the first part of every pass begins with ``initial_carry``.

    Args:
      starts: int ``[batches, batch]``, of :func:`jaxrnn.data.sequential_starts`.
      initial_carry: the model's initial carry for that batch size; arrays ``[batch, ...]``.
      parts: how many epochs make a pass over the series. Batches at the end that do not divide by it are left out.
      mesh: as in :func:`make_windowed_epoch`. The carry's rows are spread like those of the batch; ``state.carry``
        keeps its shape.
      The other arguments are those of :func:`make_windowed_epoch`; the model forecasts at every step.

    Raises:
      ValueError: as there, or a leaf of ``initial_carry`` has another number of rows than ``starts``, or there are
        fewer batches than ``parts``.

    >>> from flax import nnx
    >>> from jaxrnn import RNNForecaster, data, training
    >>> series = jnp.sin(jnp.arange(100.0) / 3)[:, None]
    >>> make = lambda: RNNForecaster(hidden_features=4, return_sequences=True, rngs=nnx.Rngs(0))
    >>> apply, params = training.pure_apply(make)
    >>> carry, _ = apply(params, series[None, :1], None)
    >>> carry = jax.tree.map(jnp.zeros_like, carry)
    >>> optimizer = training.make_optimizer("adam", 1e-2)
    >>> epoch = make_sequential_epoch(
    ...     apply, optimizer, training.huber, series, series[1:], data.sequential_starts(99, 9), window=9,
    ...     initial_carry=carry)
    >>> state, metrics = epoch(training.TrainState.create(params, optimizer, carry=carry))
    >>> epoch.steps, int(state.step)
    (11, 11)
    """
    check_apply(apply, with_carry=True)
    starts = checked_starts(starts, 2, features, targets, window)
    batches, batch = starts.shape
    if not isinstance(parts, (int, np.integer)) or not 1 <= parts <= batches:
        raise ValueError(f"{parts=} must be an integer from 1 to {batches}, the number of batches in a pass")
    steps = batches // int(parts)
    if not jax.tree.leaves(initial_carry):
        raise ValueError(
            f"initial_carry must hold arrays with the {batch} rows of {starts.shape=}, not {initial_carry!r}: "
            f"where no carry is passed on, use make_windowed_epoch"
        )

    def known() -> dict[str, Any]:
        return {"features": features, "targets": targets, "starts": starts, "window": int(window)}

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
        floating = jnp.issubdtype(features.dtype, jnp.floating)  # tokens of a text are not
        # In bfloat16 a sum of weights could not count the rows of a large batch.
        weights = (rows < batch).astype(jnp.promote_types(features.dtype, np.float32) if floating else np.float32)
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
            before = state.epoch % parts * steps  # batches of the pass that belong to earlier epochs

            def body(batch: Array, state: TrainState) -> TrainState:
                first = starts[before + batch]
                inputs, wanted = take_windows(features, first, window), take_windows(targets, first, window)
                with one_device(mesh is None):
                    state, metrics = step(state, Batch(inputs, wanted, weights))
                return count(state, metrics, _sum(weights, axis_name))

            return finish(lax.fori_loop(state.position, stop, body, state), steps)

        if mesh is None:

            @partial(jax.jit, donate_argnums=0)
            def run(state: TrainState, stop: Array, initial_carry: Any, *arrays: Array):
                return loop(begin(state, initial_carry, state.epoch % parts == 0), stop, *arrays)

            here = (initial_carry, features, targets, starts, jax.device_put(weights))

            def program(state: TrainState, stop: int, fresh: bool = True):
                return run(state, np.int32(stop), *here)

            return SteppedEpoch(steps, program, mesh, make, known)
        auto, axis = batch_axis(mesh)
        whole, spread = P(), P(axis)
        fields: dict[str, Any] = dict.fromkeys(TrainState.__dataclass_fields__, whole)
        state_specs = TrainState(**{**fields, "carry": spread})
        specs = (state_specs, whole, whole, whole, P(None, axis), spread)
        mapped = jax.shard_map(loop, mesh=auto, in_specs=specs, out_specs=(state_specs, whole), check_vma=False)

        @partial(jax.jit, donate_argnums=0, out_shardings=jax.NamedSharding(auto, whole))
        def run_spread(state: TrainState, stop: Array, initial_carry: Any, *arrays: Array):
            state = begin(state, initial_carry, state.epoch % parts == 0)
            state, metrics = mapped(state.replace(carry=_rows(state.carry, rows)), stop, *arrays)
            return state.replace(carry=_rows(state.carry, np.arange(batch))), metrics

        shards = (put(features, auto), put(targets, auto), put(np.asarray(starts)[:, rows], auto, P(None, axis)))
        shards += (put(weights, auto, spread),)
        first = put(initial_carry, auto)

        def program(state: TrainState, stop: int, fresh: bool = True):
            return run_spread(put(state, auto), np.int32(stop), first, *shards)

        return SteppedEpoch(steps, program, mesh, make, known)

    return make(mesh)


def _rows(tree: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _sum(values: Array, axis_name: str | None) -> Array:
    return values.sum() if axis_name is None else lax.psum(values.sum(), axis_name)
