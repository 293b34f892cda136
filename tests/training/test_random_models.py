"""Models with dropout train: with other masks at every step, and exactly the same again after an interruption."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxrnn
from jaxrnn import training

SERIES = jnp.sin(jnp.arange(80.0) / 3)[:, None]


class Dropping(nnx.Module):
    """Dropout of a stack of ours and of Flax."""

    def __init__(self, rngs: nnx.Rngs):
        self.layers = jaxrnn.GRU(1, 6, num_layers=2, dropout=0.4, recurrent_dropout=0.2, rngs=rngs)
        self.dropout, self.head = nnx.Dropout(0.3, rngs=rngs), nnx.Linear(6, 1, rngs=rngs)

    def __call__(self, inputs):
        return self.head(self.dropout(self.layers(inputs)[:, -1]))


def make() -> Dropping:
    return Dropping(nnx.Rngs(0))


OPTIMIZER = training.make_optimizer("sgd", 0.1)


@functools.cache
def made():
    apply, params = training.pure_apply(make)
    starts = jnp.arange(59)
    options: dict[str, Any] = dict(window=20, batch_size=20, every_step=False, shuffle=False)
    return (
        apply,
        params,
        training.make_windowed_epoch(apply, OPTIMIZER, training.huber, SERIES, SERIES[1:], starts, **options),
    )


def first_state(seed: int = 0) -> training.TrainState:
    return training.TrainState.create(jax.tree.map(jnp.copy, made()[1]), OPTIMIZER, seed=seed)


def bits(state) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state.params)]


def test_parameters_are_parameters_only_and_equal_models_share_their_programs():
    apply, params, _ = made()
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(params))
    again, _ = training.pure_apply(make())
    assert again == apply and hash(again) == hash(apply)


def test_masks_differ_from_step_to_step_and_seed_to_seed():
    apply, _, _ = made()
    step = training.make_train_step(apply, training.make_optimizer("sgd", 1e-30), training.huber)
    batch = training.Batch(SERIES[None, :20], SERIES[None, 20], jnp.ones(1))
    losses, state = [], first_state()
    for _ in range(3):
        state, metrics = step(state, batch)
        losses.append(float(metrics.loss))
    assert len(set(losses)) == 3
    assert float(step(first_state(), batch)[1].loss) == losses[0] != float(step(first_state(1), batch)[1].loss)


def test_an_interrupted_epoch_goes_on_to_the_same_bits():
    epoch = made()[2]
    whole, _ = epoch(first_state())
    parts = first_state()
    for steps in (1, 2):
        parts, _ = epoch.advance(parts, steps)
    assert bits(parts) == bits(whole)


def test_alone_the_function_is_the_model_in_evaluation_and_comes_back_whole(tmp_path):
    apply, _, epoch = made()
    run = training.fit(training.Run.create(first_state()), epoch, epochs=2)
    best = run.best_model(make)
    training.save_model(best, tmp_path)
    for model in (best, run.best_model(make()), training.load_model(make, tmp_path)):
        assert not np.allclose(model(SERIES[None, :20]), model(SERIES[None, :20]))  # it still drops when it trains
        model.eval()
        np.testing.assert_array_equal(model(SERIES[None, :20]), apply(run.best_params, SERIES[None, :20], None)[1])


def test_a_model_that_takes_its_key_gets_one_in_training_only():
    model = jaxrnn.LanguageModel(5, (4,), dropout=0.5, rngs=nnx.Rngs(0))
    apply, params = training.pure_apply(model)
    tokens = jnp.arange(40).reshape(2, 20) % 5
    np.testing.assert_array_equal(apply(params, tokens, None)[1], model(tokens))
    step = training.make_train_step(
        apply, training.make_optimizer("sgd", 1e-30), lambda p, t: (p - t[..., None]) ** 2
    )
    state = training.TrainState.create(params, training.make_optimizer("sgd", 1e-30))
    losses = []
    for _ in range(2):
        state, metrics = step(state, training.Batch(tokens, tokens.astype("float32"), jnp.ones(2)))
        losses.append(float(metrics.loss))
    assert losses[0] != losses[1]
