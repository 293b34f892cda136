"""Optimisers whose update is unusual: the library leaves alone what it cannot repeat as it is."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxrnn.ops.native.library import available
from tests.training.test_elementwise import arrays, assert_close, found, state_of, stepped, without_library

pytestmark = pytest.mark.skipif(not available(), reason="the C++ library is not built")


def updated(update: Any) -> Any:
    """Parameters after a step of an optimiser with this update, with the library and without it."""
    optimizer = optax.stateless(lambda updates, params: update(updates))
    with pytest.MonkeyPatch.context() as patch:
        with_library = jax.jit(stepped(optimizer))(state_of(optimizer), found(1))[0].params
        without_library(patch)
        return with_library, jax.jit(stepped(optimizer))(state_of(optimizer), found(1))[0].params


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64:UserWarning")
def test_double_precision_for_a_while():
    def update(grads: Any) -> Any:
        def one(grad: jax.Array) -> jax.Array:
            with jax.enable_x64(True):
                wide = jax.lax.convert_element_type(grad, np.float64)
                return jax.lax.convert_element_type(jax.lax.neg(wide * wide + wide), np.float32)

        return jax.tree.map(one, grads)

    assert_close(*updated(update), tolerance=1e-6)


def test_random_numbers_of_another_setting():
    def update(grads: Any) -> Any:
        with jax.threefry_partitionable(False):
            noise = jax.random.normal(jax.random.key(0), (5, 3))
        return {**grads, "kernel": -grads["kernel"] * noise}

    assert_close(*updated(update), tolerance=1e-6)


def test_functions_that_look_alike_stay_apart():
    tables = np.zeros((2, 2000), np.float32)
    tables[1, 1000] = 5

    def update(grads: Any) -> Any:
        result = jax.ShapeDtypeStruct((), jnp.float32)
        a, b = (jax.pure_callback(lambda x, t=table: np.float32(t.sum() + x), result, 1.0) for table in tables)
        return jax.tree.map(lambda g: -(g * a + g * g * b), grads)

    assert_close(*updated(update), tolerance=1e-6)


def test_a_map_over_devices_within_the_optimizer():
    mesh = jax.make_mesh((1,), ("one",), axis_types=(jax.sharding.AxisType.Auto,))
    twice = jax.shard_map(lambda x: 2 * x, mesh=mesh, in_specs=P(), out_specs=P())
    assert_close(*updated(lambda grads: jax.tree.map(twice, grads)), tolerance=1e-6)


def test_values_that_are_not_traced_may_be_looked_at():
    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda g: -g * (0.1 if int(state) < 10 else 0.01), updates), state + 1

    optimizer = optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)

    def loss(kernel: jax.Array) -> jax.Array:
        state = state_of(optimizer)
        state = state.replace(params={**state.params, "kernel": kernel})
        return stepped(optimizer, skip_non_finite=False)(state, found(1))[0].params["kernel"].sum()

    np.testing.assert_allclose(jax.grad(loss)(arrays(0)["kernel"]), np.ones((5, 3)))
