"""The README's cells, as they stand there: right gradients, and those of the same cell scanned by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.test_util import check_grads

import jaxrnn
from benchmarks.user_cells import readme_cells

pytestmark = pytest.mark.usefixtures("quick_compilation")


def leaky(p, h, x):
    a = jax.nn.sigmoid(p["leak"])
    return (1 - a) * h + a * jnp.tanh(x @ p["kernel"] + p["bias"] + h @ p["recurrent_kernel"])


def minimal_gated(p, h, x):
    """Zhou et al. (2016) with the gate after the product, in the notation of the GRU."""
    (wf, wn), (uf, un), (bf, bn) = (
        jnp.split(p[name], 2, axis=-1) for name in ("kernel", "recurrent_kernel", "bias")
    )
    f = jax.nn.sigmoid(x @ wf + h @ uf + bf)
    return (1 - f) * h + f * jnp.tanh(x @ wn + bn + f * (h @ un))


def layer_norm(p, h, x):
    z = x @ p["kernel"] + h @ p["recurrent_kernel"]
    z = z - z.mean(-1, keepdims=True)
    z = z / jnp.sqrt((z**2).mean(-1, keepdims=True) + 1e-6)
    return jnp.tanh(z * p["norm"]["scale"] + p["norm"]["bias"])


BY_HAND = {"LeakyCell": leaky, "MinimalGatedCell": minimal_gated, "LayerNormCell": layer_norm}


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_every_cell_of_the_readme_is_tested_here():
    assert set(readme_cells()) == set(BY_HAND)


@pytest.mark.parametrize("name", BY_HAND)
def test_gradients_are_right_and_equal_those_of_the_cell_scanned_by_hand(name):
    random = np.random.default_rng(0)
    cell = readme_cells()[name](2, 4, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(cell)
    params = jax.tree.map(lambda a: a + 0.3 * jnp.asarray(random.normal(size=a.shape)), params)
    x, first, weights = (jnp.asarray(random.normal(size=s)) for s in [(3, 6, 2), (3, 4), (3, 6, 4)])

    def on_the_engine(params, x, first):
        rnn: Any = jaxrnn.RNN(nnx.merge(graphdef, params), return_carry=True)
        last, outputs = rnn(x, initial_carry=first)
        return (weights * outputs).sum() + (last**2).sum()

    def by_hand(params, x, first):
        def step(h, x_t):
            h = BY_HAND[name](nnx.to_pure_dict(params), h, x_t)
            return h, h

        last, outputs = lax.scan(step, first, x.swapaxes(0, 1))
        return (weights.swapaxes(0, 1) * outputs).sum() + (last**2).sum()

    arguments = (params, x, first)
    found, expected = (jax.jit(jax.value_and_grad(f, (0, 1, 2)))(*arguments) for f in (on_the_engine, by_hand))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        assert jnp.abs(b).max() > 1e-3, jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9, err_msg=jax.tree_util.keystr(path))
    check_grads(jax.jit(on_the_engine), arguments, order=2, modes=("rev",), rtol=1e-4)
