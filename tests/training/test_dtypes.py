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


class Scaled(nnx.Module):
    """A model that keeps the scale of its inputs, and other things that are not learned, in variables."""

    def __init__(self, rngs: nnx.Rngs):
        self.layer = jaxrnn.SimpleRNN(1, 3, return_sequences=False, rngs=rngs)
        self.head = nnx.Linear(3, 1, rngs=rngs)
        self.scale = nnx.Variable(jnp.array(3.0, jnp.float32))
        self.places = nnx.Variable(jnp.arange(2))

    def __call__(self, inputs):
        return self.head(self.layer(inputs * self.scale[...]))


@pytest.mark.parametrize(
    "optimizer",
    [training.make_optimizer("adamw", 0.1, weight_decay=0.5), training.make_optimizer("sgd", 0.1, clip_norm=0.1)],
)
def test_only_parameters_are_learned(optimizer):
    apply, params = training.pure_apply(lambda: Scaled(nnx.Rngs(0)))
    step = training.make_train_step(apply, optimizer)
    batch = training.Batch(jnp.ones((4, 5, 1)), jnp.ones((4, 1)), jnp.ones(4))
    state = training.TrainState.create(params, optimizer, average=True)
    before = jax.tree.map(jax.typeof, state)
    state, metrics = step(state, batch)
    assert jax.tree.map(jax.typeof, state) == before
    found: Any = state.params
    assert found["scale"][...] == 3 and found["places"][...].tolist() == [0, 1]
    average: Any = state.average
    assert average["scale"][...] == 3 and average["places"][...].tolist() == [0, 1]
    assert not np.array_equal(found["head"]["kernel"][...], params["head"]["kernel"][...])

    def loss(kernel):  # the same gradient as of a model without these variables
        model = Scaled(nnx.Rngs(0))
        model.head.kernel[...] = kernel
        return training.huber(model(batch.inputs), batch.targets).mean()

    gradient = jax.grad(loss)(params["head"]["kernel"][...])
    assert float(jnp.linalg.norm(gradient)) <= float(metrics.grad_norm)


def test_arrays_of_a_model_that_are_no_variables_are_not_learned():
    class Shifted(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.head = nnx.Linear(1, 1, rngs=rngs)
            self.mean = jnp.array([3.0])

        def __call__(self, inputs):
            return self.head(inputs[:, -1] - self.mean)

    apply, params = training.pure_apply(Shifted(nnx.Rngs(0)))
    batch = training.Batch(jnp.ones((4, 5, 1)), jnp.ones((4, 1)), jnp.ones(4))
    state = training.TrainState.create(params, OPTIMIZER)
    state, _ = training.make_train_step(apply, OPTIMIZER)(state, batch)
    found: Any = state.params
    assert found["mean"].tolist() == [3]
    assert not np.array_equal(found["head"]["kernel"][...], params["head"]["kernel"][...])


def test_a_parameter_of_integers_is_named():
    def apply(params, inputs, carry):
        return None, inputs[:, 0] * params["many"]

    step = training.make_train_step(apply, OPTIMIZER)
    state = training.TrainState.create({"many": jnp.arange(1)}, OPTIMIZER)
    with pytest.raises(ValueError, match=r"\['many'\] of the parameters has the dtype int32"):
        step(state, training.Batch(jnp.ones((4, 5, 1)), jnp.ones((4, 1)), jnp.ones(4)))
