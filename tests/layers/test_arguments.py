"""Arguments that are none: refused where they are first seen, with their names and values, and what is wanted."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn

X = jnp.ones((3, 5, 2))


def cell(in_features: int = 2, **options: Any) -> Any:
    return jaxrnn.SimpleRNNCell(in_features, 4, rngs=nnx.Rngs(0), **options)


def rnn(*args: Any, **options: Any) -> Any:
    return jaxrnn.RNN(*(args or [cell()]), **options)


def stack(cells: Any = None, **options: Any) -> Any:
    return jaxrnn.StackedRNN([cell(), cell(4)] if cells is None else cells, **options)


def lstm(*sizes: Any, rngs: Any = None, **options: Any) -> Any:
    return jaxrnn.LSTM(*(sizes or (2, 4)), rngs=nnx.Rngs(0) if rngs is None else rngs, **options)


def both(*layers: Any) -> Any:
    return jaxrnn.Bidirectional(*layers)


def assert_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: "lstm", "'lstm'"),
        (lambda: None, "None"),
        (lambda: 3, "3"),
        (lambda: nnx.Linear, "<class"),
        (lambda: jaxrnn.LSTM, "<class"),
        (lstm, "a LSTM"),
        (rnn, "a RNN"),
        (lambda: nnx.Linear(2, 4, rngs=nnx.Rngs(0)), "a Linear"),
    ],
)
def test_what_is_no_cell_is_refused(make, text):
    value = make()
    assert_refused(
        lambda: rnn(value), "cell must be a cell, such as jaxrnn.LSTMCell(...), any other nnx.RNNCellBase"
    )
    assert_refused(lambda: rnn(value), f"not {text}")
    assert_refused(lambda: stack([cell(), value]), "cells[1] must be a cell")


def test_a_class_a_lone_cell_and_one_cell_twice_are_refused():
    assert_refused(lambda: stack([jaxrnn.GRUCell]), "cells[0] is the class GRUCell: make one, GRUCell(...)")
    assert_refused(lambda: stack(cell()), "cells must be a sequence of cells, one per layer, not a SimpleRNNCell")
    one = cell()
    assert_refused(lambda: stack([one, one]), "the stack has the same cell twice")
    assert_refused(lambda: stack([one], backward_cells=[one]), "the stack has the same cell twice")
    assert_refused(lambda: both(rnn(one), rnn(one)), "have the same cell and would share parameters: make two")


@pytest.mark.parametrize("rngs", [0, "seed", np.random.default_rng(0), jax.random.key(0)], ids=str)
def test_only_rngs_are_rngs(rngs):
    message = f"rngs must be nnx.Rngs, such as nnx.Rngs(0), not {rngs!r}"
    assert_refused(lambda: jaxrnn.GRUCell(2, 4, rngs=rngs), message)
    assert_refused(lambda: lstm(rngs=rngs), message)
    assert_refused(lambda: stack(dropout=0.5, rngs=rngs), f"rngs must be nnx.Rngs or None, not {rngs!r}")
    nothing: Any = None
    assert_refused(lambda: jaxrnn.GRU(2, 4, rngs=nothing), "such as nnx.Rngs(0), not None")


@pytest.mark.parametrize(
    "make",
    [
        lstm,
        cell,
        lambda: "lstm",
        lambda: None,
        lambda: jaxrnn.RNN,
        lambda: nnx.Linear(2, 4, rngs=nnx.Rngs(0)),
    ],
)
def test_what_cannot_be_called_like_an_rnn_is_no_direction(make):
    layer = make()
    assert_refused(
        lambda: both(layer, rnn()), "forward_rnn must be a jaxrnn.RNN or another layer that is called like one"
    )
    assert_refused(lambda: both(rnn(), layer), "backward_rnn must be a jaxrnn.RNN")
    assert both(rnn(), nnx.RNN(cell()))(X).shape == (3, 5, 8)


FLAGS = {
    "rnn": (rnn, "time_major return_carry reverse keep_order"),
    "lstm": (
        lstm,
        "time_major return_carry reverse keep_order bidirectional return_sequences skip_connections use_bias "
        "unit_forget_bias",
    ),
    "gru": (
        lambda **options: jaxrnn.GRUCell(2, 4, rngs=nnx.Rngs(0), **options),
        "use_bias reset_after",
    ),
    "rnn call": (lambda **options: rnn()(X, **options), "time_major return_carry reverse keep_order"),
    "lstm call": (lambda **options: lstm()(X, **options), "return_carry"),
}


@pytest.mark.parametrize(
    ("make", "name"), [pytest.param(m, n, id=f"{i} {n}") for i, (m, ns) in FLAGS.items() for n in ns.split()]
)
def test_a_flag_is_a_bool(make, name):
    for value in ("no", 1):
        assert_refused(lambda value=value: make(**{name: value}), f"{name} must be True or False, not {value!r}")
    make(**{name: np.bool_(False)})


@pytest.mark.parametrize("name", ["num_layers", "unroll", "remat_every"])
def test_integers_are_of_any_integral_type_and_no_bools(name):
    for value in (True, 0, 1.0, "1"):
        assert_refused(
            lambda value=value: lstm(**{name: value}), f"{name} must be a positive integer, not {value!r}"
        )
    for value in (np.int64(1), np.array(1)):
        # Blocks of a single step run on the scan, which rounds differently.
        np.testing.assert_allclose(lstm(**{name: value})(X), lstm()(X), rtol=0, atol=1e-6)
    assert lstm(np.int64(2), np.int32(4))(X).shape == (3, 5, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lstm(2, True), "hidden_features must be a positive integer, not True"),
        (lambda: lstm(2, (4, None), bidirectional=True), "hidden_features must be a positive integer, not None"),
        (lambda: lstm(2, "44"), "hidden_features must be a positive integer, not '44'"),
        (lambda: cell(param_dtype=None), "param_dtype must be a floating type, not None"),
        (lambda: cell(dtype="half a float"), "dtype must be a floating type, not 'half a float'"),
        (lambda: lstm(merge=3), "unknown merge 3; available: concat, sum, mean, or a function of two arrays"),
        (lambda: lstm(merge=None), "unknown merge None; available"),
        (lambda: lstm(dropout="0.5"), "dropout must be a number of at least 0 and below 1, not '0.5'"),
        (
            lambda: lstm(recurrent_dropout=None),
            "recurrent_dropout must be a number of at least 0 and below 1, not",
        ),
        (
            lambda: jaxrnn.GRUCell(2, 4, use_recurrent_bias="no", rngs=nnx.Rngs(0)),
            "use_recurrent_bias must be True, False, \"candidate\" or None, not 'no'",
        ),
        (lambda: lstm(implementation="cuda"), "unknown implementation 'cuda'; available: pallas"),
        (lambda: rnn(implementation="cuda"), "unknown implementation 'cuda'; available: pallas"),
        (lambda: rnn(state_axes={...: None}), "state_axes={Ellipsis: None} is not supported"),
        (lambda: rnn(state_axes=0), "state_axes=0 is not supported: leave it out, or pass Flax's default"),
    ],
)
def test_what_is_none_is_refused_at_construction(call, message):
    assert_refused(call, message)


@pytest.mark.parametrize("value", [None, "abc", object()], ids=["None", "str", "object"])
def test_what_is_no_array_is_named(value):
    text = f"must be an array of numbers, not {value!r}"
    for make in (rnn, lstm):
        assert_refused(lambda make=make: make()(value), f"inputs {text}")
    assert_refused(lambda: cell()(jnp.zeros((3, 4)), value), f"inputs {text}")
    if value is not None:
        assert_refused(lambda: rnn()(X, seq_lengths=value), f"seq_lengths {text}")
        assert_refused(lambda: rnn()(X, resets=value), f"resets {text}")
        assert_refused(lambda: rnn()(X, initial_carry=value), f"the carry {text}")
        assert_refused(lambda: stack()(X, initial_carry=(None, value)), f"layer 1: the carry {text}")
        assert_refused(lambda: stack()(X, initial_carry=value), f"must be a tuple of 2 carries, not {value!r}")


@pytest.mark.parametrize("make", [rnn, stack], ids=["rnn", "stack"])
def test_shapes_are_said_in_the_caller_s_axes(make):
    wrong = jnp.zeros((5, 3), bool)
    assert_refused(
        lambda: make()(X, resets=wrong), "resets must be bool of shape (3, 5), one for every step, not bool (5"
    )
    assert_refused(
        lambda: make()(X, resets=jnp.zeros((3, 5))), "bool of shape (3, 5), one for every step, not float32 (3"
    )
    assert_refused(lambda: make(time_major=True)(X, resets=wrong), "resets must be bool of shape (3, 5)")
    assert_refused(
        lambda: make()(X, seq_lengths=jnp.ones(5, int)), "seq_lengths must be integers of shape (3,), not int"
    )
    assert_refused(
        lambda: make(time_major=True)(X, seq_lengths=[1, 2, 3]), "seq_lengths must be integers of shape (5,)"
    )


def test_errors_of_a_stack_name_the_layer():
    assert_refused(
        lambda: stack([cell(), cell(3)])(X), "layer 1: it reads 3 features, but the layer below returns 4"
    )
    zeros = jnp.zeros((3, 4))
    assert_refused(lambda: stack()(X, initial_carry=(zeros, zeros[:1])), "layer 1: the carry is float32 (1, 4)")
    assert_refused(
        lambda: lstm(num_layers=2)(X, initial_carry=(zeros, None)), "layer 0: the carry has the structure"
    )


def test_dropout_with_one_layer_is_warned_of():
    with pytest.warns(UserWarning, match=r"dropout=0.5 has no effect in a stack of one layer"):
        lstm(dropout=0.5)
