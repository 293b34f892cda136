"""One training step: the loss of a batch, its gradient, and the optimiser's update."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxrnn.training.apply import Apply, check_apply
from jaxrnn.training.optimizers import global_norm
from jaxrnn.training.state import Batch, StepMetrics, TrainState

Loss = Callable[[Array, Array], Array]
"""Elementwise: ``(predictions, targets) -> losses`` of the same shape."""


def huber(predictions: Array, targets: Array) -> Array:
    """Quadratic up to an error of 1, linear beyond, so that outliers do not rule (Huber 1964).

    Raises:
      ValueError: predictions and targets have different shapes, which NumPy's rules could make a table of.
    """
    if jnp.shape(predictions) != jnp.shape(targets):
        raise ValueError(f"predictions {jnp.shape(predictions)} and targets {jnp.shape(targets)} differ in shape")
    return optax.losses.huber_loss(predictions, targets)


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
    """One step of gradient descent. A stateful model's carry goes in detached and comes out.

    Detached: gradients do not reach back into the batch before. That is backpropagation through time
    truncated to the length of one batch's windows.

    Where the state has an average of the parameters, it moves towards them by ``1 - average_decay``, faster
    in the first steps (Polyak and Juditsky 1992, doi:10.1137/0330046).

    Where the loss, the gradient or the new carry is not finite, the step is skipped: parameters, optimiser state,
    average and carry stay as they were, so that the next batch trains as if this one had not been.
    ``state.skipped_in_a_row`` counts, and the metrics show what was not finite. ``skip_non_finite=False`` takes
    every step.

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
    carry = None if state.carry is None else carry
    bad_carries = _count_not_finite(carry)
    if axis_name is not None:
        value, grads, bad_carries = lax.psum((value, grads, bad_carries), axis_name)
    grad_norm = global_norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if average is not None:
        decay = jnp.minimum(average_decay, (1 + state.step) / (10 + state.step))
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
    skipped = state.skipped_in_a_row
    if skip_non_finite:
        fine = jnp.isfinite(value) & jnp.isfinite(grad_norm) & (bad_carries == 0)
        old = (state.params, state.opt_state, carry_in, state.average)
        # A select and not a product: zero times NaN is NaN.
        params, opt_state, carry, average = jax.tree.map(
            lambda new, old: jnp.where(fine, new, old), (params, opt_state, carry, average), old
        )
        skipped = jnp.where(fine, 0, skipped + 1)
    new_state = state.replace(
        params=params,
        opt_state=opt_state,
        step=state.step + 1,
        skipped_in_a_row=skipped,
        carry=carry,
        average=average,
    )
    return new_state, StepMetrics(value, grad_norm)


def _count_not_finite(carry: Any) -> Array:
    """How many leaves of a carry hold something that is not finite, as float32 to be summed with the gradients."""
    bad = [~jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(carry) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return sum((b.astype(jnp.float32) for b in bad), jnp.zeros((), jnp.float32))


def make_train_step(
    apply: Apply, optimizer: optax.GradientTransformation, loss: Loss = huber
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """A compiled :func:`train_step`. The state passed in is donated: use only the one that comes out."""
    check_apply(apply)
    return jax.jit(functools.partial(train_step, apply, optimizer, loss), donate_argnums=0)
