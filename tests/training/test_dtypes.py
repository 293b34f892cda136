"""Trainings of other dtypes than float32, whose states keep their dtypes, so that they can be resumed."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import training
from jaxrnn.data import bucket_by_length
from jaxrnn.training.optimizers import global_norm

OPTIMIZER = training.make_optimizer("sgd", 0.1)


def windowed(apply, series, **options):
    sizes: Any = {"window": 5, "every_step": False, "shuffle": False, **options}
    starts = jnp.arange(len(series) - 6)
    return training.make_windowed_epoch(apply, OPTIMIZER, training.huber, series, series[1:], starts, **sizes)


def of_dtype(dtype):
    return training.pure_apply(lambda: jaxrnn.RNNForecaster(1, 4, param_dtype=dtype, rngs=nnx.Rngs(0)))


def test_an_average_of_bfloat16_is_wide_and_follows_to_the_end():
    apply, params = of_dtype(jnp.bfloat16)
    state = training.TrainState.create(params, OPTIMIZER, average=True)
    before = jax.tree.map(jax.typeof, state)
    series = jnp.sin(jnp.arange(30.0) / 3)[:, None]
    state, metrics = windowed(apply, series, batch_size=8)(state)
    assert jax.tree.map(jax.typeof, state) == before and np.isfinite(metrics.loss)
    average, learned = jax.tree.leaves(state.average), jax.tree.leaves(state.params)
    assert any(not np.array_equal(a, p) for a, p in zip(average, learned))
    assert jax.tree.map(jax.typeof, state.best_guess) == jax.tree.map(jax.typeof, params)
    state = training.TrainState.create(jnp.ones((), jnp.bfloat16), OPTIMIZER, average=True)
    state = state.replace(params=jnp.asarray(1.203, jnp.bfloat16))
    step = training.make_train_step(lambda params, x, carry: (carry, x + 0 * params), OPTIMIZER)
    for _ in range(1000):  # every one moves the average by a hundredth of what is missing
        state, _ = step(state, training.Batch(jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.ones(1)))
    assert state.best_guess == state.params == jnp.asarray(1.203, jnp.bfloat16)


def test_many_rows_of_bfloat16_are_all_counted():
    features = jnp.sin(jnp.arange(270.0))[:, None]
    apply, params = training.pure_apply(
        lambda: jaxrnn.RNNForecaster(1, 4, return_sequences=True, rngs=nnx.Rngs(0))
    )
    losses = []
    for dtype in (jnp.float32, jnp.bfloat16):
        _, expected = apply(params, features.astype(dtype)[np.arange(259)[:, None] + np.arange(5)], None)
        carry = jax.tree.map(jnp.zeros_like, apply(params, jnp.zeros((259, 1, 1), dtype), None)[0])
        epoch = training.make_sequential_epoch(
            apply,
            OPTIMIZER,
            training.huber,
            *(features.astype(dtype), features[1:], jnp.arange(259)[None]),
            window=5,
            initial_carry=carry,
        )
        _, metrics = epoch(training.TrainState.create(params, OPTIMIZER, carry=carry))
        targets = features[1:][np.arange(259)[:, None] + np.arange(5)]
        wanted = np.asarray(training.huber(expected.astype(jnp.float32), targets), np.float64).mean()
        losses.append((float(metrics.loss), wanted))
    np.testing.assert_allclose(*zip(*losses), rtol=1e-4)


def test_the_norm_of_many_half_precision_gradients_is_finite_and_clips():
    gradients = {"kernel": jnp.ones(100_000, jnp.float16), "bias": jnp.full(4, 2.0, jnp.float16)}
    assert float(global_norm(gradients)) == pytest.approx(math.sqrt(100_016), rel=1e-6)
    optimizer = training.make_optimizer("sgd", 1.0, clip_norm=1.0, momentum=0.0)
    clipped: Any = optimizer.update(gradients, optimizer.init(gradients), gradients)[0]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(clipped)} == {"float16"}
    np.testing.assert_allclose(clipped["kernel"][0], -1 / math.sqrt(100_016), rtol=2e-3)


@pytest.mark.parametrize("param_dtype", ["float32", "float64"])
def test_float64_is_trained_and_keeps_its_dtypes(param_dtype):
    with jax.enable_x64(True):
        apply, params = of_dtype(param_dtype)
        state = training.TrainState.create(params, OPTIMIZER)
        before = jax.tree.map(jax.typeof, state)
        series = jnp.asarray(np.sin(np.arange(30) / 3)[:, None])
        assert series.dtype == jnp.float64
        epoch = windowed(apply, series, batch_size=24)
        _, expected = training.make_train_step(apply, OPTIMIZER)(
            training.TrainState.create(params, OPTIMIZER),
            training.Batch(series[np.arange(24)[:, None] + np.arange(5)], series[5:29], jnp.ones(24)),
        )
        state, metrics = epoch(state)
        assert jax.tree.map(jax.typeof, state) == before
        np.testing.assert_allclose(metrics.loss, expected.loss, rtol=1e-6)


def test_float64_sequences_of_many_lengths_keep_the_dtypes_of_the_state():
    with jax.enable_x64(True):
        sequences = [np.full((n, 1), 0.1 * n) for n in (2, 3, 5, 5)]

        def make():
            return jaxrnn.SequenceClassifier(1, 3, num_classes=2, param_dtype="float64", rngs=nnx.Rngs(0))

        apply, params = training.pure_apply(make)
        buckets = bucket_by_length(sequences, batch_size=2)
        loss = training.cross_entropy()
        epoch = training.make_bucketed_epoch(apply, OPTIMIZER, loss, buckets, np.array([0, 0, 1, 1]))
        state = training.TrainState.create(params, OPTIMIZER)
        before = jax.tree.map(jax.typeof, state)
        state, metrics = epoch(state)
        assert jax.tree.map(jax.typeof, state) == before and np.isfinite(metrics.loss)


def test_rows_of_bfloat16_are_counted_exactly():
    series = jnp.ones((265, 1), jnp.bfloat16)  # 259 windows, and bfloat16 has no 259
    apply, params = of_dtype(jnp.bfloat16)
    state, _ = windowed(apply, series, batch_size=259)(training.TrainState.create(params, OPTIMIZER))
    assert float(state.totals.weight) == 259


def test_a_rate_given_as_an_integer_can_be_set_to_any_number():
    state = training.TrainState.create(jnp.zeros(2), training.make_optimizer("sgd", 1))
    assert training.learning_rate_of(state) == 1
    assert training.learning_rate_of(training.with_learning_rate(state, 0.5)) == 0.5
