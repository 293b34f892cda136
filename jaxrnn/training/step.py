"""The train state, one training step, and a whole epoch of steps as one compiled program."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrnn.data.windows import take_windows

Apply = Callable[[Any, Array, Any], tuple[Any, Array]]
"""``(params, inputs, carry) -> (carry, predictions)``; a carry of None stands for the model's own first one."""

Loss = Callable[[Array, Array], Array]
"""Elementwise: ``(predictions, targets) -> losses`` of the same shape."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("params", "opt_state", "step", "epoch", "key", "carry", "average"),
    meta_fields=(),
)
@dataclass(frozen=True)
class TrainState:
    """Everything that training changes, as one pytree: what a checkpoint must hold to go on exactly.

    Attributes:
      params: the model's parameters.
      opt_state: the optimiser's state.
      step, epoch: int32, how many of each are done.
      key: the random key that every epoch's shuffle is derived from; it does not change.
      carry: of a stateful model, the carry after the last batch; None for a stateless one.
      average: a running average of the parameters, or None; see :func:`train_step`.
    """

    params: Any
    opt_state: optax.OptState
    step: Array
    epoch: Array
    key: Array
    carry: Any = None
    average: Any = None

    @property
    def best_guess(self) -> Any:
        """The parameters to evaluate and keep: their average where there is one."""
        return self.params if self.average is None else self.average

    @classmethod
    def create(
        cls,
        params: Any,
        optimizer: optax.GradientTransformation,
        *,
        seed: int = 0,
        carry: Any = None,
        average: bool = False,
    ) -> "TrainState":
        """The state before the first step. Everything is copied, since training donates its state."""
        params, carry = jax.tree.map(jnp.array, (params, carry))
        return cls(
            params=params,
            opt_state=optimizer.init(params),
            step=jnp.zeros((), jnp.int32),
            epoch=jnp.zeros((), jnp.int32),
            key=jax.random.key(seed),
            carry=carry,
            average=jax.tree.map(jnp.array, params) if average else None,
        )


class Batch(NamedTuple):
    """Inputs ``[batch, time, dims]``, targets shaped like the predictions, and a weight for each row."""

    inputs: Array
    targets: Array
    weights: Array


class StepMetrics(NamedTuple):
    """Of one step, or the means over an epoch's steps: the loss, and the gradient's norm before clipping."""

    loss: Array
    grad_norm: Array


def huber(predictions: Array, targets: Array) -> Array:
    """Quadratic up to an error of 1, linear beyond, so that outliers do not rule (Huber 1964)."""
    return optax.losses.huber_loss(predictions, targets)


def pure_apply(model: nnx.Module | Callable[[], nnx.Module]) -> tuple[Apply, Any]:
    """A forecaster as a function of its parameters, and the parameters.

    The function runs under plain ``jax.jit``.

    Args:
      model: a model, or a function that makes one. A function is compiled as one program instead of
        initialiser by initialiser.

    >>> from flax import nnx
    >>> import jaxrnn
    >>> apply, params = pure_apply(lambda: jaxrnn.RNNForecaster(hidden_features=4, rngs=nnx.Rngs(0)))
    >>> carry, forecasts = apply(params, jnp.ones((2, 30)), None)
    >>> forecasts.shape
    (2, 1)
    """
    if isinstance(model, nnx.Module):
        graphdef, params = nnx.split(model)
    else:
        make: Callable[[], nnx.Module] = model
        graphdef, _ = nnx.split(nnx.eval_shape(make))
        params = jax.jit(lambda: nnx.state(make()))()

    def apply(params: Any, inputs: Array, carry: Any) -> tuple[Any, Array]:
        merged: Any = nnx.merge(graphdef, params)
        return merged(inputs, initial_carry=carry, return_carry=True)

    return apply, params


def make_optimizer(
    name: str, learning_rate: optax.ScalarOrSchedule, *, clip_norm: float | None = None, **options: Any
) -> optax.GradientTransformation:
    """An Optax optimiser behind gradient clipping, with its learning rate readable and settable in its state.

    Args:
      name: ``"sgd"`` (momentum 0.9 unless told), ``"adam"``, ``"adamw"``, ``"rmsprop"`` or ``"nadam"``.
      learning_rate: a number, or an Optax schedule over steps.
      clip_norm: scale the gradient down to this global norm where it is longer; None leaves it alone.
      options: further arguments of the optimiser, such as ``momentum`` or ``weight_decay``.

    Raises:
      ValueError: the name is unknown, or a rate or norm is not positive.

    Source of the clipping: Pascanu, Mikolov, Bengio (2013), On the difficulty of training recurrent neural
    networks, arXiv:1211.5063.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; available: {', '.join(OPTIMIZERS)}")
    if not callable(learning_rate) and not learning_rate > 0:
        raise ValueError(f"{learning_rate=} must be positive")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"{clip_norm=} must be positive, or None for no clipping")

    def chain(learning_rate: Any) -> optax.GradientTransformation:
        optimizer = OPTIMIZERS[name](learning_rate, **options)
        return optimizer if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)

    return optax.inject_hyperparams(chain)(learning_rate=learning_rate)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": functools.partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
    "adamw": optax.adamw,
    "rmsprop": optax.rmsprop,
    "nadam": optax.nadam,
}
"""The optimisers that scripts and configurations may name."""


def learning_rate_of(state: TrainState) -> float:
    """The learning rate that the last step used, for an optimiser of :func:`make_optimizer`."""
    return float(state.opt_state.hyperparams["learning_rate"])  # pyright: ignore


def with_learning_rate(state: TrainState, learning_rate: float) -> TrainState:
    """The state with another (constant) learning rate, for an optimiser of :func:`make_optimizer`."""
    opt_state: Any = state.opt_state
    rate = jnp.asarray(learning_rate, opt_state.hyperparams["learning_rate"].dtype)
    opt_state = opt_state._replace(hyperparams={**opt_state.hyperparams, "learning_rate": rate})
    return TrainState(**{**vars(state), "opt_state": opt_state})


def train_step(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    state: TrainState,
    batch: Batch,
    *,
    average_decay: float = 0.99,
    axis_name: str | None = None,
) -> tuple[TrainState, StepMetrics]:
    """One step of gradient descent. A stateful model's carry goes in detached and comes out.

    Detached: gradients do not reach back into the batch before. That is backpropagation through time
    truncated to the length of one batch's windows.

    Where the state has an average of the parameters, it moves towards them by ``1 - average_decay``, faster
    in the first steps (Polyak and Juditsky 1992, doi:10.1137/0330046).

    Within ``jax.shard_map``, ``axis_name`` names the mesh axis over whose devices the batch's rows are spread:
    each computes the gradient of its own rows, and all take the same step with the sum.
    """
    carry_in = lax.stop_gradient(state.carry)
    total_weight = batch.weights.sum()
    if axis_name is not None:
        total_weight = lax.psum(total_weight, axis_name)

    def objective(params: Any) -> tuple[Array, Any]:
        carry, predictions = apply(params, batch.inputs, carry_in)
        losses = loss(predictions, batch.targets)
        per_row = losses.reshape(losses.shape[0], -1).mean(axis=1)
        return (per_row * batch.weights).sum() / total_weight, carry

    (value, carry), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
    if axis_name is not None:
        value, grads = lax.psum((value, grads), axis_name)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if average is not None:
        decay = jnp.minimum(average_decay, (1 + state.step) / (10 + state.step))
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
    new_state = TrainState(
        params=params,
        opt_state=opt_state,
        step=state.step + 1,
        epoch=state.epoch,
        key=state.key,
        carry=None if state.carry is None else carry,
        average=average,
    )
    return new_state, StepMetrics(value, optax.tree.norm(grads))


def make_train_step(
    apply: Apply, optimizer: optax.GradientTransformation, loss: Loss = huber
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """A compiled :func:`train_step`. The state passed in is donated: use only the one that comes out."""
    return jax.jit(functools.partial(train_step, apply, optimizer, loss), donate_argnums=0)


Epoch = Callable[[TrainState], tuple[TrainState, StepMetrics]]


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
    mesh: Mesh | None = None,
) -> Epoch:
    """A stateless epoch as one program: shuffle, gather each batch of windows, and step.

    Args:
      apply, optimizer, loss: as in :func:`train_step`.
      features: ``[time, dims]``.
      targets: ``[time, out]``; ``targets[t]`` is to be forecast from the features up to and with t.
      starts: where the windows start.
      window: steps in a window.
      batch_size: windows in a batch. The last batch may have fewer: it is filled up with rows of weight zero.
      every_step: forecast at every step of a window (sequence-to-sequence), or only after its last.
      shuffle: take the windows in a new random order, the same one for the same key and epoch.
      average_decay: as in :func:`train_step`.
      mesh: spread each batch's rows over the devices of this mesh of one axis, and compute in parallel; a batch
        that does not divide is filled up with rows of weight zero. The results differ by rounding only. On a CPU,
        one device per core keeps all cores busy, where a single recurrence is too small for more than one:
        ``jax.config.update("jax_num_cpu_devices", 2)`` before anything else.

    Returns:
      A compiled function from a train state, which is donated, to the next one and the mean metrics.
    """
    number = starts.shape[0]
    if batch_size < 1:
        raise ValueError(f"{batch_size=} must be at least 1")
    if mesh is not None and len(mesh.axis_names) != 1:
        raise ValueError(f"the mesh must have one axis, for the rows of a batch, not {mesh.axis_names}")
    axis_name = None if mesh is None else mesh.axis_names[0]
    batch_size = min(batch_size, number)
    batches = -(-number // batch_size)
    devices = 1 if mesh is None else mesh.size
    rows = jnp.arange(-(-batch_size // devices) * devices)
    # Row r of batch b is window b * batch_size + r, where there is one.
    place = jnp.arange(batches)[:, None] * batch_size + rows
    weights = ((rows < batch_size) & (place < number)).astype(features.dtype)
    place = jnp.minimum(place, number - 1)
    step = functools.partial(train_step, apply, optimizer, loss, average_decay=average_decay, axis_name=axis_name)

    # The series is an argument and not a constant of the program: constants slow compilation down.
    def run(state: TrainState, features: Array, targets: Array, starts: Array, place: Array, weights: Array):
        if shuffle:
            starts = jax.random.permutation(jax.random.fold_in(state.key, state.epoch), starts)

        def body(state, batch):
            place, weight = batch
            first = starts[place]
            if every_step:
                target = take_windows(targets, first, window)
            else:
                target = targets[first + window - 1]
            inputs = take_windows(features, first, window)
            return step(state, Batch(inputs, target, weight))

        state, metrics = lax.scan(body, state, (place, weights))
        windows = weights.sum(axis=1)
        if axis_name is not None:
            windows = lax.psum(windows, axis_name)
        mean_loss = (metrics.loss * windows).sum() / windows.sum()
        return _next_epoch(state), StepMetrics(mean_loss, metrics.grad_norm.mean())

    arrays = (features, targets, starts, place, weights)
    if mesh is None:
        compiled = jax.jit(run, donate_argnums=0)
        return lambda state: compiled(state, *arrays)
    return _over_mesh(run, mesh, arrays)


def _over_mesh(run: Any, mesh: Mesh, arrays: tuple[Array, ...]) -> Epoch:
    """``run`` on every device of the mesh, each with its columns of the last two arrays and all of the others."""
    # A mesh of axes that the compiler manages, whichever kind was given: what comes out can then be used anywhere.
    mesh = Mesh(mesh.devices, mesh.axis_names)
    whole, columns = P(), P(None, mesh.axis_names[0])
    specs = (whole, whole, whole, columns, columns)
    shards = tuple(jax.device_put(array, NamedSharding(mesh, spec)) for array, spec in zip(arrays, specs))
    # No check of what varies over the mesh: the engine's own derivative does not say.
    mapped = jax.shard_map(run, mesh=mesh, in_specs=(whole, *specs), out_specs=whole, check_vma=False)
    compiled = jax.jit(mapped, donate_argnums=0)
    return lambda state: compiled(jax.device_put(state, NamedSharding(mesh, whole)), *shards)


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
) -> Epoch:
    """A stateful epoch as one program: consecutive windows in order, the carry handed from batch to batch.

    The carry returns to ``initial_carry`` when the epoch begins, and is detached at every border between
    batches. Afterwards ``state.carry`` is the carry at the end of the last window.

    Args:
      starts: ``[batches, batch]`` of :func:`jaxrnn.data.sequential_starts`.
      initial_carry: the model's first carry for that batch size.
      The others as in :func:`make_windowed_epoch`; the model forecasts at every step.
    """
    step = functools.partial(train_step, apply, optimizer, loss, average_decay=average_decay)

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state: TrainState, features: Array, targets: Array, starts: Array, initial_carry: Any):
        state = TrainState(**{**vars(state), "carry": initial_carry})
        ones = jnp.ones(starts.shape[1], features.dtype)

        def body(state, first):
            inputs, target = take_windows(features, first, window), take_windows(targets, first, window)
            return step(state, Batch(inputs, target, ones))

        state, metrics = lax.scan(body, state, starts)
        return _next_epoch(state), StepMetrics(metrics.loss.mean(), metrics.grad_norm.mean())

    return lambda state: run(state, features, targets, starts, initial_carry)


def _next_epoch(state: TrainState) -> TrainState:
    return TrainState(**{**vars(state), "epoch": state.epoch + 1})
