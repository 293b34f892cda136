"""The README's cells, as they stand there: right gradients, and those of the same cell scanned by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

import jaxrnn
from benchmarks.libraries.by_hand import EQUATIONS, scan_by_hand
from benchmarks.libraries.user_cells import CELLS, readme_cells
from jaxrnn.ops.scan import _forward
from jaxrnn.ops.step import Recurrence


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_every_cell_is_written_by_hand():
    assert set(readme_cells()) | set(CELLS) == set(EQUATIONS)


@pytest.mark.parametrize("name", readme_cells())
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

    def by_hand(hoisted):
        def loss(params, x, first):
            last, outputs = scan_by_hand(name, nnx.to_pure_dict(params), x, first, hoisted=hoisted)
            return (weights * outputs).sum() + (last**2).sum()

        return loss

    arguments = (params, x, first)
    found, *others = (
        jax.jit(jax.value_and_grad(f, (0, 1, 2)))(*arguments)
        for f in (on_the_engine, by_hand(hoisted=False), by_hand(hoisted=True))
    )
    for expected in others:
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
        ):
            assert jnp.abs(b).max() > 1e-3, jax.tree_util.keystr(path)
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9, err_msg=jax.tree_util.keystr(path))
    check_grads(jax.jit(on_the_engine), arguments, order=2, modes=("rev",), rtol=1e-4)


@pytest.mark.parametrize(("name", "kept"), [("LeakyCell", 2), ("MinimalGatedCell", 4), ("LayerNormCell", 3)])
def test_of_every_step_little_is_kept(name, kept):
    """Of MinimalGatedCell: h before the step, the gate, the candidate, and the block of rh that the gate uses."""
    cell: Any = readme_cells()[name](2, 4, rngs=nnx.Rngs(0))
    pointwise, params = cell.pure_pointwise()
    kernel, bias = cell.recurrent_parameters(jnp.float32)
    xw = cell.input_projection(jnp.ones((6, 3, 2)))
    arrays = Recurrence(kernel, xw, cell.initialize_carry((3, 2)), params, bias)
    _, (_, _, saved) = _forward(pointwise, False, 1, arrays)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(saved) if leaf.shape[:2] == (6, 3))
    assert kept <= numbers // (6 * 3 * 4) <= kept + 1  # newer versions of JAX keep the derivative of tanh, too
