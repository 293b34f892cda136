"""What tests of exports share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx


@pytest.fixture(scope="module", autouse=True)
def _installed(request):
    """Skip the tests of a module whose packages, in its ``NEEDS``, are not installed."""
    for package in getattr(request.module, "NEEDS", ()):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'jaxrnn[export]'")


@pytest.fixture(scope="session")
def randomized():
    """A function that makes every parameter of a module random, so that nothing agrees by being zero."""

    def randomize(module, seed=1):
        leaves, treedef = jax.tree.flatten(nnx.state(module, nnx.Param))
        generator = np.random.default_rng(seed)
        random = [jnp.asarray(0.5 * generator.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
        nnx.update(module, jax.tree.unflatten(treedef, random))
        return module

    return randomize
