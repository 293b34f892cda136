"""Cells: one step at a time, right gradients for a user's own equations, and errors that show the values."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.cells import CELLS
from jaxrnn.ops.native.library import why_not_loaded


class LeakyCell(jaxrnn.RecurrentCell):
    """What a user would write: equations, and a parameter of its own."""

    def __init__(self, in_features: int, hidden_features: int, **options: Any):
        super().__init__(in_features, hidden_features, **options)
        self.leak = nnx.Param(jnp.linspace(-1, 1, hidden_features, dtype=self.param_dtype))

    def pointwise(self, carry, xw, rh):
        leak = jax.nn.sigmoid(self.leak[...])
        h = (1 - leak) * carry + leak * jnp.tanh(xw[0] + rh[0])
        return h, h


class GatedCell(jaxrnn.RecurrentCell):
    num_gates = 2

    def pointwise(self, carry, xw, rh):
        c, _ = carry
        c = jax.nn.sigmoid(xw[0] + rh[0]) * c + jnp.tanh(xw[1] + rh[1])
        return (c, jnp.tanh(c)), jnp.tanh(c)

    def carry_like(self, h):
        return (h, h)


def simple(in_features: Any = 3, hidden_features: Any = 4, **options: Any) -> jaxrnn.SimpleRNNCell:
    return jaxrnn.SimpleRNNCell(in_features, hidden_features, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("batch", [(), (2,), (2, 1, 3)], ids=str)
def test_simple_rnn_equals_the_simple_cell_of_flax_with_the_same_weights(batch):
    ours, theirs = simple(), nnx.SimpleCell(3, 4, rngs=nnx.Rngs(1))
    assert ours.bias is not None and theirs.dense_i.bias is not None
    theirs.dense_i.kernel[...], theirs.dense_i.bias[...] = ours.kernel[...], jnp.arange(4.0)
    theirs.dense_h.kernel[...] = ours.recurrent_kernel[...]
    ours.bias[...] = jnp.arange(4.0)
    random = np.random.RandomState(0)
    x, carry = jnp.asarray(random.randn(*batch, 3), "float32"), jnp.asarray(random.randn(*batch, 4), "float32")
    found, expected = ours(carry, x), theirs(carry, x)
    assert found[0].shape == (*batch, 4)
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [LeakyCell, GatedCell])
def test_a_users_cell_gets_right_gradients_of_all_its_parameters(make):
    with jax.enable_x64(True):
        cell = make(2, 3, use_recurrent_bias=True, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        graphdef, params = nnx.split(cell)
        x = jnp.asarray(np.random.RandomState(0).randn(4, 5, 2))
        weights = jnp.asarray(np.random.RandomState(1).randn(4, 5, 3))

        @jax.jit
        def on_the_engine(params):
            outputs: Any = jaxrnn.RNN(nnx.merge(graphdef, params))(x)
            return (weights * outputs).sum()

        def step_by_step(params):
            cell = nnx.merge(graphdef, params)
            carry, total = cell.initialize_carry((4, 2)), jnp.zeros(())
            for t in range(5):
                carry, y = cell(carry, x[:, t])
                total += (weights[:, t] * y).sum()
            return total

        found, expected = (jax.value_and_grad(f)(params) for f in (on_the_engine, step_by_step))
        names = {str(path[0].key) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
        assert names >= {"kernel", "recurrent_kernel", "bias", "recurrent_bias"}
        assert ("leak" in names) == (make is LeakyCell)
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected)):
            assert jnp.abs(b).max() > 0, jax.tree_util.keystr(path)
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


class Louder(jaxrnn.GRUCell):
    """A built-in cell with equations of its own, whose output is not the hidden state."""

    def pointwise(self, carry, xw, rh):
        carry, y = super().pointwise(carry, xw, rh)
        return carry, 2 * y


def test_equations_of_a_subclass_take_the_place_of_the_built_in_cell_s():
    louder, plain = (kind(3, 4, rngs=nnx.Rngs(0)) for kind in (Louder, jaxrnn.GRUCell))
    x = jnp.ones((2, 5, 3))
    carry = plain.initialize_carry((2, 3))
    np.testing.assert_allclose(louder(carry, x[:, 0])[1], 2 * plain(carry, x[:, 0])[1], rtol=1e-6)
    for whole in (True, False):
        found, expected = (jaxrnn.StackedRNN([cell], return_sequences=whole)(x) for cell in (louder, plain))
        np.testing.assert_allclose(found, 2 * expected, rtol=1e-5)


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_a_recurrent_bias_of_the_candidate_equals_one_of_all_gates_with_zeros(heads):
    options: dict[str, Any] = dict(num_heads=heads, bias_init=nnx.initializers.normal())
    cell = jaxrnn.GRUCell(3, 12, use_recurrent_bias="candidate", **options, rngs=nnx.Rngs(0))
    whole = jaxrnn.GRUCell(3, 12, **options, rngs=nnx.Rngs(0))
    assert cell.recurrent_bias is not None and whole.recurrent_bias is not None
    whole.recurrent_bias[...] = jnp.concatenate([jnp.zeros(24), cell.recurrent_bias[...]])
    x = jnp.asarray(np.random.RandomState(0).randn(2, 5, 3), jnp.float32)
    expected, carry = [], jnp.zeros((2, 12))
    for t in range(5):
        carry, y = whole(carry, x[:, t])
        expected.append(y)
    np.testing.assert_allclose(cell(jnp.zeros((2, 12)), x[:, 0])[1], expected[0], atol=1e-6)
    np.testing.assert_allclose(jaxrnn.RNN(cell)(x), jnp.stack(expected, 1), atol=1e-6)
    for implementation in ("native", "jax"):
        if implementation == "native" and why_not_loaded() is not None:
            continue
        step, carry = jaxrnn.streaming_step(cell, x[:, 0], implementation=implementation)
        for t in range(5):
            carry, y = step(carry, x[:, t])
            np.testing.assert_allclose(y, expected[t], atol=1e-6)


def test_every_gate_starts_orthogonal_and_biases_start_zero():
    cell = GatedCell(3, 4, use_recurrent_bias=True, rngs=nnx.Rngs(0))
    assert cell.kernel.shape == (3, 8) and cell.recurrent_kernel.shape == (4, 8)
    for gate in jnp.split(cell.recurrent_kernel[...], 2, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(4), atol=1e-5)
    # Glorot's limit is that of one gate's matrix, not of all of them side by side.
    limit = np.sqrt(6 / (3 + 4))
    assert np.sqrt(6 / (3 + 8)) < jnp.abs(cell.kernel[...]).max() <= limit
    for bias in (cell.bias, cell.recurrent_bias):
        assert bias is not None and bias.shape == (8,) and not bias[...].any()
    without = simple(use_bias=False)
    assert without.bias is None and without.recurrent_bias is None


def test_carries_have_the_batch_of_the_inputs_and_the_dtype_of_the_computation():
    c, h = GatedCell(3, 4, rngs=nnx.Rngs(0)).initialize_carry((5, 2, 3))
    assert c.shape == h.shape == (5, 2, 4) and not c.any() and not h.any()
    assert simple(dtype=jnp.bfloat16).initialize_carry((3,)).dtype == jnp.bfloat16
    for rngs in (nnx.Rngs(1), nnx.Rngs(1).carry):
        c, h = GatedCell(3, 4, rngs=nnx.Rngs(0)).initialize_carry((2, 3), rngs, nnx.initializers.normal())
        assert c.shape == (2, 4) and (c != h).any()


def test_half_precision_takes_half_precision_all_the_way():
    cell = simple(dtype=jnp.bfloat16)
    x = jnp.ones((2, 3))
    carry, y = cell(cell.initialize_carry(x.shape), x)
    assert carry.dtype == y.dtype == jnp.bfloat16 and cell.kernel[...].dtype == jnp.float32
    exact = simple()(jnp.zeros((2, 4)), x)[1]
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=2e-2)


def test_equal_cells_have_equal_equations_so_that_compiled_programs_are_found_again():
    a, b = (LeakyCell(2, 3, rngs=nnx.Rngs(seed)).pure_pointwise()[0] for seed in (0, 1))
    other = LeakyCell(2, 4, rngs=nnx.Rngs(0)).pure_pointwise()[0]
    assert a == b and hash(a) == hash(b) and a != other


def test_the_cells_that_scripts_may_name_can_be_made():
    for make in CELLS.values():
        assert make(2, 3, rngs=nnx.Rngs(0)).num_feature_axes == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simple(0), "in_features must be a positive integer, not 0"),
        (lambda: simple(3, 1.5), "hidden_features must be a positive integer, not 1.5"),
        (lambda: simple(3, -1), "hidden_features must be a positive integer, not -1"),
        (
            lambda: simple().initialize_carry((2, 3), carry_init=nnx.initializers.normal()),
            "carry_init needs rngs",
        ),
        (
            lambda: simple()(jnp.zeros((2, 4)), jnp.zeros((2, 5))),
            "inputs.shape=(2, 5) ends in 5, but in_features is 3",
        ),
        (lambda: simple().input_projection(jnp.zeros(())), "ends in None, but in_features is 3"),
        (
            lambda: simple()(jnp.zeros((7, 4)), jnp.zeros((2, 3))),
            "the carry is float32 (7, 4), but for inputs of shape (2, 3) it must be a floating array of "
            "shape (2, 4)",
        ),
        (lambda: simple()((), jnp.zeros((2, 3))), "the carry has the structure PyTreeDef(()), but SimpleRNNCell"),
        (lambda: simple()(jnp.zeros((2, 4), int), jnp.zeros((2, 3))), "the carry is int32 (2, 4)"),
        (
            lambda: jaxrnn.LSTMCell(3, 4, rngs=nnx.Rngs(0))((jnp.zeros((2, 4)),) * 2, jnp.zeros((2, 3))),
            "but LSTMCell needs PyTreeDef(CustomNode(namedtuple[LSTMCarry]",
        ),
        (
            lambda: jaxrnn.LSTMCell(3, 4, rngs=nnx.Rngs(0))(
                jaxrnn.LSTMCarry(jnp.zeros((1, 4)), jnp.zeros((2, 4))), jnp.zeros((2, 3))
            ),
            "the carry.c is float32 (1, 4)",
        ),
        (lambda: simple()(jnp.zeros((2, 4)), 1j * jnp.zeros((2, 3))), "must be a real type"),
        (lambda: simple(dtype=jnp.int32), "dtype must be a floating type, not"),
        (lambda: simple(activation_fn="tanh"), "activation_fn must be a function such as jnp.tanh, not 'tanh'"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_values(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


class OneGateTooMany(jaxrnn.RecurrentCell):
    def pointwise(self, carry, xw, rh):
        h = jnp.tanh(xw[0] + rh[1])
        return h, h


@pytest.mark.parametrize("implementation", [None, "scan", "reference"])
def test_a_gate_that_the_cell_does_not_have_is_an_error_that_names_num_gates(implementation):
    layer = jaxrnn.RNN(OneGateTooMany(3, 4, rngs=nnx.Rngs(0)), implementation=implementation)
    with pytest.raises(ValueError, match=r"it gets 1 gate in xw and 1 in rh.* num_gates"):
        layer(jnp.zeros((2, 5, 3)))


def test_numbers_in_lists_are_read_as_arrays():
    cell: Any = simple()
    h, x = np.ones((2, 4)), np.arange(6).reshape(2, 3)
    for a, b in zip(cell(h, x.tolist()), cell(h, x), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("leak", [0.2, [0.1, 0.5, 0.9]])
def test_a_leaky_cell_begins_with_the_leak_asked_for(leak):
    cell = jaxrnn.LeakyCell(2, 3, initial_leak=leak, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(jax.nn.sigmoid(cell.leak[...]), np.broadcast_to(leak, 3), rtol=1e-6)


@pytest.mark.parametrize("leak", [0, 1.0, float("nan"), [0.5, 0.5], [0.5, 2.0, 0.5], "half", None])
def test_a_leak_that_is_none_is_refused(leak):
    with pytest.raises(ValueError, match="initial_leak must be one number between 0 and 1, or one per unit, not"):
        jaxrnn.LeakyCell(2, 3, initial_leak=leak, rngs=nnx.Rngs(0))


def test_a_cell_without_equations_says_so():
    cell = jaxrnn.RecurrentCell(2, 3, rngs=nnx.Rngs(0))
    with pytest.raises(NotImplementedError, match=r"RecurrentCell must define pointwise\(carry, xw, rh\)"):
        cell(cell.initialize_carry((2,)), jnp.zeros(2))


def test_a_cell_may_have_an_attribute_that_has_no_hash():
    class Leaking(jaxrnn.SimpleRNNCell):
        def __init__(self, *sizes, share, rngs):
            super().__init__(*sizes, rngs=rngs)
            self.options = {"share": share}

        def pointwise(self, carry, xw, rh):
            h = self.options["share"] * jnp.tanh(xw[0] + rh[0]) + (1 - self.options["share"]) * carry
            return h, h

    x = jnp.ones((2, 5, 3))
    found = []
    for share in (0.25, 0.5):
        cell = Leaking(3, 4, share=share, rngs=nnx.Rngs(0))
        found.append(jaxrnn.RNN(cell)(x))
        np.testing.assert_allclose(found[-1], nnx.RNN(cell)(x), rtol=1e-5, atol=1e-6)
    assert not np.allclose(*found)
