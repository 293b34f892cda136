"""Trainings of other dtypes than float32, whose states keep their dtypes, so that they can be resumed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import training
from jaxrnn.data import bucket_by_length

OPTIMIZER = training.make_optimizer("sgd", 0.1)


def windowed(apply, series, **options):
    sizes: Any = {"window": 5, "every_step": False, "shuffle": False, **options}
    starts = jnp.arange(len(series) - 6)
    return training.make_windowed_epoch(apply, OPTIMIZER, training.huber, series, series[1:], starts, **sizes)


def of_dtype(dtype):
    return training.pure_apply(lambda: jaxrnn.RNNForecaster(1, 4, param_dtype=dtype, rngs=nnx.Rngs(0)))


def test_an_average_of_bfloat16_stays_bfloat16():
    apply, params = of_dtype(jnp.bfloat16)
    state = training.TrainState.create(params, OPTIMIZER, average=True)
    before = jax.tree.map(jax.typeof, state)
    series = jnp.sin(jnp.arange(30.0) / 3)[:, None]
    state, metrics = windowed(apply, series, batch_size=8)(state)
    assert jax.tree.map(jax.typeof, state) == before and np.isfinite(metrics.loss)
    average, learned = jax.tree.leaves(state.average), jax.tree.leaves(state.params)
    assert any(not np.array_equal(a, p) for a, p in zip(average, learned))


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
