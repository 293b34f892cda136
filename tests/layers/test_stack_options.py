"""What a stack can do besides stacking: both directions, dropout, skip connections, rematerialised blocks."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.layers.sequence import run_cell

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 7, 2)), jnp.float32)
LENGTHS = jnp.array([7, 0, 4])
RESETS = jnp.asarray(np.random.default_rng(1).random((3, 7)) < 0.3)
KINDS = {"SimpleRNN": jaxrnn.SimpleRNN, "LSTM": jaxrnn.LSTM, "GRU": jaxrnn.GRU}


def assert_close(a, b, tolerance=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("merge", ["concat", "sum", "mean", lambda a, b: a * b])
def test_both_directions_are_two_layers_merged(kind, merge):
    stack = KINDS[kind](2, 4, bidirectional=True, merge=merge, return_carry=True, rngs=nnx.Rngs(0))
    forward, backward = stack.cells[0], stack.backward_cells[0]
    for lengths in (None, LENGTHS):
        carry, outputs = stack(X, seq_lengths=lengths)
        first, ahead = jaxrnn.RNN(forward, return_carry=True)(X, seq_lengths=lengths)
        second, back = jaxrnn.RNN(backward, return_carry=True, reverse=True, keep_order=True)(
            X, seq_lengths=lengths
        )
        named = {
            "concat": lambda a, b: jnp.concatenate([a, b], -1),
            "sum": jnp.add,
            "mean": lambda a, b: (a + b) / 2,
        }
        assert_close(outputs, named.get(merge, merge)(ahead, back))
        assert_close(carry, ((first, second),))
        pair = jaxrnn.Bidirectional(
            jaxrnn.RNN(forward), jaxrnn.RNN(backward), merge_fn=named.get(merge, merge), return_carry=True
        )
        pair_carry, pair_outputs = pair(X, seq_lengths=lengths)
        assert_close(pair_outputs, outputs)
        assert_close(pair_carry, (first, second))


@pytest.mark.parametrize("return_sequences", [True, False])
def test_a_merge_may_return_several_arrays_where_no_layer_reads_them(return_sequences):
    options: Any = {"bidirectional": True, "return_sequences": return_sequences, "rngs": nnx.Rngs(0)}
    apart = jaxrnn.GRU(2, 4, merge=lambda a, b: (a, b), **options)
    merged = jaxrnn.StackedRNN(
        list(apart.cells), backward_cells=list(apart.backward_cells), return_sequences=return_sequences
    )
    assert_close(jnp.concatenate(apart(X), -1), merged(X))
    with pytest.raises(ValueError, match=r"layer 0: merge returned a tuple, but layer 1 reads one array"):
        jaxrnn.GRU(2, 4, num_layers=2, merge=lambda a, b: (a, b), **options)(X)


def test_the_last_output_of_both_directions_is_what_each_computed_last():
    stack = jaxrnn.GRU(2, 4, bidirectional=True, return_sequences=False, rngs=nnx.Rngs(0))
    ahead = jaxrnn.RNN(stack.cells[0])(X)[:, -1]
    back = jaxrnn.RNN(stack.backward_cells[0], reverse=True, keep_order=True)(X)[:, 0]
    assert_close(stack(X), jnp.concatenate([ahead, back], -1))


def test_two_bidirectional_layers_read_both_directions_below():
    stack = jaxrnn.LSTM(2, (3, 5), bidirectional=True, rngs=nnx.Rngs(0))
    upper: Any = stack.cells[1]
    assert upper.in_features == 6
    assert stack(X).shape == (3, 7, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_carry_handed_over_goes_on_in_a_stack(kind):
    stack = KINDS[kind](2, 4, num_layers=2, return_carry=True, rngs=nnx.Rngs(0))
    carry, first = stack(X[:, :3])
    carry, second = stack(X[:, 3:], initial_carry=carry)
    whole_carry, whole = stack(X)
    assert_close(jnp.concatenate([first, second], 1), whole)
    assert_close(carry, whole_carry)


def test_skip_connections_add_what_a_layer_reads():
    plain = jaxrnn.SimpleRNN(2, 4, num_layers=2, rngs=nnx.Rngs(0))
    skipping = jaxrnn.StackedRNN(list(plain.cells), skip_connections=True)
    below = jaxrnn.RNN(plain.cells[0])(X)
    assert_close(skipping(X), plain(X) + below)
    last = jaxrnn.StackedRNN(list(plain.cells), skip_connections=True, return_sequences=False)
    assert_close(last(X), (plain(X) + below)[:, -1])
    with pytest.raises(ValueError, match="reads 4 features and returns 5"):
        jaxrnn.SimpleRNN(2, (4, 5), skip_connections=True, rngs=nnx.Rngs(0))(X)


class HalfShown(jaxrnn.RecurrentCell):
    """A cell with outputs of half the width of its hidden state."""

    def pointwise(self, carry, xw, rh):
        h = jnp.tanh(xw[0] + rh[0])
        return h, h[..., : self.hidden_features // 2]


@pytest.mark.parametrize(("kind", "hidden"), [(jaxrnn.GRUCell, 2), (HalfShown, 4)])
@pytest.mark.parametrize("lengths", [None, (0, 3, 5)])
def test_with_skip_connections_the_last_output_of_both_directions_is_what_each_computed_last(
    lengths, kind, hidden
):
    def stack(return_sequences):
        rngs = nnx.Rngs(0)
        cells, back = ([kind(2, hidden, rngs=rngs), kind(4, hidden, rngs=rngs)] for _ in range(2))
        options: Any = {"backward_cells": back, "skip_connections": True}
        return jaxrnn.StackedRNN(cells, return_sequences=return_sequences, **options)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 2)), jnp.float32)
    known = None if lengths is None else jnp.array(lengths)
    whole, last = (stack(every)(x, seq_lengths=known) for every in (True, False))
    ends = np.full(3, 4) if lengths is None else np.maximum(np.array(lengths) - 1, 0)
    expected = np.concatenate([np.asarray(whole)[np.arange(3), ends, :2], whole[:, 0, 2:]], axis=-1)
    np.testing.assert_array_equal(last, expected)


def test_the_last_output_of_rows_with_lengths_may_have_several_feature_axes():
    class Sum(nnx.RNNCellBase):
        num_feature_axes: Any = 2

        def initialize_carry(self, input_shape, rngs=None, carry_init=None):
            return jnp.zeros(input_shape)

        def __call__(self, carry, x):
            carry = carry + x
            return carry, carry

    x = jnp.arange(60.0).reshape(3, 5, 2, 2)
    last = jaxrnn.StackedRNN([Sum()], return_sequences=False)(x, seq_lengths=jnp.array([0, 3, 5]))
    np.testing.assert_array_equal(last, np.stack([x[b, :n].sum(axis=0) for b, n in enumerate((0, 3, 5))]))


def test_dropout_acts_between_layers_until_eval_and_again_from_train():
    model = jaxrnn.SimpleRNN(2, 64, num_layers=2, dropout=0.5, rngs=nnx.Rngs(0))
    plain = jaxrnn.StackedRNN(list(model.cells))
    assert not np.allclose(model(X), model(X))  # a new mask each time
    model.eval()
    assert_close(model(X), plain(X))
    model.train()
    assert not np.allclose(model(X), plain(X))


def test_recurrent_dropout_drops_the_same_units_at_every_step():
    """With the unit matrix as recurrent kernel, outputs show what was kept: a factor of 0 or 1 / (1 - rate)."""
    model = jaxrnn.SimpleRNN(
        1, 50, recurrent_dropout=0.5, activation_fn=lambda z: z, use_bias=False, rngs=nnx.Rngs(0)
    )
    cell: Any = model.cells[0]
    cell.kernel[...] = jnp.ones((1, 50))
    cell.recurrent_kernel[...] = jnp.eye(50)
    outputs = model(jnp.ones((4, 3, 1)))
    # A dropped unit reads only its input, a kept one 1, 1 + 2, 1 + 2 + 4.
    kept = np.isclose(outputs[:, 1], 3)
    np.testing.assert_allclose(outputs[:, 1], np.where(kept, 3, 1))
    np.testing.assert_allclose(outputs[:, 2], np.where(kept, 7, 1))
    assert 0.3 < kept.mean() < 0.7
    model.eval()
    np.testing.assert_allclose(model(jnp.ones((4, 3, 1)))[:, 2], 3.0)


def test_the_gradient_through_a_recurrent_mask_is_autodiff_s():
    cell = jaxrnn.LSTMCell(2, 4, rngs=nnx.Rngs(0))
    scale = jnp.asarray(np.random.default_rng(2).choice([0.0, 2.0], (3, 4)), jnp.float32)

    def loss(cell, x, implementation):
        carry, outputs = run_cell(cell, x, recurrent_scale=scale, implementation=implementation)
        return (outputs**2).sum() + carry.c.sum()

    x = jnp.swapaxes(X, 0, 1)
    assert_close(
        *(nnx.grad(loss, argnums=(0, 1))(cell, x, name) for name in ("scan", "reference")), tolerance=1e-5
    )


@pytest.mark.parametrize("kind", ["SimpleRNN", "LSTM"])
@pytest.mark.parametrize("remat_every", [3, 10])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("masks", [{}, {"seq_lengths": LENGTHS, "resets": RESETS}])
def test_rematerialised_blocks_change_no_number(kind, remat_every, reverse, masks):
    """Also where the blocks do not divide the sequence, and where one block is longer than it."""

    def results(remat_every, return_sequences):
        stack = KINDS[kind](
            2,
            4,
            reverse=reverse,
            return_carry=True,
            return_sequences=return_sequences,
            remat_every=remat_every,
            rngs=nnx.Rngs(0),
        )

        def loss(stack, x):
            carry, outputs = stack(x, **masks)
            return (outputs**2).sum() + sum(c.sum() for c in jax.tree.leaves(carry)), outputs

        return nnx.jit(nnx.value_and_grad(loss, argnums=(0, 1), has_aux=True))(stack, X)

    for return_sequences in (True, False):
        assert_close(results(remat_every, return_sequences), results(None, return_sequences), tolerance=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda r: jaxrnn.LSTM(2, 4, dropout=1.0, rngs=r),
            "dropout must be a number of at least 0 and below 1, not 1.0",
        ),
        (lambda r: jaxrnn.LSTM(2, 4, bidirectional=True, merge="add", rngs=r), "unknown merge 'add'; available"),
        (
            lambda r: jaxrnn.LSTM(2, 4, bidirectional=True, reverse=True, rngs=r),
            "reverse=True is not supported with bidirectional layers",
        ),
        (lambda r: jaxrnn.LSTM(2, 4, remat_every=0, rngs=r)(X), "remat_every must be a positive integer, not 0"),
        (
            lambda r: jaxrnn.StackedRNN([nnx.SimpleCell(2, 4, residual=True, rngs=r)], remat_every=2)(X),
            "remat_every=2 needs a cell that runs on the engine",
        ),
        (
            lambda r: jaxrnn.StackedRNN(
                [nnx.SimpleCell(2, 4, residual=True, rngs=r)], recurrent_dropout=0.5, rngs=r
            )(X),
            "recurrent dropout needs a cell that runs on the engine",
        ),
        (
            lambda r: jaxrnn.Bidirectional(*(jaxrnn.RNN(jaxrnn.GRUCell(2, 4, rngs=r)) for _ in range(2)))(
                X,
                initial_carry=(jnp.zeros((3, 4)),),  # pyright: ignore[reportArgumentType]
            ),
            "initial_carry must be a pair",
        ),
        (
            lambda r: jaxrnn.StackedRNN([jaxrnn.GRUCell(2, 4, rngs=r)], recurrent_dropout=0.1),
            "recurrent_dropout=0.1 needs rngs",
        ),
        (
            lambda r: jaxrnn.Bidirectional(*([jaxrnn.RNN(jaxrnn.GRUCell(2, 4, rngs=r))] * 2)),
            "the same object and would share parameters",
        ),
    ],
)
def test_what_does_not_fit_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call(nnx.Rngs(0))


def fourfold(x):
    return 4 * jnp.tanh(x)


@pytest.mark.parametrize("merge", ["concat", "sum", "mean"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("LSTM", {}), ("GRU", {}), ("SimpleRNN", {}), ("SimpleRNN", {"activation_fn": fourfold})],
    ids=["LSTM", "GRU", "SimpleRNN", "own activation"],
)
def test_layers_can_be_pickled(kind, options, merge):
    layers = KINDS[kind](2, 4, bidirectional=True, merge=merge, rngs=nnx.Rngs(0), **options)
    again = pickle.loads(pickle.dumps(layers))
    assert nnx.graphdef(again) == nnx.graphdef(layers)  # so that compiled programs are found again
    np.testing.assert_array_equal(again(X), layers(X))


def test_a_typo_in_an_option_is_an_error():
    with pytest.raises(TypeError, match="droput"):
        jaxrnn.LSTM(2, 4, droput=0.1, rngs=nnx.Rngs(0))
