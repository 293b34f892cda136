"""Train steps and epochs against the same arithmetic written out by hand, one batch after another."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import data
from jaxrnn.training import (
    Batch,
    TrainState,
    huber,
    make_optimizer,
    make_sequential_epoch,
    make_train_step,
    make_windowed_epoch,
    pure_apply,
    train_step,
)

ROOT = Path(__file__).parents[2]
WINDOW = 5
SERIES = jnp.asarray(np.sin(np.arange(60) / 3)[:, None] + np.arange(60)[:, None] / 50, jnp.float32)
FEATURES, TARGETS = SERIES, jnp.concatenate([SERIES[1:], jnp.zeros((1, 1))])


def model(every_step: bool = False) -> jaxrnn.RNNForecaster:
    return jaxrnn.RNNForecaster(hidden_features=(4, 3), return_sequences=every_step, rngs=nnx.Rngs(0))


def assert_trees_close(a, b, tolerance=1e-6):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), a, b)


def by_hand(apply, params, optimizer, batches, carry=None):
    """Gradient descent on a list of (inputs, targets): parameters, losses, and the carry at the end."""
    opt_state, losses = optimizer.init(params), []

    @jax.jit
    def step(params, opt_state, carry, inputs, targets):
        def loss(p):
            carry_out, predictions = apply(p, inputs, carry)
            return huber(predictions, targets).mean(), carry_out

        (value, carry_out), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, carry_out, value

    for inputs, targets in batches:
        params, opt_state, carry_out, value = step(params, opt_state, carry, inputs, targets)
        carry = None if carry is None else carry_out
        losses.append(float(value))
    return params, losses, carry


@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("batch_size", [8, 55, 200])
def test_a_windowed_epoch_equals_its_batches_one_by_one(every_step, batch_size):
    """Also with a last batch that is not full: its mean is over its own rows."""
    apply, params = pure_apply(model(every_step))
    optimizer = make_optimizer("sgd", 0.05)
    starts = data.window_starts(len(SERIES) - 1, WINDOW)
    assert len(starts) == 55
    state = TrainState.create(params, optimizer)
    epoch = make_windowed_epoch(
        apply,
        optimizer,
        huber,
        FEATURES,
        TARGETS,
        jnp.asarray(starts),
        window=WINDOW,
        batch_size=batch_size,
        every_step=every_step,
        shuffle=False,
    )
    batches = []
    for first in range(0, len(starts), batch_size):
        windows = [(s, s + WINDOW) for s in starts[first : first + batch_size]]
        inputs = jnp.stack([FEATURES[a:b] for a, b in windows])
        targets = jnp.stack([TARGETS[a:b] if every_step else TARGETS[b - 1] for a, b in windows])
        batches.append((inputs, targets))
    expected, losses, _ = by_hand(apply, params, optimizer, batches)
    state, metrics = epoch(state)
    assert_trees_close(state.params, expected)
    rows = [len(inputs) for inputs, _ in batches]
    assert float(metrics.loss) == pytest.approx(np.average(losses, weights=rows), rel=1e-5)
    assert (int(state.step), int(state.epoch)) == (len(batches), 1)


def test_over_a_mesh_an_epoch_is_the_same_and_no_window_is_dropped():
    """In a process of its own, since the number of devices is fixed once JAX runs. 7 rows do not divide by 3."""
    code = """
import jax
jax.config.update("jax_num_cpu_devices", 3)
from tests.training.test_step import *
apply, params = pure_apply(model())
optimizer = make_optimizer("sgd", 0.05)
starts = jnp.asarray(data.window_starts(len(SERIES) - 1, WINDOW))
results = []
for mesh in (None, jax.make_mesh((3,), ("batch",))):
    epoch = make_windowed_epoch(apply, optimizer, huber, FEATURES, TARGETS, starts, window=WINDOW, batch_size=7,
                                every_step=False, mesh=mesh)
    state = TrainState.create(params, optimizer)
    for _ in range(3):
        state, metrics = epoch(state)
    results.append((jax.device_get(state.params), float(metrics.loss), float(metrics.grad_norm)))
assert_trees_close(*results)
print(len(jax.devices()), "devices agree")
"""
    on_the_cpu = os.environ | {"JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=on_the_cpu, capture_output=True, text=True, check=False
    )
    assert run.stdout == "3 devices agree\n", run.stderr


def test_a_mesh_must_have_one_axis():
    apply, _ = pure_apply(model())
    mesh = jax.make_mesh((1, 1), ("a", "b"), devices=jax.devices("cpu")[:1])
    with pytest.raises(ValueError, match="one axis"):
        make_windowed_epoch(
            apply,
            optax.sgd(0.1),
            huber,
            FEATURES,
            TARGETS,
            jnp.arange(3),
            window=WINDOW,
            batch_size=1,
            every_step=False,
            mesh=mesh,
        )


def test_shuffling_takes_every_window_once_in_another_order_each_epoch():
    """With a model that returns its input and a rate of zero, the losses tell which windows were taken."""
    seen = []

    def apply(params, inputs, carry):
        jax.debug.callback(lambda a: seen.append(np.asarray(a)), inputs[:, 0, 0], ordered=True)
        return carry, inputs[:, -1] * params

    optimizer = make_optimizer("sgd", 1e-9)
    features = jnp.arange(20.0)[:, None]
    epoch = make_windowed_epoch(
        apply, optimizer, huber, features, features, jnp.arange(16), window=WINDOW, batch_size=4, every_step=False
    )
    orders = []
    for seed in (0, 0, 1):
        seen.clear()
        state = TrainState.create(jnp.ones(1), optimizer, seed=seed)
        state, _ = epoch(state)
        state, _ = epoch(state)
        jax.effects_barrier()
        orders.append(np.concatenate(seen).astype(int))
    for order in orders:
        assert sorted(order[:16]) == list(range(16))
        assert sorted(order[16:]) == list(range(16))
        assert list(order[:16]) != list(order[16:])
    assert list(orders[0]) == list(orders[1])
    assert list(orders[0]) != list(orders[2])


def test_a_sequential_epoch_hands_the_carry_on_detached_and_starts_from_the_initial_one():
    forecaster = model(every_step=True)
    apply, params = pure_apply(forecaster)
    optimizer = make_optimizer("sgd", 0.05)
    carry = forecaster.initialize_carry(2)
    starts = data.sequential_starts(len(SERIES) - 1, WINDOW, batch_size=2)
    epoch = make_sequential_epoch(
        apply, optimizer, huber, FEATURES, TARGETS, jnp.asarray(starts), window=WINDOW, initial_carry=carry
    )
    batches = [
        (data.take_windows(FEATURES, row, WINDOW), data.take_windows(TARGETS, row, WINDOW)) for row in starts
    ]
    expected, losses, end = by_hand(apply, params, optimizer, batches, carry)
    # Whatever carry the state comes with, the epoch begins with the initial one.
    state = TrainState.create(params, optimizer, carry=jax.tree.map(jnp.ones_like, carry))
    state, metrics = epoch(state)
    assert_trees_close(state.params, expected)
    assert_trees_close(state.carry, end)
    assert float(metrics.loss) == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_pass_in_parts_is_the_same_training_and_begins_anew_with_every_pass():
    forecaster = model(every_step=True)
    apply, params = pure_apply(forecaster)
    optimizer = make_optimizer("sgd", 0.05)
    carry = forecaster.initialize_carry(2)
    starts = jnp.asarray(data.sequential_starts(len(SERIES) - 1, WINDOW, batch_size=2)[:4])

    def train(parts: int, epochs: int, chunk: int | None = None):
        epoch = make_sequential_epoch(
            apply, optimizer, huber, FEATURES, TARGETS, starts, window=WINDOW, initial_carry=carry, parts=parts
        )
        state, losses = TrainState.create(params, optimizer, carry=carry), []
        while len(losses) < epochs:
            state, metrics = epoch(state) if chunk is None else epoch.advance(state, chunk)
            if not int(state.position):
                losses.append(float(metrics.loss))
        return state, losses

    whole, losses = train(parts=1, epochs=2)
    for chunk in (None, 1):
        divided, of_parts = train(parts=2, epochs=4, chunk=chunk)
        assert int(divided.step) == int(whole.step) == 8
        assert_trees_close((divided.params, divided.carry), (whole.params, whole.carry), tolerance=0)
        assert np.mean(of_parts[:2]) == pytest.approx(losses[0], rel=1e-6)
        assert np.mean(of_parts[2:]) == pytest.approx(losses[1], rel=1e-6)
    assert int(train(parts=3, epochs=3)[0].step) == 3  # of the four batches one is left out
    with pytest.raises(
        ValueError, match="parts=5 must be an integer from 1 to 4, the number of batches in a pass"
    ):
        train(parts=5, epochs=1)


def test_with_a_learning_rate_of_zero_the_loss_of_a_batch_depends_on_the_batches_before_it():
    """What a model that silently drops its state cannot show."""
    forecaster = model(every_step=True)
    apply, params = pure_apply(forecaster)
    optimizer = optax.sgd(0.0)
    step = make_train_step(apply, optimizer)
    ones = jnp.ones(1)

    def batch(start: int) -> Batch:
        row = jnp.array([start])
        return Batch(data.take_windows(FEATURES, row, WINDOW), data.take_windows(TARGETS, row, WINDOW), ones)

    def loss_of_last(*before: int) -> float:
        state = TrainState.create(params, optimizer, carry=forecaster.initialize_carry(1))
        for start in before:
            state, _ = step(state, batch(start))
        return float(step(state, batch(40))[1].loss)

    alone, after_one, after_another = loss_of_last(), loss_of_last(0), loss_of_last(20)
    assert len({alone, after_one, after_another}) == 3
    assert loss_of_last(0) == after_one


def test_a_stateless_step_has_no_memory():
    apply, params = pure_apply(model())
    step = make_train_step(apply, optax.sgd(0.0))
    one = Batch(FEATURES[None, :5], TARGETS[None, 4], jnp.ones(1))
    state, first = step(TrainState.create(params, optax.sgd(0.0)), one)
    _, second = step(state, one)
    assert float(first.loss) == float(second.loss)


def test_a_state_must_have_a_carry_where_one_is_passed_on_and_only_there():
    apply, params = pure_apply(lambda: model(every_step=True))
    optimizer = make_optimizer("sgd", 0.1)
    carry, _ = apply(params, FEATURES[None, :WINDOW], None)
    with_carry, without = (TrainState.create(params, optimizer, carry=c) for c in (carry, None))
    arrays = (apply, optimizer, huber, FEATURES, TARGETS)
    stateful = make_sequential_epoch(*arrays, jnp.array([[0], [5]]), window=WINDOW, initial_carry=carry)
    stateless = make_windowed_epoch(*arrays, jnp.arange(5), window=WINDOW, batch_size=5, every_step=True)
    with pytest.raises(ValueError, match=r"has no carry, .* carry=initial_carry"):
        stateful(without)
    with pytest.raises(ValueError, match="has a carry, but this epoch passes none on"):
        stateless(with_carry)


def test_clipping_bounds_the_step_and_not_the_reported_norm():
    apply, params = pure_apply(model())
    batch = Batch(FEATURES[None, :5], TARGETS[None, 4] + 100, jnp.ones(1))
    for clip, bound in ((None, None), (0.25, 0.25)):
        optimizer = make_optimizer("sgd", 1.0, clip_norm=clip, momentum=0.0)
        step = jax.jit(functools.partial(train_step, apply, optimizer, huber))
        state, metrics = step(TrainState.create(params, optimizer), batch)
        moved = float(optax.tree.norm(jax.tree.map(jnp.subtract, state.params, params)))
        assert moved == pytest.approx(bound or float(metrics.grad_norm), rel=1e-4)
        assert float(metrics.grad_norm) > 0.25


@pytest.mark.parametrize("scale", [1e17, 1e25])
def test_a_gradient_whose_square_overflows_is_clipped_and_not_skipped(scale):
    """The step is that of the same gradient at an ordinary size, since clipping keeps only its direction."""
    apply, params = pure_apply(model())
    batch = Batch(FEATURES[None, :5], TARGETS[None, 4] + 100, jnp.ones(1))
    optimizer = make_optimizer("sgd", 1.0, clip_norm=0.25, momentum=0.0)
    results = []
    for factor in (1.0, scale):
        state = TrainState.create(params, optimizer)
        loss = lambda p, t, factor=factor: huber(p, t) * factor  # noqa: E731
        results.append(train_step(apply, optimizer, loss, state, batch))
    (plain, small), (large, big) = results
    assert int(large.skipped_in_a_row) == 0
    assert float(big.grad_norm) == pytest.approx(scale * float(small.grad_norm), rel=1e-5)
    assert_trees_close(large.params, plain.params, 1e-5)


def test_the_average_of_parameters_follows_them():
    apply, params = pure_apply(model())
    optimizer = make_optimizer("sgd", 0.1)
    state = TrainState.create(params, optimizer, average=True)
    batch = Batch(FEATURES[None, :5], TARGETS[None, 4], jnp.ones(1))
    expected = params
    for step in range(3):
        state, _ = train_step(apply, optimizer, huber, state, batch, average_decay=0.2)
        decay = min(0.2, (1 + step) / (10 + step))
        expected = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, expected, state.params)
    assert_trees_close(state.average, expected)
    assert all(map(lambda a, b: a is b, *map(jax.tree.leaves, (state.best_guess, state.average))))
