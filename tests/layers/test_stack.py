"""Stacks equal loops over layers and steps, hand their carries over, and refuse sizes that do not fit."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.layers.kinds import layer_sizes

LENGTHS = np.array([5, 0, 3])
X = jnp.asarray(np.random.RandomState(0).randn(3, 5, 2), jnp.float32)


def stack(**options: Any) -> Any:
    return jaxrnn.SimpleRNN(2, (4, 3), rngs=nnx.Rngs(0), **options)


def loop(layers, x, lengths, reverse: bool):
    """Row after row, layer after layer, step after step, in float64: carries and outputs aligned with x."""
    carries, outputs = [], np.asarray(x, np.float64)
    for cell in layers.cells:
        kernel, recurrent_kernel, bias = (
            np.asarray(p[...], np.float64) for p in (cell.kernel, cell.recurrent_kernel, cell.bias)
        )
        below, outputs = outputs, np.zeros((*outputs.shape[:2], len(bias)))
        carry = np.zeros((len(below), len(bias)))
        for row, length in enumerate(lengths):
            for t in reversed(range(length)) if reverse else range(length):
                carry[row] = np.tanh(below[row, t] @ kernel + bias + carry[row] @ recurrent_kernel)
                outputs[row, t] = carry[row]
        carries.append(carry)
    return carries, outputs


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "seq_lengths"])
def test_a_stack_equals_a_loop_over_layers_and_steps_and_its_last_output_is_the_last_computed(lengths, reverse):
    layers = stack(reverse=reverse, keep_order=True, return_carry=True, bias_init=nnx.initializers.normal())
    carries, outputs = layers(X, seq_lengths=lengths)
    wanted_carries, wanted = loop(layers, X, [5] * 3 if lengths is None else lengths, reverse)
    for a, b in zip([*carries, outputs], [*wanted_carries, wanted], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    layers.return_sequences = False
    last = layers(X, seq_lengths=lengths, return_carry=False)
    np.testing.assert_allclose(last, wanted_carries[-1], atol=1e-5)  # zeros where the length is 0


def test_reverse_puts_out_in_the_order_of_computation_unless_told_to_keep_it():
    aligned = stack(reverse=True, keep_order=True)(X, seq_lengths=LENGTHS)
    computed = stack(reverse=True)(X, seq_lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(computed[row, :length], aligned[row, :length][::-1])
        assert not computed[row, length:].any()


def test_time_major_moves_the_time_axis_of_inputs_outputs_and_resets():
    resets = jnp.zeros((3, 5), bool).at[1, 2].set(True)
    found = stack(time_major=True)(X.swapaxes(0, 1), resets=resets.T)
    expected = stack()(X, resets=resets)
    np.testing.assert_allclose(found.swapaxes(0, 1), expected, atol=1e-6)
    assert (expected != stack()(X)).any()


def test_a_carry_handed_over_continues_where_the_first_part_ended():
    layers = stack(return_carry=True, unroll=2, implementation="reference")
    carry, head = layers(X[:, :2], initial_carry=layers.initialize_carry((3, 2)))
    carry, tail = layers(X[:, 2:], initial_carry=list(carry))
    whole_carry, whole = layers(X)
    np.testing.assert_allclose(jnp.concatenate([head, tail], axis=1), whole, atol=1e-6)
    for a, b in zip(carry, whole_carry, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_stack_of_any_cells_feeds_each_the_one_below():
    below, above = nnx.GRUCell(2, 4, rngs=nnx.Rngs(0)), jaxrnn.SimpleRNNCell(4, 3, rngs=nnx.Rngs(1))
    mixed, first = jaxrnn.StackedRNN([below, above]), jaxrnn.RNN(below)(X)
    assert isinstance(first, jax.Array)
    np.testing.assert_allclose(mixed(X), jaxrnn.RNN(above)(first), atol=1e-6)
    assert mixed.num_layers == 2
    np.testing.assert_array_equal(mixed(X, initial_carry=mixed.initialize_carry((3, 2))), mixed(X))


@pytest.mark.parametrize(
    ("hidden_features", "num_layers", "sizes"),
    [(5, None, (5,)), (5, 3, (5, 5, 5)), ([4, 3], None, (4, 3)), ((4, 3), 2, (4, 3))],
)
def test_layer_sizes(hidden_features, num_layers, sizes):
    assert layer_sizes(hidden_features, num_layers) == sizes


def test_the_activation_reaches_every_layer():
    layers = stack(activation_fn=jnp.abs)
    assert (layers(X) >= 0).all() and all(cell.activation_fn is jnp.abs for cell in layers.cells)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: layer_sizes((4, 3), 3), "hidden_features=(4, 3) has 2 layers, but num_layers=3"),
        (lambda: layer_sizes(4, 1.5), "num_layers must be a positive integer, not 1.5"),  # pyright: ignore[reportArgumentType]
        (lambda: layer_sizes(4, 0), "num_layers must be a positive integer, not 0"),
        (lambda: layer_sizes((), None), "at least one layer is needed: hidden_features=()"),
        (lambda: jaxrnn.StackedRNN([]), "a stack needs at least one cell"),
        (lambda: stack()(X, initial_carry=(jnp.zeros((3, 4)),)), "must be a tuple of 2 carries, not 1"),
        (lambda: stack()(X, initial_carry=jnp.zeros((2, 3, 4))), "must be a tuple of 2 carries, not Array("),
        (
            lambda: stack()(X, initial_carry=(jnp.zeros((3, 4)), jnp.zeros((3, 4)))),
            "the carry is float32 (3, 4), but for inputs of shape (3, 4) it must be a floating array of "
            "shape (3, 3)",
        ),
        (
            lambda: stack(return_sequences=False)(X[:, :0]),
            "inputs.shape=(3, 0, 2) has no steps, so there is no last output",
        ),
        (
            lambda: stack(bidirectional=True)(X, initial_carry=(jnp.zeros((3, 4)),) * 2),
            "initial_carry must be a pair of carries, for the forward and the backward layer, not PyTreeDef(*)",
        ),
        (lambda: stack()(X[0, 0]), "has 1 axes, but needs time"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_values(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
