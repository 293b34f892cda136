"""RNN: the drop-in for ``flax.nnx.RNN``, equal to it wherever that is right, for its cells and for ours."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn

TIME, ROWS, FEATURES, HIDDEN = 5, 3, 2, 4
LENGTHS = jnp.array([5, 2, 4])


def inputs(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.RandomState(seed).randn(*(shape or (ROWS, TIME, FEATURES))), jnp.float32)


def ours(**options: Any) -> jaxrnn.SimpleRNNCell:
    return jaxrnn.SimpleRNNCell(FEATURES, HIDDEN, rngs=nnx.Rngs(0), **options)


def assert_equal(found, expected, tolerance=1e-5):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({"unroll": 2}, {}),
        ({"time_major": True, "return_carry": True}, {}),
        ({"reverse": True, "keep_order": True, "time_major": True}, {}),
        ({"reverse": True, "return_carry": True}, {"reverse": False, "return_carry": False, "time_major": True}),
        ({"return_carry": True}, {"seq_lengths": LENGTHS, "reverse": True}),
        ({"return_carry": True}, {"seq_lengths": LENGTHS, "reverse": True, "keep_order": True}),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "make", [ours, lambda: nnx.LSTMCell(FEATURES, HIDDEN, rngs=nnx.Rngs(0))], ids=["ours", "lstm"]
)
def test_the_options_mean_what_they_mean_in_flax(make, options, call):
    cell = make()
    x = inputs(TIME, ROWS, FEATURES) if options.get("time_major") or call.get("time_major") else inputs()
    found: Any = jaxrnn.RNN(cell, **options)(x, **call)
    expected: Any = nnx.RNN(cell, **options)(x, **call)
    if "seq_lengths" in call:
        # Past the lengths flax puts out what it computes from the padding; we put out zeros.
        valid = (jnp.arange(TIME) < LENGTHS[:, None])[..., None]
        assert not jnp.where(valid, 0, found[1]).any()
        expected = (expected[0], jnp.where(valid, expected[1], 0))
    assert_equal(found, expected)


@pytest.mark.parametrize(
    "make", [ours, lambda: nnx.GRUCell(FEATURES, HIDDEN, rngs=nnx.Rngs(0))], ids=["ours", "gru"]
)
def test_lengths_of_zero_and_padding_of_nan_touch_nothing(make):
    cell, lengths = make(), jnp.array([0, 2, 5])
    x = jnp.where((jnp.arange(TIME) < lengths[:, None])[..., None], inputs(), jnp.nan)
    first = jnp.full((ROWS, HIDDEN), 0.5)
    graphdef, params = nnx.split(cell)

    def loss(params):
        carry, outputs = jaxrnn.RNN(nnx.merge(graphdef, params), return_carry=True)(
            x, initial_carry=first, seq_lengths=lengths
        )
        return outputs.sum(), (carry, outputs)

    gradients, (carry, outputs) = jax.grad(loss, has_aux=True)(params)
    np.testing.assert_array_equal(carry[0], first[0])
    assert not outputs[0].any() and not outputs[1, 2:].any()
    assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves((gradients, outputs)))
    alone, _ = jaxrnn.RNN(cell, return_carry=True)(x[1, :2], initial_carry=first[1])
    np.testing.assert_allclose(carry[1], alone, atol=1e-6)


@pytest.mark.parametrize(
    "make", [ours, lambda: nnx.SimpleCell(FEATURES, HIDDEN, rngs=nnx.Rngs(0))], ids=["ours", "flax"]
)
def test_a_reset_starts_again_from_the_initial_carry_and_padding_ignores_it(make):
    cell, first = make(), jnp.full((ROWS, HIDDEN), 0.5)
    resets = jnp.zeros((ROWS, TIME), bool).at[:, 3].set(True)
    layer = jaxrnn.RNN(cell, return_carry=True)
    carry, outputs = layer(inputs(), initial_carry=first, resets=resets, seq_lengths=jnp.array([5, 3, 5]))
    again, tail = layer(inputs()[:, 3:], initial_carry=first)
    head, _ = layer(inputs()[:, :3], initial_carry=first)
    for row in (0, 2):
        np.testing.assert_allclose(outputs[row, 3:], tail[row], atol=1e-6)
        np.testing.assert_allclose(carry[row], again[row], atol=1e-6)
    np.testing.assert_allclose(carry[1], head[1], atol=1e-6)


@pytest.mark.parametrize(("batch", "time_major"), [((), False), ((2, 1, 3), True), ((2, 3), False)])
def test_any_number_of_batch_axes(batch, time_major):
    x, lengths = inputs(6, TIME, FEATURES), jnp.array([5, 0, 2, 3, 4, 1])
    rows = int(np.prod(batch))
    layer = jaxrnn.RNN(ours(), return_carry=True, time_major=time_major)
    shaped = x[:rows].reshape(*batch, TIME, FEATURES)
    shaped_lengths = lengths[:rows].reshape(batch)
    carry, outputs = layer(jnp.moveaxis(shaped, -2, 0) if time_major else shaped, seq_lengths=shaped_lengths)
    outputs = jnp.moveaxis(outputs, 0, -2) if time_major else outputs
    expected = jaxrnn.RNN(ours(), return_carry=True)(x[:rows], seq_lengths=lengths[:rows])
    assert_equal((carry.reshape(rows, HIDDEN), outputs.reshape(rows, TIME, HIDDEN)), expected)


def test_value_and_grad_outside_jit_equals_inside_and_between_implementations():
    graphdef, params = nnx.split(ours())
    values = []
    for implementation in (None, "scan", "reference"):

        def loss(params, implementation=implementation):
            outputs: Any = jaxrnn.RNN(nnx.merge(graphdef, params), implementation=implementation)(inputs())
            return outputs.sum()

        values.append(jax.value_and_grad(loss)(params))
    values.append(jax.jit(jax.value_and_grad(loss))(params))
    for other in values[1:]:
        assert_equal(other, values[0])


def test_a_call_leaves_the_module_as_it_was():
    layer = jaxrnn.RNN(nnx.LSTMCell(FEATURES, HIDDEN, rngs=nnx.Rngs(0)))
    before = nnx.split(layer)
    layer(inputs(), return_carry=True, reverse=True)
    after = nnx.split(layer)
    assert before[0] == after[0]
    jax.tree.map(np.testing.assert_array_equal, before[1], after[1])


@pytest.mark.parametrize("library", [jaxrnn, nnx], ids=["ours", "flax"])
def test_a_bidirectional_layer_may_be_part_of_another(library):
    """With reverse and keep_order, which the outer one passes on, without effect, as in Flax."""

    def pair(seed: int) -> Any:
        cells = [nnx.GRUCell(FEATURES, HIDDEN, rngs=nnx.Rngs(seed + i)) for i in range(2)]
        return library.Bidirectional(*map(library.RNN, cells))

    inner, outer = pair(2), jaxrnn.Bidirectional(pair(0), pair(2))
    np.testing.assert_allclose(outer(inputs())[..., 2 * HIDDEN :], inner(inputs()), atol=1e-6)
    np.testing.assert_allclose(inner(inputs(), reverse=None, keep_order=None), inner(inputs()))
    if library is jaxrnn:
        resets = jnp.ones((ROWS, TIME), bool)
        assert (outer(inputs(), resets=resets) != outer(inputs())).any()


@pytest.mark.parametrize("axes", [None, {...: nnx.Carry}, nnx.StateAxes({nnx.Param: None, ...: nnx.Carry})])
def test_flax_s_usual_state_axes_are_taken(axes):
    cell = nnx.SimpleCell(FEATURES, HIDDEN, residual=True, rngs=nnx.Rngs(0))
    found, expected = (library.RNN(cell, state_axes=axes)(inputs()) for library in (jaxrnn, nnx))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_whole_numbers_and_numpy_arrays_are_read_as_well():
    x: Any = np.arange(10).reshape(5, 2)
    np.testing.assert_allclose(jaxrnn.RNN(ours())(x), jaxrnn.RNN(ours())(jnp.asarray(x, jnp.float32)))


def test_half_precision_cells_put_out_half_precision():
    carry, outputs = jaxrnn.RNN(ours(dtype=jnp.bfloat16), return_carry=True)(inputs())
    assert carry.dtype == outputs.dtype == jnp.bfloat16
    np.testing.assert_allclose(outputs.astype(jnp.float32), jaxrnn.RNN(ours())(inputs()), atol=3e-2)


class RandomStart(jaxrnn.SimpleRNNCell):
    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        return super().initialize_carry(input_shape, rngs, nnx.initializers.normal())


class FlaxRandomStart(nnx.SimpleCell):
    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        return super().initialize_carry(input_shape, rngs, nnx.initializers.normal())


@pytest.mark.parametrize("stream", [False, True], ids=["rngs", "stream"])
@pytest.mark.parametrize("where", ["constructor", "call"])
@pytest.mark.parametrize("make", [FlaxRandomStart, RandomStart])
def test_a_random_first_carry_is_drawn_from_the_rngs_given(make, where, stream):
    outputs = []
    for seed in (1, 2):
        rngs: Any = nnx.Rngs(seed).carry if stream else nnx.Rngs(seed)
        at_construction, at_call = ({"rngs": rngs}, {}) if where == "constructor" else ({}, {"rngs": rngs})
        layer = jaxrnn.RNN(make(FEATURES, HIDDEN, rngs=nnx.Rngs(0)), **at_construction)
        outputs.append(layer(inputs(1, FEATURES), **at_call))
    assert (outputs[0] != outputs[1]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: jaxrnn.RNN(ours())(jnp.ones(5)),
            "inputs.shape=(5,) has 1 axes, but needs time and 1 feature axes: [*batch, time, features]",
        ),
        (lambda: jaxrnn.RNN(ours())(inputs(3, 5, 7)), "ends in 7, but in_features is 2"),
        (
            lambda: jaxrnn.RNN(FlaxRandomStart(2, 4, rngs=nnx.Rngs(0)), implementation="scan")(inputs()),
            "implementation='scan' needs a cell that runs on the engine: a jaxrnn.RecurrentCell that does not "
            "override __call__, or an unmodified Flax cell. This FlaxRandomStart runs in a plain scan",
        ),
        (lambda: jaxrnn.RNN(ours(), implementation="fast")(inputs()), "unknown implementation 'fast'"),
        (
            lambda: jaxrnn.RNN(ours())(inputs(), initial_carry=(jnp.zeros((3, 4)), jnp.zeros((3, 4)))),
            "but SimpleRNNCell needs PyTreeDef(*): see its initialize_carry",
        ),
        (
            lambda: jaxrnn.RNN(ours())(inputs(), initial_carry=jnp.zeros((2, 4))),
            "the carry is float32 (2, 4), but for inputs of shape (3, 2) it must be a floating array of "
            "shape (3, 4)",
        ),
        (
            lambda: jaxrnn.RNN(ours(), time_major=True)(inputs(), initial_carry=jnp.zeros((3, 4))),
            "the carry is float32 (3, 4), but for inputs of shape (5, 2) it must be a floating array of "
            "shape (5, 4)",
        ),
        (
            lambda: jaxrnn.RNN(ours())(inputs(), initial_carry=jnp.zeros((3, 4), int)),
            "the carry is int32 (3, 4), but for inputs of shape (3, 2) it must be a floating array",
        ),
        (lambda: jaxrnn.RNN(ours())(inputs() * 1j), "inputs.dtype=dtype('complex64') must be a real type"),
        (
            lambda: jaxrnn.RNN(ours(), time_major=True)(inputs(), seq_lengths=jnp.array([1, 2, 3])),
            "seq_lengths must be integers of shape (5,), not int32 (3,)",
        ),
        (lambda: jaxrnn.RNN(ours())(inputs(), seq_lengths=jnp.ones(3)), "(3,), not float32 (3,)"),
        (lambda: jaxrnn.RNN(ours())(inputs(), seq_lengths=jnp.ones(3, bool)), "(3,), not bool (3,)"),
        (
            lambda: jaxrnn.RNN(jaxrnn.GRUCell),  # pyright: ignore[reportArgumentType]
            "cell is the class GRUCell: make one, GRUCell(...)",
        ),
        (
            lambda: jaxrnn.RNN(ours(), rngs=3),  # pyright: ignore[reportArgumentType]
            "rngs must be nnx.Rngs, one of its streams or a bool, not 3",
        ),
        (lambda: jaxrnn.RNN(ours())(inputs(), seq_lengths=jnp.array([6, 1, 1])), "reach from 1 to 6"),
        (lambda: jaxrnn.RNN(ours())(inputs(), seq_lengths=jnp.array([1, 1])), "integers of shape (3,)"),
        (
            lambda: jaxrnn.RNN(nnx.GRUCell(2, 4, rngs=nnx.Rngs(0)))(inputs(), seq_lengths=jnp.array([6, 1, 1])),
            "reach from 1 to 6",
        ),
        (
            lambda: jaxrnn.RNN(ours())(inputs(), resets=jnp.zeros((1, 5), bool)),
            "resets must be bool of shape (3, 5)",
        ),
        (
            lambda: jaxrnn.RNN(nnx.GRUCell(2, 4, rngs=nnx.Rngs(0)))(inputs(), resets=jnp.zeros((1, 5), bool)),
            "resets must be bool of shape (3, 5)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_values(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
