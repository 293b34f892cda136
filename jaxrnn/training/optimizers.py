"""Optimisers by name, behind gradient clipping, with a learning rate that can be read and set."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from jaxrnn.training.state import TrainState


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
    return float(_hyperparams(state)["learning_rate"])


def with_learning_rate(state: TrainState, learning_rate: float) -> TrainState:
    """The state with another learning rate, for an optimiser of :func:`make_optimizer` that was given a number.

    Raises:
      ValueError: the optimiser takes its rate from a schedule, which would replace it before the next step, or it
        was not made by :func:`make_optimizer`.
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
