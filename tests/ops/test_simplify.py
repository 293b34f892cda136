"""A function in fewer operations computes the same, at the ends of what numbers there are too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxrnn.ops.pallas.simplify import REPLACEMENTS, simplify

FUNCTIONS = {
    "is_finite": jnp.isfinite,
    "integer_pow": lambda x: lax.integer_pow(x, 3) + lax.integer_pow(x, -2) + lax.integer_pow(x, 0),
    "log1p": jnp.log1p,
    "one_minus_square": lambda x: jax.vjp(jnp.tanh, x)[1](jnp.ones_like(x))[0],
    "sqrt": jnp.sqrt,
    "stop_gradient": lambda x: x * lax.stop_gradient(x),
    "tan": jnp.tan,
    "custom_jvp_call": lambda x: jax.nn.relu(x) + jax.nn.silu(x),
    "add_any": lambda x: jax.vjp(lambda x: x * jnp.sin(x), x)[1](jnp.ones_like(x))[0],
}
VALUES = np.array([-np.inf, -3, -1.5, -1, -1e-7, 0, 1e-30, 1e-7, 0.1, 1, 2.5, 1e30, np.inf, np.nan], np.float32)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_numbers(name):
    x = jnp.asarray(VALUES)
    np.testing.assert_allclose(simplify(FUNCTIONS[name])(x), FUNCTIONS[name](x), rtol=3e-6, atol=3e-7)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_none_of_what_is_lacking_is_left(name):
    def operations(jaxpr):
        for equation in jaxpr.eqns:
            yield equation.primitive.name
            for value in equation.params.values():
                if hasattr(value, "jaxpr"):
                    yield from operations(value.jaxpr)

    def left(function):
        return set(operations(jax.make_jaxpr(function)(jnp.float32(0.5)).jaxpr)) & {
            *REPLACEMENTS,
            "custom_jvp_call",
        }

    assert left(FUNCTIONS[name]) or name in ("one_minus_square", "stop_gradient")  # which JAX has by other names
    assert not left(simplify(FUNCTIONS[name]))


def test_pytrees_go_in_and_come_out():
    found = simplify(lambda tree, x: {"sum": tree["a"] + x, "same": tree["b"]})({"a": 1.0, "b": jnp.ones(2)}, 2.0)
    assert found["sum"] == 3
    assert found["same"].tolist() == [1, 1]
