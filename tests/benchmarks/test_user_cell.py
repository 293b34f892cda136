"""The cells of one's own that are timed have the same equations by hand, in Flax's layer and built in."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from benchmarks.common.comparison import check_training
from benchmarks.common.rows import Shape
from benchmarks.libraries.user_cells import CELLS
from benchmarks.user_cell import OURS, TOLERANCE, contestants
from jaxrnn.ops import explain
from jaxrnn.ops.native import library


@pytest.mark.parametrize("name", ["OwnLSTMCell", "ExponentialGateCell"])  # the command checks all before it times
def test_all_contestants_compute_the_same(name):
    layers = contestants(name, Shape(3, 5, 2, 4))
    assert len(layers) == 4 + (name == "OwnLSTMCell")
    check_training(layers, name, OURS, TOLERANCE)


@pytest.mark.skipif(library.why_not_loaded() is not None, reason=str(library.why_not_loaded()))
@pytest.mark.parametrize("name", CELLS)
def test_only_the_cell_with_a_product_of_its_own_stays_on_the_scan(name):
    cell = CELLS[name](2, 4, rngs=nnx.Rngs(0))
    pointwise, params = cell.pure_pointwise()
    kernel, _ = cell.recurrent_parameters(jnp.dtype("float32"))
    xw = jax.ShapeDtypeStruct((5, 3, kernel.shape[1]), "float32")
    carry = cell.initialize_carry((3, 2))
    choice = explain(pointwise, kernel, xw, carry, params=params, platform="cpu")
    assert choice.chosen == ("scan" if name == "SecondProductCell" else "native")
