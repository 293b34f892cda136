"""Derivatives in terms of the output are those of JAX, and keep nothing but the output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.ops import ACTIVATIONS, named_activation, simple_rnn_pointwise
from jaxrnn.ops.activations import by_output

Z = jnp.array([-30.0, -1.5, -0.0, 0.0, 1e-3, 0.7, 30.0])


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.sigmoid, jax.nn.relu])
def test_differentiation_by_output_is_exact_and_keeps_the_output_alone(activation):
    y, pullback = jax.vjp(by_output(activation), Z)
    wanted, expected = jax.vjp(activation, Z)
    np.testing.assert_array_equal(y, wanted)
    dy = jnp.linspace(-1, 1, Z.size)
    np.testing.assert_allclose(pullback(dy)[0], expected(dy)[0], atol=1e-6)
    kept = jax.tree.leaves(pullback)
    assert len(kept) == 1 and (kept[0] == y).all()


def test_an_activation_without_such_a_derivative_is_left_alone():
    assert by_output(jax.nn.gelu) is jax.nn.gelu


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_name_gives_an_elementwise_function(name):
    y = named_activation(name)(Z)
    assert y.shape == Z.shape and bool(jnp.isfinite(y).all())


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown activation 'tahn'; available: tanh, relu, sigmoid, gelu"):
        named_activation("tahn")


def test_equal_activations_share_a_pointwise_function_and_so_a_compiled_program():
    assert simple_rnn_pointwise(jnp.tanh) is simple_rnn_pointwise(jnp.tanh)
    assert simple_rnn_pointwise(jnp.tanh) is not simple_rnn_pointwise(jax.nn.relu)
