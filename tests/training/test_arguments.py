"""What would train on other numbers than were meant is refused before the first step."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import training
from jaxrnn.training.lr_range import _smoothed

SERIES = jnp.arange(20.0)[:, None]


def windowed(**changes: Any) -> Any:
    apply, _ = training.pure_apply(lambda: jaxrnn.RNNForecaster(hidden_features=2, rngs=nnx.Rngs(0)))
    arguments: dict[str, Any] = dict(features=SERIES, targets=SERIES[1:], starts=jnp.arange(15), window=5)
    options: dict[str, Any] = dict(batch_size=4, every_step=False)
    given = arguments | options | changes
    return training.make_windowed_epoch(apply, training.make_optimizer("sgd", 1e-3), training.huber, **given)


def sequential(**changes: Any) -> Any:
    apply, _ = training.pure_apply(lambda: jaxrnn.RNNForecaster(hidden_features=2, rngs=nnx.Rngs(0)))
    given: dict[str, Any] = dict(features=SERIES, targets=SERIES[1:], starts=jnp.array([[0], [5]]), window=5)
    return training.make_sequential_epoch(
        apply,
        training.make_optimizer("sgd", 1e-3),
        training.huber,
        **(given | {"initial_carry": jnp.zeros((1, 2))} | changes),  # pyright: ignore
    )


@pytest.mark.parametrize("make", [windowed, sequential])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 50}, "windows of 50 steps that start at 0 to .* do not fit"),
        ({"window": 2.5}, "window=2.5 must be an integer"),
        ({"targets": SERIES[1:8]}, "targets 7"),
        ({"targets": SERIES[1:, 0]}, r"targets have the shape \(19,\), not \[time, dims\]"),
        ({"starts": jnp.zeros((3, 0), jnp.int32)}, "starts must be a non-empty array of integers"),
        ({"starts": [0.5]}, "starts must be a non-empty array of integers"),
    ],
)
def test_windows_that_do_not_fit_are_refused(make, changes, message):
    make()
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_a_window_that_begins_before_the_series_is_refused():
    with pytest.raises(ValueError, match="start at -5 to 3"):
        windowed(starts=np.array([-5, 3]))
    with pytest.raises(ValueError, match=r"batch_size=1\.5 must be an integer"):
        windowed(batch_size=1.5)


def test_the_last_window_there_is_fits():
    assert windowed(starts=np.array([14])).steps == 1
    assert sequential(starts=np.array([[14]])).steps == 1


def test_starts_may_have_a_dtype_that_cannot_hold_the_last_step():
    series, losses = jnp.sin(jnp.arange(300.0))[:, None], []
    make = lambda: jaxrnn.RNNForecaster(hidden_features=2, rngs=nnx.Rngs(0))  # noqa: E731
    for dtype in (np.int32, np.uint8):
        epoch = windowed(features=series, targets=series[1:], starts=np.array([0, 250, 252], dtype))
        params = training.pure_apply(make)[1]
        state = training.TrainState.create(params, training.make_optimizer("sgd", 1e-3))
        losses.append(float(epoch(state)[1].loss))
    assert losses[0] == losses[1]


def test_a_loss_is_no_table():
    with pytest.raises(ValueError, match=r"predictions \(4, 1\) and targets \(4,\) differ in shape"):
        training.huber(jnp.zeros((4, 1)), jnp.zeros(4))


@pytest.mark.parametrize("number", [1, 3, 4, 5, 9])
def test_smoothed_losses_stand_where_the_losses_stood(number):
    losses = list(np.random.default_rng(number).normal(size=number))
    expected = [np.mean(losses[max(0, i - 2) : i + 3]) for i in range(number)]
    np.testing.assert_allclose(_smoothed(losses), expected)
    assert len(_smoothed(losses)) == number


@pytest.mark.parametrize(("lowest", "per_decade"), [(-1.0, 2), (float("nan"), 2), (0.0, 2), (1e-5, 0), (1e-5, -5)])
def test_a_ramp_of_rates_must_rise_from_above_zero(lowest, per_decade):
    with pytest.raises(ValueError, match="must be a positive number"):
        training.exponential_rates(lowest, 3, per_decade)


@pytest.mark.parametrize(
    ("options", "evaluate", "message"),
    [
        ({"checkpoints": "folder"}, lambda state: {"valid_loss": 1.0}, "must be a CheckpointStore, not 'folder'"),
        ({"save_every": float("nan")}, lambda state: {"valid_loss": 1.0}, "save_every=nan"),
        ({}, lambda state: {"mae": 1.0}, "monitor='valid_loss' in it, not {'mae': 1.0}"),
        ({}, lambda state: 1.0, "a dictionary"),
    ],
)
def test_fit_says_what_it_needs(options, evaluate, message):
    apply, params = training.pure_apply(lambda: jaxrnn.RNNForecaster(hidden_features=2, rngs=nnx.Rngs(0)))
    optimizer = training.make_optimizer("sgd", 1e-3)
    epoch = training.make_windowed_epoch(
        apply,
        optimizer,
        training.huber,
        SERIES,
        SERIES[1:],
        jnp.arange(15),
        window=5,
        batch_size=4,
        every_step=False,
    )
    run = training.Run.create(training.TrainState.create(params, optimizer))
    with pytest.raises(ValueError, match=message):
        training.fit(run, epoch, evaluate, epochs=1, **options)


@pytest.mark.parametrize("reduce", [jnp.mean, lambda losses: losses.mean(axis=0), lambda losses: losses[:3]])
def test_a_loss_that_is_not_elementwise_is_refused(reduce):
    apply, params = training.pure_apply(lambda: jaxrnn.RNNForecaster(hidden_features=2, rngs=nnx.Rngs(0)))
    optimizer = training.make_optimizer("sgd", 0.05)
    step = training.make_train_step(apply, optimizer, lambda a, b: reduce(training.huber(a, b)))
    batch = training.Batch(jnp.zeros((7, 4, 1)), jnp.zeros((7, 1)), jnp.ones(7))
    with pytest.raises(ValueError, match=r"must be elementwise: of predictions \(7, 1\) it returned the shape"):
        step(training.TrainState.create(params, optimizer), batch)


@pytest.mark.parametrize("carry", [None, ()])
def test_a_sequential_epoch_passes_a_carry_on(carry):
    with pytest.raises(ValueError, match=r"initial_carry must hold arrays with the 1 rows .* make_windowed_epoch"):
        sequential(initial_carry=carry)
