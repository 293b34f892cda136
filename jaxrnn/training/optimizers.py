"""Optimisers by name, with gradient clipping and a learning rate that can be read and set."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from jaxrnn import checks
from jaxrnn.ops.dispatch import exported_programs, platform_of
from jaxrnn.ops.native import norm as native
from jaxrnn.ops.native.library import available
from jaxrnn.ops.step import widen
from jaxrnn.training.state import TrainState


def make_optimizer(
    name: str, learning_rate: optax.ScalarOrSchedule, *, clip_norm: float | None = None, **options: Any
) -> optax.GradientTransformation:
    """Make an Optax optimiser with gradient clipping, whose state holds the learning rate to read or set.

    Args:
      name: ``"sgd"`` (with momentum 0.9 by default), ``"adam"``, ``"adamw"``, ``"rmsprop"`` or ``"nadam"``.
      learning_rate: a number, or an Optax schedule over steps.
      clip_norm: scale gradients with a larger global norm down to this norm; None does not clip.
      options: further arguments of the optimiser, such as ``momentum`` or ``weight_decay``.

    Raises:
      ValueError: the name is unknown, or a rate or norm is not positive.

    Source of the clipping: Pascanu, Mikolov, Bengio (2013), On the difficulty of training recurrent neural
    networks, arXiv:1211.5063.

    >>> make_optimizer("adamw", optax.cosine_decay_schedule(1e-3, 1000), clip_norm=1.0, weight_decay=1e-4).init(
    ...     jnp.zeros(2)).hyperparams["learning_rate"].item()
    0.0010000000474974513
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; available: {', '.join(OPTIMIZERS)}")
    if not callable(learning_rate):
        checks.positive_number("learning_rate", learning_rate)
        if isinstance(learning_rate, (int, np.integer)):  # kept as an integer, it could not be set to 0.5
            learning_rate = float(learning_rate)
    if clip_norm is not None:
        checks.positive_number("clip_norm", clip_norm, "a positive number, or None for no clipping")

    def chain(learning_rate: Any) -> optax.GradientTransformation:
        optimizer = OPTIMIZERS[name](learning_rate, **options)
        return optimizer if clip_norm is None else optax.chain(_clip_by_global_norm(clip_norm), optimizer)

    return optax.inject_hyperparams(chain)(learning_rate=learning_rate)


def global_norm(tree: Any) -> Array:
    """The square root of the sum of all squares, even if that sum overflows.

    The largest float32 is 3e38, so the squares of gradients above 2e19 overflow.

    >>> f"{global_norm({'kernel': jnp.array([3e20]), 'bias': jnp.array([4e20])}):.3g}"
    '5e+20'
    """
    tree = widen(tree)  # the sum of many squares overflows in float16, and stops growing in bfloat16
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.size]
    if _in_library(leaves):
        return native.norm(leaves)
    norm = optax.tree.norm(tree)
    if not leaves:
        return norm

    def scaled() -> Array:
        # As one vector: this is hardly ever run, but compiled with every training step.
        values = jnp.concatenate([jnp.abs(leaf).astype(norm.dtype).ravel() for leaf in leaves])
        largest = values.max()
        return largest * jnp.linalg.norm(values / largest)

    return lax.cond(jnp.isfinite(norm), lambda: norm, scaled)


def _in_library(arrays: list[Array]) -> bool:
    """Whether the C++ library takes their norm: at least one array, all real and of one dtype, on a CPU."""
    types = {array.dtype for array in arrays}
    known = len(types) == 1 and types <= {jnp.dtype("float32"), jnp.dtype("float64")}
    return known and platform_of(arrays) == "cpu" and not exported_programs.value and available()


def _clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """``optax.clip_by_global_norm`` with :func:`global_norm`; Optax's turns very large gradients into zeros."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        norm = global_norm(updates)
        short = norm < max_norm

        def clipped(u: Array) -> Array:
            if not jnp.issubdtype(u.dtype, jnp.inexact):  # the zeros of integers, which are not learned
                return u
            return lax.select(short, u, ((u / norm) * max_norm).astype(u.dtype))

        return jax.tree.map(clipped, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": functools.partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
    "adamw": optax.adamw,
    "rmsprop": optax.rmsprop,
    "nadam": optax.nadam,
}
"""The optimisers that scripts and configurations may name."""


def learning_rate_of(state: TrainState) -> float:
    """The learning rate of the last step, for an optimiser made by :func:`make_optimizer`.

    Raises:
      ValueError: the optimiser was not made by :func:`make_optimizer`.
    """
    return float(_hyperparams(state)["learning_rate"])


def with_learning_rate(state: TrainState, learning_rate: float) -> TrainState:
    """The state with another learning rate, for an optimiser that :func:`make_optimizer` made with a number.

    Raises:
      ValueError: the optimiser takes its rate from a schedule, which would replace it before the next step, or it
        was not made by :func:`make_optimizer`.

    >>> state = TrainState.create(jnp.zeros(2), make_optimizer("sgd", 0.5))
    >>> learning_rate_of(with_learning_rate(state, 0.25))
    0.25
    """
    opt_state: Any = state.opt_state
    hyperparams = _hyperparams(state)
    if "learning_rate" in opt_state.hyperparams_states:
        raise ValueError(
            f"the optimizer takes its learning rate from a schedule, which would replace {learning_rate=} before "
            f"the next step: make the optimizer with a number, make_optimizer(name, {learning_rate})"
        )
    rate = jnp.asarray(learning_rate, hyperparams["learning_rate"].dtype)
    return state.replace(opt_state=opt_state._replace(hyperparams={**hyperparams, "learning_rate": rate}))


def _hyperparams(state: TrainState) -> dict[str, Any]:
    hyperparams = getattr(state.opt_state, "hyperparams", {})
    if "learning_rate" not in hyperparams:
        raise ValueError(
            f"the optimizer's state is a {type(state.opt_state).__name__} without a learning rate to read "
            f"or set: make the optimizer with jaxrnn.training.make_optimizer"
        )
    return hyperparams
