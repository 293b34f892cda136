"""What of a model training changes: its parameters, and nothing else."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import training

OPTIMIZER = training.make_optimizer("sgd", 0.1)


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
