"""The norm of a gradient, from the C++ library and from XLA."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.ops.native.library import available
from jaxrnn.training import optimizers
from jaxrnn.training.optimizers import global_norm


def norms(*arrays, library=True):
    """The norm of these arrays, from the C++ library or from XLA."""
    with pytest.MonkeyPatch.context() as patch:
        if not library:
            patch.setattr(optimizers, "available", lambda: False)
        return global_norm(list(arrays))


@pytest.mark.parametrize("library", [True, False], ids=["library", "XLA"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_norms_are_those_of_numpy(library, dtype, scale):
    with jax.enable_x64(True):
        scale = scale**6 if dtype == "float64" and scale > 1 else scale if library else max(scale, 1e-15)
        random = np.random.default_rng(0)
        arrays = [scale * random.normal(size=shape) for shape in ((3, 4), (), (0, 2), (70_000, 4), (9,))]
        wanted = scale * np.sqrt(sum(((a / scale) ** 2).sum() for a in arrays))
        found = norms(*(jnp.asarray(a, dtype) for a in arrays), library=library)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, wanted, rtol={"float32": 1e-6, "float64": 1e-13}[dtype])


def test_norms_of_the_library_under_transformations_are_those_of_xla():
    arrays = [jnp.arange(6.0).reshape(2, 3), jnp.array([[-1.0], [2.0]])]
    for transform in (
        jax.jit,
        jax.vmap,
        jax.grad,
        jax.hessian,
        lambda f: jax.vmap(f, in_axes=(0, None)),
        lambda f: lambda a, b: jax.vmap(jax.vmap(f, (0, None)), (None, 0))(a, b),
        lambda f: lambda a, b: jax.jvp(f, (a, b), (b * a, b)),
    ):
        found, wanted = (
            transform(functools.partial(norms, library=library))(*arrays) for library in (True, False)
        )
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), found, wanted)


@pytest.mark.skipif(not available(), reason="the C++ library was not built")
def test_a_step_on_a_cpu_takes_its_norm_from_the_library_and_other_numbers_from_xla():
    def text(*arrays):
        return jax.jit(lambda *arrays: global_norm(arrays)).lower(*arrays).as_text()

    assert "jaxrnn_norm" in text(jnp.ones(3), jnp.ones(3, jnp.float16))  # which is made float32
    with jax.enable_x64(True):
        for arrays in ([], [jnp.zeros(0)], [jnp.ones(3, "float32"), jnp.ones(2)], [jnp.ones(3, "complex64")]):
            assert "jaxrnn_norm" not in text(*arrays)
            assert float(global_norm(arrays)) == pytest.approx(math.sqrt(sum(a.size for a in arrays)))


def test_a_gradient_that_is_not_finite_still_has_no_norm():
    for bad in (jnp.inf, jnp.nan):
        assert not math.isfinite(float(global_norm([jnp.ones(3), jnp.array([bad])])))
    assert float(global_norm({})) == float(global_norm([jnp.zeros(3)])) == 0.0
