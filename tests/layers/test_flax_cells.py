"""Flax's own cells: on the engine with Flax's numbers, or scanned as they are where anything differs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.layers.flax_cells import translated

CELLS = [nnx.SimpleCell, nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell]
X = np.random.RandomState(0).randn(3, 5, 2)
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}


def randomized(cell: Any) -> Any:
    """Biases too, which would hide by being zero."""
    random = np.random.RandomState(1)
    params = nnx.state(cell, nnx.Param)
    nnx.update(cell, jax.tree.map(lambda a: jnp.asarray(0.5 * random.randn(*a.shape), a.dtype), params))
    return cell


def results(rnn: Any, cell: Any, x: Any, carry: Any, **call: Any) -> Any:
    """Carry, outputs, and gradients of parameters, inputs and first carry."""
    graphdef, params, rest = nnx.split(cell, nnx.Param, ...)

    def loss(params, x, carry):
        found = rnn(nnx.merge(graphdef, params, rest), return_carry=True)(x, initial_carry=carry, **call)
        return sum(jnp.sin(a).sum() for a in jax.tree.leaves(found)), found

    gradients, found = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(params, x, carry)
    return found, gradients


def assert_equal(found, expected, tolerance):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max(initial=0)))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("make", CELLS, ids=lambda make: make.__name__)
def test_results_and_gradients_are_those_of_nnx_rnn(make, dtype):
    with jax.enable_x64(dtype == "float64"):
        # SimpleCell computes in float32 unless told otherwise.
        options = {"dtype": dtype} if make is nnx.SimpleCell else {}
        cell = randomized(make(2, 4, param_dtype=dtype, rngs=nnx.Rngs(0), **options))
        x = jnp.asarray(X, dtype)
        carry = jax.tree.map(lambda a: a + 0.3, cell.initialize_carry((3, 2), nnx.Rngs(0)))
        assert translated(cell, x, carry) is not None
        found, expected = (results(rnn, cell, x, carry) for rnn in (jaxrnn.RNN, nnx.RNN))
        assert_equal(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("options", [{}, {"time_major": True, "merge_fn": jnp.add}], ids=["plain", "options"])
def test_both_directions_are_those_of_nnx_bidirectional(options):
    """Outputs, carries and gradients; flax's own tests have none of it."""
    cells = [randomized(nnx.LSTMCell(2, 4, rngs=nnx.Rngs(seed))) for seed in (0, 1)]
    x = jnp.asarray(X.swapaxes(0, 1) if "time_major" in options else X, jnp.float32)
    # Given, since flax counts the zeros that it makes as random numbers, which its gradients then refuse.
    carry = tuple(jax.tree.map(lambda a: a + 0.3, cell.initialize_carry((3, 2), nnx.Rngs(0))) for cell in cells)

    def results_of(library: Any) -> Any:
        layer = library.Bidirectional(*(library.RNN(cell) for cell in cells), return_carry=True, **options)
        graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

        def loss(params, x, carry):
            found = nnx.merge(graphdef, params, rest)(x, initial_carry=carry)
            return sum(jnp.sin(a).sum() for a in jax.tree.leaves(found)), found

        (dparams, *others), found = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(params, x, carry)
        return found, nnx.to_pure_dict(dparams), others

    assert_equal(results_of(jaxrnn), results_of(nnx), 2e-6)


class Subclass(nnx.GRUCell):
    def __call__(self, carry, inputs):
        carry, y = super().__call__(carry, inputs)
        return carry, 2 * y


def with_lora() -> nnx.GRUCell:
    cell = nnx.GRUCell(2, 4, rngs=nnx.Rngs(0))
    part: Any = nnx.LoRALinear(2, 12, lora_rank=1, rngs=nnx.Rngs(1))
    cell.dense_i = part
    return cell


def with_a_second_bias() -> nnx.OptimizedLSTMCell:
    cell = nnx.OptimizedLSTMCell(2, 4, rngs=nnx.Rngs(0))
    cell.dense_i = nnx.Linear(2, 16, rngs=nnx.Rngs(1))
    return cell


def with_precision() -> nnx.LSTMCell:
    cell = nnx.LSTMCell(2, 4, rngs=nnx.Rngs(0))
    cell.hf.precision = jax.lax.Precision.HIGHEST
    return cell


def doubled(z):
    return 2 * jnp.tanh(z)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Subclass(2, 4, rngs=nnx.Rngs(0)),
        lambda: nnx.SimpleCell(2, 4, residual=True, rngs=nnx.Rngs(0)),
        lambda: nnx.SimpleCell(2, 4, activation_fn=doubled, rngs=nnx.Rngs(0)),
        lambda: nnx.LSTMCell(2, 4, activation_fn=doubled, rngs=nnx.Rngs(0)),
        lambda: nnx.GRUCell(2, 4, gate_fn=nnx.hard_sigmoid, rngs=nnx.Rngs(0)),
        lambda: nnx.GRUCell(2, 4, dtype="bfloat16", rngs=nnx.Rngs(0)),
        with_lora,
        with_a_second_bias,
        with_precision,
    ],
    ids=[
        "subclass",
        "residual",
        "activation",
        "lstm_activation",
        "gate",
        "bfloat16",
        "lora",
        "second_bias",
        "precision",
    ],
)
def test_what_is_not_quite_flax_s_cell_is_scanned_as_it_is_with_the_same_numbers(make):
    cell = randomized(make())
    x = jnp.asarray(X, jnp.float32)
    carry = cell.initialize_carry((3, 2), nnx.Rngs(0))
    assert translated(cell, x, carry) is None
    found: Any = jaxrnn.RNN(cell, return_carry=True)(x, initial_carry=carry)
    assert_equal(found, nnx.RNN(cell, return_carry=True)(x, initial_carry=carry), 2e-6)


@pytest.mark.parametrize("activation", [nnx.relu, nnx.gelu, nnx.soft_sign])
def test_a_simple_cell_may_have_any_of_the_known_activations(activation):
    cell = randomized(nnx.SimpleCell(2, 4, activation_fn=activation, rngs=nnx.Rngs(0)))
    layer: Any = jaxrnn.RNN(cell, implementation="scan")  # refused where the engine does not run it
    np.testing.assert_allclose(layer(jnp.asarray(X)), nnx.RNN(cell)(jnp.asarray(X)), rtol=1e-5, atol=1e-6)


def test_dtypes_that_differ_are_left_to_flax():
    with jax.enable_x64(True):
        cell = nnx.GRUCell(2, 4, rngs=nnx.Rngs(0))
        narrow, wide = (cell.initialize_carry((3, 2), nnx.Rngs(0)).astype(d) for d in ("float32", "float64"))
        assert translated(cell, jnp.asarray(X, "float32"), narrow) is not None
        assert translated(cell, jnp.asarray(X, "float64"), narrow) is None
        assert translated(cell, jnp.asarray(X, "float32"), wide) is None


def test_what_only_the_engine_offers_works_for_flax_s_cells_too():
    cell = randomized(nnx.LSTMCell(2, 4, rngs=nnx.Rngs(0)))
    x = jnp.asarray(X)
    masks: Any = {"seq_lengths": jnp.array([5, 0, 3]), "resets": jnp.asarray(X[..., 0] > 0.5)}
    plain: Any = jaxrnn.RNN(cell, return_carry=True)(x, **masks)
    in_blocks: Any = jaxrnn.RNN(cell, return_carry=True, remat_every=2)(x, **masks)
    assert_equal(in_blocks, plain, 1e-6)
    stack = jaxrnn.StackedRNN([cell], recurrent_dropout=0.5, rngs=nnx.Rngs(1))
    assert not np.allclose(stack(x), stack(x))


def test_a_carry_of_another_form_is_refused():
    lstm, gru = nnx.LSTMCell(2, 4, rngs=nnx.Rngs(0)), nnx.GRUCell(2, 4, rngs=nnx.Rngs(0))
    h, x = jnp.zeros((3, 4)), jnp.asarray(X)
    for carry in (h, [h, h], jaxrnn.LSTMCarry(h, h)):
        with pytest.raises(ValueError, match="but LSTMCell needs PyTreeDef"):
            jaxrnn.RNN(lstm)(x, initial_carry=carry)
    with pytest.raises(ValueError, match=r"is float32 \(2, 4\), but for inputs of shape \(3, 2\)"):
        jaxrnn.RNN(gru)(x, initial_carry=h[:2])
    with pytest.raises(ValueError, match="ends in 3, but in_features is 2"):
        jaxrnn.RNN(gru)(jnp.zeros((3, 5, 3)))
