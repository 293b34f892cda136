"""Optimisers: their learning rates, what they may look at, and what is refused."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.training import (
    Batch,
    TrainState,
    learning_rate_of,
    make_optimizer,
    make_train_step,
    pure_apply,
    with_learning_rate,
)


def test_the_learning_rate_can_be_read_and_set():
    optimizer = make_optimizer("adam", 0.5)
    state = with_learning_rate(TrainState.create({"w": jnp.ones(2)}, optimizer), 0.125)
    assert learning_rate_of(state) == 0.125


def test_a_rate_is_not_set_where_a_schedule_would_replace_it():
    optimizer = make_optimizer("sgd", optax.cosine_decay_schedule(0.5, 10))
    state = TrainState.create({"w": jnp.ones(2)}, optimizer)
    assert learning_rate_of(state) == 0.5
    with pytest.raises(ValueError, match=r"from a schedule, which would replace learning_rate=0\.125"):
        with_learning_rate(state, 0.125)


def test_a_rate_is_not_read_or_set_where_there_is_none():
    state = TrainState.create({"w": jnp.ones(2)}, optax.adam(0.1))
    for call in (learning_rate_of, functools.partial(with_learning_rate, learning_rate=0.1)):
        with pytest.raises(ValueError, match=r"state is a tuple without .* jaxrnn\.training\.make_optimizer"):
            call(state)


@pytest.mark.parametrize(
    ("name", "rate", "clip", "message"),
    [
        ("sdg", 0.1, None, "unknown optimizer 'sdg'; available: sgd, adam"),
        ("sgd", 0.0, None, "learning_rate must be a positive number, not 0.0"),
        ("sgd", float("nan"), None, "must be a positive number, not nan"),
        ("adam", "1e-3", None, "learning_rate must be a positive number, not '1e-3'"),
        ("sgd", 0.1, -1.0, "clip_norm must be a positive number, or None for no clipping, not -1.0"),
    ],
)
def test_a_wrong_optimizer_is_an_error(name, rate, clip, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(name, rate, clip_norm=clip)


def test_an_optimizer_may_look_at_the_loss():
    optimizer = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(factor=0.5, patience=1, cooldown=0))
    apply, params = pure_apply(lambda: jaxrnn.RNNForecaster(hidden_features=3, rngs=nnx.Rngs(0)))
    step = make_train_step(apply, optimizer)
    state = TrainState.create(params, optimizer)
    batch = Batch(jnp.ones((1, 5, 1)), jnp.full((1, 1), 1e6), jnp.ones(1))  # cannot be reached
    for _ in range(4):
        state, metrics = step(state, batch)
    plateau: Any = state.opt_state
    assert float(plateau[1].best_value) <= float(metrics.loss) * 1.01 and np.isfinite(metrics.loss)
