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
from jaxrnn.cells.base import orthogonal

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


@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (7, 3)], ids=str)
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_a_key_gives_the_matrix_that_flax_draws(shape, jit):
    draws = [
        lambda key, draw=draw: draw(key, shape, jnp.float32)
        for draw in (orthogonal, nnx.initializers.orthogonal())
    ]
    found, expected = ((jax.jit(draw) if jit else draw)(jax.random.key(1)) for draw in draws)
    np.testing.assert_array_equal(found, expected)


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
