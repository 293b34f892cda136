"""The orthogonal initializer: Flax's matrices for a key, also in a compiled program that makes many at once."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.cells import initializers
from jaxrnn.cells.initializers import orthogonal
from jaxrnn.ops.native.library import available

KEY = jax.random.key(0)

MANY_LAYERS = """
import os
import jax
from flax import nnx
import jaxrnn

if hasattr(os, "sched_setaffinity"):  # jaxlib's batched QR waits for threads that a larger machine has
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
make = lambda key: nnx.state(jaxrnn.GRU(128, 128, num_layers=2, rngs=nnx.Rngs(key)))
state = jax.block_until_ready(jax.jit(jax.vmap(make))(jax.random.split(jax.random.key(0), 2)))
print({leaf.shape[0] for leaf in jax.tree.leaves(state) if leaf.dtype == jax.numpy.float32})
"""


def test_layers_built_under_vmap_inside_jit_do_not_hang():
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", MANY_LAYERS]
    done = subprocess.run(command, check=True, timeout=90, env=environment, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "{2}\n"


SHAPES = [(5, 5), (3, 7), (7, 3), (1, 4), (2, 3, 4), (200, 150), (300, 260), (3, 0)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_key_gives_the_matrix_that_flax_draws(shape, jit, dtype):
    with jax.enable_x64(True):
        draws = [lambda key, of=of: of(key, shape, dtype) for of in (orthogonal, nnx.initializers.orthogonal())]
        found, expected = ((jax.jit(draw) if jit else draw)(KEY) for draw in draws)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(found, expected, atol={"float32": 3e-6, "float64": 1e-14}[dtype])


@pytest.mark.skipif(not available(), reason="the C++ library was not built")
@pytest.mark.parametrize("shape", [(64, 64), (70, 3), (1, 1)], ids=str)
def test_the_columns_of_the_library_are_orthonormal(shape, monkeypatch):
    monkeypatch.setattr(nnx.initializers, "orthogonal", None)  # which draws nothing here
    with jax.enable_x64(True):
        draw = jax.vmap(lambda key: orthogonal(key, shape, jnp.float64))
        matrices = np.asarray(draw(jax.random.split(KEY, 2)))
        products = np.swapaxes(matrices, 1, 2) @ matrices
        np.testing.assert_allclose(products, [np.eye(shape[1])] * 2, atol=1e-14)


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match="at least a 2D shape"):
        orthogonal(KEY, (5,))


def test_without_the_library_the_matrices_are_those_of_flax(monkeypatch):
    monkeypatch.setattr(initializers, "available", lambda: False)
    found = jax.jit(lambda key: orthogonal(key, (4, 4)))(KEY)
    np.testing.assert_array_equal(found, jax.jit(lambda key: nnx.initializers.orthogonal()(key, (4, 4)))(KEY))


ONE_LAYER = """
import sys
from flax import nnx
import jaxrnn
jaxrnn.GRU(3, 5, rngs=nnx.Rngs(0))
print("scipy" in sys.modules)
"""


def test_models_start_without_scipy():
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", ONE_LAYER]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    assert done.stdout == f"{not available()}\n"


def test_every_layer_of_a_nested_vmap_is_the_one_that_its_key_gives_alone():
    def make(key):
        return nnx.state(jaxrnn.GRU(2, 5, rngs=nnx.Rngs(key)), nnx.Param)

    keys = jax.random.split(jax.random.key(0), (2, 3))
    many = jax.jit(jax.vmap(jax.vmap(make)))(keys)
    alone = make(keys[1, 2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1, 2], b, atol=1e-6), many, alone)


def test_a_layer_built_outside_jit_has_the_bits_that_full_optimisation_gives(all_optimisations):
    def make(key):
        return nnx.state(jaxrnn.LSTM(3, 5, rngs=nnx.Rngs(key)), nnx.Param)

    key = jax.random.key(3)
    jax.tree.map(np.testing.assert_array_equal, make(key), jax.jit(make)(key))
