"""Layers under JAX's transformations: vmap over parameters and inputs, jit, grad of grad, checkpoint."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxrnn

X = np.random.default_rng(0).normal(size=(3, 5, 2))
LENGTHS = jnp.array([5, 0, 3])


class AlienCell(nnx.SimpleCell):
    """Nothing that the engine knows, so scanned as it is."""


def seeds_of(make: Any, count: int) -> tuple[Any, list[Any]]:
    """What layers of different seeds have in common, and the parameters of each."""
    split = [nnx.split(make(nnx.Rngs(seed))) for seed in range(count)]
    assert all(graphdef == split[0][0] for graphdef, _ in split)
    return split[0][0], [params for _, params in split]


LAYERS = {
    "LSTM": lambda rngs, **o: jaxrnn.LSTM(2, 4, bidirectional=True, return_carry=True, rngs=rngs, **o),
    "GRU": lambda rngs, **o: jaxrnn.GRU(
        2, 4, return_sequences=False, remat_every=2, return_carry=True, rngs=rngs, **o
    ),
    "leaky": lambda rngs, **o: jaxrnn.RNN(jaxrnn.LeakyCell(2, 4, rngs=rngs, **o), return_carry=True),
    "Flax GRU": lambda rngs, **o: jaxrnn.RNN(nnx.GRUCell(2, 4, rngs=rngs, **o), return_carry=True),
    "alien": lambda rngs, **o: jaxrnn.RNN(AlienCell(2, 4, rngs=rngs, **o), return_carry=True),
}


def layers(*names: str):
    return pytest.mark.parametrize("make", [LAYERS[name] for name in names], ids=names)


def assert_close(found, expected, tolerance=1e-5):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def loss_of(graphdef):
    def loss(params, x):
        results = nnx.merge(graphdef, params)(x, seq_lengths=LENGTHS)
        return sum((a**2).sum() for a in jax.tree.leaves(results)), results

    return loss


@layers(*LAYERS)
def test_an_ensemble_over_parameters_and_inputs_equals_its_members_one_by_one(make):
    graphdef, members = seeds_of(make, 2)
    x = jnp.asarray(X, jnp.float32)
    run = jax.value_and_grad(loss_of(graphdef), argnums=(0, 1), has_aux=True)
    one = jax.jit(run)
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *members)
    inputs = jnp.stack([x, 2 * x])
    found = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(stacked, inputs)
    for i, params in enumerate(members):
        for j in range(2):
            assert_close(jax.tree.map(lambda a, i=i, j=j: a[i, j], found), one(params, inputs[j]))


def test_an_ensemble_trains_each_member_at_its_own_learning_rate():
    graphdef, members = seeds_of(LAYERS["leaky"], 3)
    x, rates = jnp.asarray(X, jnp.float32), jnp.array([0.0, 0.01, 0.1])

    def step(params, rate):
        gradients, _ = jax.grad(loss_of(graphdef), has_aux=True)(params, x)
        return jax.tree.map(lambda p, g: p - rate * g, params, gradients)

    together = jax.jit(jax.vmap(step))(jax.tree.map(lambda *arrays: jnp.stack(arrays), *members), rates)
    for i, params in enumerate(members):
        assert_close(jax.tree.map(lambda a, i=i: a[i], together), step(params, rates[i]))


@layers("GRU", "alien")
def test_a_checkpoint_around_a_layer_changes_no_number(make):
    graphdef, params = nnx.split(make(nnx.Rngs(0)))
    loss, x = loss_of(graphdef), jnp.asarray(X, jnp.float32)
    run, again = (jax.jit(jax.grad(f, argnums=(0, 1), has_aux=True)) for f in (loss, jax.checkpoint(loss)))
    assert_close(again(params, x), run(params, x))


@layers("GRU", "alien")
def test_the_gradient_of_a_gradient_equals_finite_differences(make):
    """Of a penalty on the size of the gradient, along one random direction."""
    with jax.enable_x64(True):
        graphdef, params = nnx.split(make(nnx.Rngs(0), dtype="float64", param_dtype="float64"))
        loss, x = loss_of(graphdef), jnp.asarray(X)

        @jax.jit
        def penalty(params):
            gradients, _ = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
            return sum((g**2).sum() for g in jax.tree.leaves(gradients))

        found = jax.jit(jax.grad(penalty))(params)
        random = np.random.default_rng(2)
        direction = jax.tree.map(lambda a: jnp.asarray(random.normal(size=a.shape)), params)
        sides = [penalty(jax.tree.map(lambda p, d, e=e: p + e * d, params, direction)) for e in (1e-6, -1e-6)]
        along = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), found, direction)))
        np.testing.assert_allclose(along, (sides[0] - sides[1]) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("implementation", [None, "scan"])
def test_gradients_with_jit_disabled_as_for_debugging(implementation):
    layer = jaxrnn.LSTM(2, 4, return_carry=True, implementation=implementation, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(layer)
    loss = jax.grad(loss_of(graphdef), has_aux=True)
    expected = jax.jit(loss)(params, jnp.asarray(X, jnp.float32))
    with jax.disable_jit():
        found = loss(params, jnp.asarray(X, jnp.float32))
    assert_close(found, expected)


@layers("LSTM", "GRU")
def test_parameters_that_are_on_no_mesh_get_gradients_of_inputs_that_are(make):
    graphdef, (params,) = seeds_of(lambda rngs: make(rngs, implementation="scan"), 1)
    gradient = jax.jit(jax.grad(lambda p, x: (nnx.merge(graphdef, p)(x)[1] ** 2).sum()))
    x = jnp.asarray(X, jnp.float32)
    expected = gradient(params, x)
    mesh = jax.sharding.Mesh(np.array(jax.devices("cpu")[:1]), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        found = gradient(params, jax.device_put(x, NamedSharding(mesh, P("data"))))
    assert_close(found, expected)
