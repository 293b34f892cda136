"""One training step: the loss of a batch, its gradient, and the optimiser's update."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxrnn.ops.native import elementwise
from jaxrnn.training.apply import Apply, check_apply, held_leaves, with_key
from jaxrnn.training.optimizers import global_norm
from jaxrnn.training.state import Batch, StepMetrics, TrainState

Loss = Callable[[Array, Array], Array]
"""An elementwise function: ``(predictions, targets) -> losses``, all of one shape."""


def huber(predictions: Array, targets: Array) -> Array:
    """The Huber loss of each element: quadratic up to an error of 1 and linear beyond, which limits outliers.

    Source: Huber (1964), Robust estimation of a location parameter, doi:10.1214/aoms/1177703732.

    Raises:
      ValueError: predictions and targets have different shapes. Broadcasting would compare every prediction with
        every target.

    >>> huber(jnp.array([0.5, 3.0]), jnp.zeros(2)).tolist()
    [0.125, 2.5]
    """
    if jnp.shape(predictions) != jnp.shape(targets):
        raise ValueError(f"predictions {jnp.shape(predictions)} and targets {jnp.shape(targets)} differ in shape")
    return optax.losses.huber_loss(predictions, targets)


_DROPOUT = 0xD0
"""What divides the keys of a model from those that shuffle its windows."""


def train_step(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    state: TrainState,
    batch: Batch,
    *,
    average_decay: float = 0.99,
    skip_non_finite: bool = True,
    axis_name: str | None = None,
) -> tuple[TrainState, StepMetrics]:
    """Take one optimiser step on one batch. Not compiled; :func:`make_train_step` compiles it.

    A stateful model gets ``state.carry``, and the new state holds the carry after the batch. No gradient flows
    into the batch before: this is backpropagation through time, truncated to the windows of one batch. What is
    random in a model, such as dropout, depends on ``state.key`` and ``state.step`` only, and over a mesh on the
    device.

    If the loss, the gradient or the new carry is not finite, the step is skipped: parameters, optimiser state,
    average and carry keep their values. ``state.skipped_in_a_row`` counts the skipped steps, and the metrics show
    the values that were not finite.

    Args:
      apply: the model, as :func:`jaxrnn.training.pure_apply` returns it.
      optimizer: an Optax optimiser, the one that ``state.opt_state`` belongs to.
      loss: elementwise, such as :func:`huber`. A row's loss is the mean over its steps and features; the batch's
        loss is the mean of its rows, weighted by ``batch.weights``.
      state: the train state. If it holds an average of the parameters, the average moves towards them.
      batch: inputs, targets and row weights.
      average_decay: how much of the average each step keeps; less in the first steps. Source: Polyak and Juditsky
        (1992), doi:10.1137/0330046.
      skip_non_finite: False takes every step, whatever its values.
      axis_name: within ``jax.shard_map``, the mesh axis over whose devices the batch's rows are spread. Each
        device computes the gradient of its own rows, and all take the same step with the sum.

    Returns:
      The next state, and the batch's loss and gradient norm.

    Raises:
      ValueError: the loss is not elementwise.
    """
    found = gradient_of(apply, loss, state, batch, axis_name=axis_name)
    return take_step(optimizer, state, found, average_decay=average_decay, skip_non_finite=skip_non_finite)


class Gradient(NamedTuple):
    """What a batch gives a training step.

    Attributes:
      loss: of the batch.
      grads: the gradient of the loss, with the structure of the parameters.
      carry: after the batch; None if the state has none.
      bad_carries: how many leaves of the carry have values that are not finite.
    """

    loss: Array
    grads: Any
    carry: Any
    bad_carries: Array


def gradient_of(
    apply: Apply, loss: Loss, state: TrainState, batch: Batch, *, axis_name: str | None = None
) -> Gradient:
    """The first half of :func:`train_step`: all that depends on the shapes of the batch."""
    carry_in = lax.stop_gradient(state.carry)
    key = jax.random.fold_in(jax.random.fold_in(state.key, _DROPOUT), state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, lax.axis_index(axis_name))
    apply = with_key(apply, key)
    total_weight = batch.weights.sum()
    if axis_name is not None:
        total_weight = lax.psum(total_weight, axis_name)

    leaves, treedef = jax.tree.flatten(state.params)
    held = held_leaves(state.params)

    def objective(learned: list[Array]) -> tuple[Array, Any]:
        given = iter(learned)
        params = jax.tree.unflatten(treedef, [x if fixed else next(given) for x, fixed in zip(leaves, held)])
        carry, predictions = apply(params, batch.inputs, carry_in)
        losses = loss(predictions, batch.targets)
        rows = batch.weights.shape[0]
        if jnp.shape(losses)[:1] != (rows,):
            raise ValueError(
                f"the loss must be elementwise: of predictions {jnp.shape(predictions)} it returned the shape "
                f"{jnp.shape(losses)}, which has no loss for each of the {rows} rows. Leave its mean or sum out"
            )
        per_row = losses.reshape(losses.shape[0], -1).mean(axis=1)
        return (per_row * batch.weights).sum() / total_weight, carry

    learned = [leaf for leaf, fixed in zip(leaves, held) if not fixed]
    (value, carry), found = jax.value_and_grad(objective, has_aux=True)(learned)
    given = iter(found)
    grads = [jnp.zeros_like(leaf) if fixed else next(given) for leaf, fixed in zip(leaves, held)]
    grads = jax.tree.unflatten(treedef, grads)
    carry = None if state.carry is None else carry
    bad_carries = _count_not_finite(carry)
    if axis_name is not None:
        value, grads, bad_carries = lax.psum((value, grads, bad_carries), axis_name)
    return Gradient(value, grads, carry, bad_carries)


def take_step(
    optimizer: optax.GradientTransformation,
    state: TrainState,
    found: Gradient,
    *,
    average_decay: float,
    skip_non_finite: bool,
) -> tuple[TrainState, StepMetrics]:
    """The second half of :func:`train_step`: the optimiser's step, or none if the gradient is not finite."""
    value, grads, carry, bad_carries = found
    grad_norm = global_norm(grads)
    fine = None
    if skip_non_finite:
        fine = jnp.isfinite(value) & jnp.isfinite(grad_norm) & (bad_carries == 0)

    def advance(old: _Stepped, grads: Any, carry: Any, value: Array, step: Array, fine: Any) -> _Stepped:
        # Some optimisers look at the loss, such as optax.contrib.reduce_on_plateau.
        with_loss = optax.with_extra_args_support(optimizer)
        updates, opt_state = with_loss.update(grads, old.opt_state, old.params, value=value)
        params, average = optax.apply_updates(old.params, updates), old.average
        if average is not None:
            decay = jnp.minimum(average_decay, (1 + step) / (10 + step))
            average = jax.tree.map(lambda a, p: (decay * a + (1 - decay) * p).astype(a.dtype), average, params)
        if any(held := held_leaves(old.params)):
            opt_state = _of_types(old.opt_state, opt_state)
            params, average = _kept(held, old.params, params), _kept(held, old.average, average)
        new = _Stepped(params, opt_state, carry, average)
        if fine is not None:
            # Multiplying by zero would not remove a NaN, so choose.
            new = jax.tree.map(lambda new, old: jnp.where(fine, new, old), new, old)
        return new

    old = _Stepped(state.params, state.opt_state, lax.stop_gradient(state.carry), state.average)
    new = elementwise.replace(advance, old, grads, carry, value, state.step, fine)
    skipped = jnp.zeros_like(state.skipped_in_a_row)
    if fine is not None:
        skipped = jnp.where(fine, 0, state.skipped_in_a_row + 1)
    new_state = state.replace(step=state.step + 1, skipped_in_a_row=skipped, **new._asdict())
    return new_state, StepMetrics(value, grad_norm)


class _Stepped(NamedTuple):
    """What an optimiser's step replaces."""

    params: Any
    opt_state: Any
    carry: Any
    average: Any


def _kept(held: list[bool], old: Any, new: Any) -> Any:
    """The new parameters, but the old values of what is not learned: weight decay would change it too."""
    leaves, treedef = jax.tree.flatten(old)
    of_each = zip(leaves, jax.tree.leaves(new), held)
    return jax.tree.unflatten(treedef, [o if fixed else n for o, n, fixed in of_each])


def _of_types(old: Any, new: Any) -> Any:
    """Optimisers keep means of gradients, which are no integers, also for integers that are not learned."""
    return jax.tree.map(lambda o, n: n if o.dtype == n.dtype else n.astype(o.dtype), old, new)


def _count_not_finite(carry: Any) -> Array:
    """How many leaves of a carry have values that are not finite; in float32, to be summed with the gradients."""
    bad = [~jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(carry) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return sum((b.astype(jnp.float32) for b in bad), jnp.zeros((), jnp.float32))


def make_train_step(
    apply: Apply, optimizer: optax.GradientTransformation, loss: Loss = huber
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """Compile :func:`train_step`. The state that is passed in is donated: use only the returned one.

    >>> from flax import nnx
    >>> from jaxrnn import RNNForecaster, training
    >>> apply, params = training.pure_apply(lambda: RNNForecaster(hidden_features=4, rngs=nnx.Rngs(0)))
    >>> optimizer = training.make_optimizer("sgd", 0.1)
    >>> step = make_train_step(apply, optimizer)
    >>> batch = Batch(jnp.ones((8, 20, 1)), jnp.ones((8, 1)), jnp.ones(8))
    >>> state, metrics = step(TrainState.create(params, optimizer), batch)
    >>> int(state.step), metrics.loss.shape
    (1, ())
    """
    check_apply(apply)
    return jax.jit(functools.partial(train_step, apply, optimizer, loss), donate_argnums=0)
