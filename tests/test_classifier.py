"""The classifier of sequences against a Python loop over its cells, with NumPy's poolings."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.models import SequenceClassifier

LENGTHS = (6, 0, 4)
INPUTS = np.random.default_rng(0).normal(size=(3, 6, 2)).astype(np.float32)


def make(**options) -> SequenceClassifier:
    return SequenceClassifier(
        **{"in_features": 2, "hidden_features": 3, "num_classes": 4, "rngs": nnx.Rngs(0), **options}
    )


def by_hand(model: Any, sequence: np.ndarray) -> np.ndarray:
    """The logits of one sequence ``[time, features]``, float64 outside the cells."""
    outputs, last = [np.asarray(step, np.float32) for step in sequence], []
    for layer in model.layers:
        both, last = [], []
        for cell, order in [(layer.cells[0], 1), *((cell, -1) for cell in layer.backward_cells)]:
            carry, found = cell.initialize_carry((len(outputs[0]),), nnx.Rngs(0)), []
            for step in outputs[::order]:
                carry, output = cell(carry, jnp.asarray(step))
                found.append(np.asarray(output))
            last.append(found[-1])
            both.append(found[::order])
        outputs = [np.concatenate(parts) for parts in zip(*both)]
    steps = np.array(outputs, np.float64)
    match model.pooling:
        case "last":
            pooled = np.concatenate(last)
        case "mean":
            pooled = steps.mean(axis=0)
        case "max":
            pooled = steps.max(axis=0)
        case _:
            hidden = np.tanh(steps @ model.attention_hidden.kernel[...] + model.attention_hidden.bias[...])
            weights = np.exp(hidden @ model.attention_score.kernel[...])
            pooled = (weights * steps).sum(axis=0) / weights.sum()
    return pooled @ np.asarray(model.head.kernel[...]) + np.asarray(model.head.bias[...])


@pytest.mark.parametrize(
    ("pooling", "options"),
    [
        ("last", {"bidirectional": True}),
        ("mean", {"cell": "lstm", "hidden_features": (3, 2)}),
        ("max", {"cell": jaxrnn.SimpleRNNCell, "bidirectional": True, "num_layers": 2}),
        ("attention", {}),
    ],
)
def test_it_does_what_a_loop_over_each_sequence_does(pooling, options):
    model = make(pooling=pooling, **options)
    model.head.bias = nnx.Param(jnp.arange(4.0))
    padded = np.where(np.arange(6)[:, None] < np.array(LENGTHS)[:, None, None], INPUTS, 1e3)
    call = nnx.jit(lambda model, x: model(x, seq_lengths=jnp.array(LENGTHS)))
    logits = call(model, jnp.asarray(padded))
    for row, length in enumerate(LENGTHS):
        wanted = by_hand(model, INPUTS[row, :length]) if length else np.arange(4.0)
        np.testing.assert_allclose(logits[row], wanted, rtol=1e-5, atol=1e-5)
    too_long = jnp.array([length if length < 6 else 9 for length in LENGTHS])  # counts as all there are
    beyond = nnx.jit(lambda model, x, n: model(x, seq_lengths=n))(model, jnp.asarray(padded), too_long)
    np.testing.assert_array_equal(beyond, logits)
    grads = nnx.jit(nnx.grad(lambda model, x: call(model, x).sum(), argnums=1))(model, jnp.asarray(padded))
    assert np.isfinite(grads).all() and not grads[1].any() and not grads[2, 4:].any()


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
def test_inputs_and_lengths_may_be_lists(pooling):
    model: Any = make(pooling=pooling)
    wanted = model(jnp.asarray(INPUTS), seq_lengths=jnp.array(LENGTHS))
    np.testing.assert_array_equal(model(INPUTS.tolist(), seq_lengths=list(LENGTHS)), wanted)


def test_tokens_are_looked_up():
    words = make(vocabulary=5, pooling="mean")
    tokens = jnp.array([[4, 0, 2], [1, 1, 3]])
    assert words.embedding is not None
    vectors = words.embedding.embedding[...][tokens]
    words_logits = words(tokens)
    words.embedding = None
    np.testing.assert_array_equal(words_logits, words(vectors))


def test_dropout_acts_with_a_key_only():
    model = make(dropout=0.5, input_dropout=0.2, hidden_features=(8, 8))
    plain, inputs = make(hidden_features=(8, 8)), jnp.asarray(INPUTS)
    np.testing.assert_array_equal(model(inputs), plain(inputs))
    first, again, other = (model(inputs, dropout_key=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other) and not np.allclose(first, model(inputs))
    assert not jax.tree.leaves(nnx.state(model, nnx.RngState))


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_half_precision_gives_float32_logits(pooling):
    lengths = jnp.array(LENGTHS)
    whole = make(pooling=pooling)(jnp.asarray(INPUTS), seq_lengths=lengths)
    half = make(pooling=pooling, dtype=jnp.bfloat16)(jnp.asarray(INPUTS), seq_lengths=lengths)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, whole, atol=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "sum"}, "unknown pooling 'sum'; available: last, mean, max, attention"),
        ({"cell": "rnn"}, "unknown cell 'rnn'"),
        ({"num_classes": 0}, "num_classes must be a positive integer, not 0"),
        ({"vocabulary": -1}, "vocabulary must be a positive integer"),
        ({"dropout": 1.0}, "dropout must be a number of at least 0 and below 1"),
        ({"bidirectional": "yes"}, "bidirectional"),
    ],
)
def test_invalid_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_other_features_than_at_training_are_refused():
    with pytest.raises(ValueError, match=r"must be \[batch, time, 2\]"):
        make()(jnp.ones((3, 6, 3)))
    with pytest.raises(ValueError, match="the inputs must be token numbers"):
        make(vocabulary=5)(jnp.ones((3, 6)))
