"""Which models can be trained, what is said of those that cannot, and the way back from parameters to a model."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import training
from jaxrnn.training.apply import model_with

SERIES = jnp.sin(jnp.arange(40.0) / 3)[:, None]


class Plain(nnx.Module):
    """A module of somebody else's, without a carry."""

    def __init__(self, rngs: nnx.Rngs):
        self.linear = nnx.Linear(1, 1, rngs=rngs)

    def __call__(self, inputs):
        return self.linear(inputs)


class Wrapper(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.model = jaxrnn.RNNForecaster(hidden_features=3, rngs=rngs)

    def __call__(self, inputs, **options):
        return self.model(inputs, **options)


class TwoInputs(Plain):
    def __call__(self, inputs, other):  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.linear(inputs) + other


def sequential() -> nnx.Sequential:
    return nnx.Sequential(nnx.Linear(1, 3, rngs=nnx.Rngs(0)), jnp.tanh, nnx.Linear(3, 1, rngs=nnx.Rngs(1)))


def windowed(apply: Any) -> training.SteppedEpoch:
    return training.make_windowed_epoch(
        apply,
        training.make_optimizer("adam", 0.02),
        training.huber,
        SERIES,
        SERIES[1:],
        jnp.arange(30),
        window=5,
        batch_size=10,
        every_step=True,
    )


@pytest.mark.parametrize("make", [lambda: Plain(nnx.Rngs(0)), sequential])
@pytest.mark.parametrize("made", [False, True])
def test_a_plain_module_is_trained_where_no_carry_is_needed(make, made):
    apply, params = training.pure_apply(make() if made else make)
    state = training.TrainState.create(params, training.make_optimizer("adam", 0.02))
    epoch = windowed(apply)
    first = loss = math.inf
    for number in range(60):
        state, metrics = epoch(state)
        loss = float(metrics.loss)
        first = loss if number == 0 else first
    inputs = np.concatenate([SERIES[:-1], np.ones((39, 1))], axis=1)
    best_linear = 0.5 * np.linalg.lstsq(inputs, SERIES[1:])[1].item() / 39
    assert loss < min(first, 1.05 * best_linear)


def test_a_plain_module_is_refused_where_a_carry_is_needed():
    apply, params = training.pure_apply(Plain(nnx.Rngs(0)))
    message = r"Plain takes no carry, but .* model\(inputs, initial_carry=carry, return_carry=True\)"
    with pytest.raises(ValueError, match=message):
        training.make_sequential_epoch(
            apply,
            training.make_optimizer("sgd", 0.1),
            training.huber,
            SERIES,
            SERIES[1:],
            jnp.array([[0], [5]]),
            window=5,
            initial_carry=jnp.zeros((1, 2)),
        )
    with pytest.raises(ValueError, match=message):
        apply(params, SERIES[None], jnp.zeros((1, 2)))


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TwoInputs(nnx.Rngs(0)), r"TwoInputs cannot be trained: a model is called as model\(inputs\)"),
        (lambda: jaxrnn.GRUCell(1, 2, rngs=nnx.Rngs(0)), r"GRUCell cannot be trained.*jaxrnn\.RNN\(cell\)"),
    ],
)
def test_a_module_of_another_interface_is_refused_at_once(make, message, made):
    with pytest.raises(ValueError, match=message):
        training.pure_apply(make() if made else make)


@pytest.mark.parametrize("made", [False, True])
def test_running_statistics_are_refused_by_name(made):
    make = lambda: nnx.Sequential(nnx.Linear(1, 2, rngs=nnx.Rngs(0)), nnx.BatchNorm(2, rngs=nnx.Rngs(0)))  # noqa: E731
    with pytest.raises(ValueError, match=r"statistics \(layers\.1\.mean, layers\.1\.var\), .* nnx\.LayerNorm"):
        training.pure_apply(make() if made else make)


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match=r"must be an nnx\.Module or a function that makes one, not 3"):
        training.pure_apply(3)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("apply", [Plain(nnx.Rngs(0)), None, lambda inputs: inputs])
def test_an_epoch_says_that_it_needs_a_function_of_parameters(apply):
    with pytest.raises(ValueError, match=r"\(params, inputs, carry\) -> .* not .*pure_apply\(model\)"):
        windowed(apply)
    with pytest.raises(ValueError, match=r"pure_apply\(model\)"):
        training.make_train_step(apply, training.make_optimizer("sgd", 0.1))


def test_a_function_of_ones_own_gets_a_key_for_its_dropout():
    def noisy(params, inputs, carry, *, key=None):
        return carry, params * inputs + (0 if key is None else jax.random.normal(key, inputs.shape))

    optimizer = training.make_optimizer("sgd", 1e-12)  # of which a parameter of 1 does not change
    batch = training.Batch(SERIES[None, :9], SERIES[None, 1:10], jnp.ones(1))

    def losses(apply: Any) -> list[float]:
        step, state = (
            training.make_train_step(apply, optimizer),
            training.TrainState.create(jnp.ones(1), optimizer),
        )
        found = []
        for _ in range(2):
            state, metrics = step(state, batch)
            found.append(float(metrics.loss))
        return found

    def noisy_by_place(params, inputs, carry, key=None):
        return noisy(params, inputs, carry, key=key)

    first, second = losses(noisy)
    assert losses(noisy_by_place) == [first, second]
    assert first != second  # another key at each step
    assert losses(noisy) == [first, second]
    bound = losses(partial(noisy, key=jax.random.key(0)))  # a key that is given stays
    assert bound[0] == bound[1] != first


def test_keyword_arguments_that_a_wrapper_passes_on_reach_the_model():
    apply, params = training.pure_apply(lambda: Wrapper(nnx.Rngs(0)))
    carry, first = apply(params, SERIES[None, :5], None)
    _, second = apply(params, SERIES[None, 5:9], carry)
    _, whole = apply(params, SERIES[None, :9], None)
    assert first.shape == (1, 1)
    np.testing.assert_allclose(second, whole, rtol=1e-6)


def test_a_model_with_other_parameters():
    make = lambda: jaxrnn.RNNForecaster(hidden_features=3, rngs=nnx.Rngs(0))  # noqa: E731
    apply, params = training.pure_apply(lambda: jaxrnn.RNNForecaster(hidden_features=3, rngs=nnx.Rngs(7)))
    expected = apply(params, SERIES[None], None)[1]
    for source in (make, make()):
        assert (model_with(source, params)(SERIES[None]) == expected).all()
    with pytest.raises(ValueError, match="do not fit the model, which has"):
        model_with(lambda: jaxrnn.RNNForecaster(hidden_features=4, rngs=nnx.Rngs(0)), params)
