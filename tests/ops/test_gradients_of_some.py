"""Gradients of some arguments only, of programs that JAX has differentiated for other arguments before.

JAX traces a forward rule once for every pattern of arguments that need a gradient, but keeps only the structure of
the residuals of the last one. What a backward rule is told there about the pattern is then that of another one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.ops import Projection, linear_recurrence, recurrence
from jaxrnn.ops.native import library

pytestmark = pytest.mark.skipif(library.why_not_loaded() is not None, reason=str(library.why_not_loaded()))


def elman(params, h, xw, rh):
    h = jnp.tanh(xw[0] + rh[0])
    return h, h


def recurrent(kernel, x, implementation):
    projection = Projection(x, kernel[:3], None)
    return recurrence(elman, kernel[3:], projection, jnp.ones((2, 4)), implementation=implementation)[1]


def linear(decay, x, implementation):
    return linear_recurrence(jax.nn.sigmoid(decay[..., :3]), x, implementation=implementation)


@pytest.mark.parametrize("run", [recurrent, linear])
@pytest.mark.parametrize("again", [0, 1])
def test_a_checkpoint_after_gradients_of_other_arguments(run, again):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(6, 2, 3)), jnp.float32)
    other = jnp.asarray(
        random.normal(size=(7, 4)) if run is recurrent else random.normal(size=(6, 2, 4)), jnp.float32
    )

    def loss(other, x, implementation="native"):
        return jnp.sin(run(other, x, implementation)).sum()

    expected = jax.grad(loss, (0, 1))(other, x, "scan")
    jax.clear_caches()
    for which in (again, 1 - again):
        np.testing.assert_allclose(jax.grad(loss, which)(other, x), expected[which], 1e-4, 1e-5)
    found = jax.grad(jax.checkpoint(loss), again)(other, x)
    np.testing.assert_allclose(found, expected[again], 1e-4, 1e-5)
