"""LanguageModel: its parts, its carry, its dropout; and what it writes against a loop over the whole text."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.models import generate, sample_tokens

VOCABULARY = 7
NO_LIST: Any = 3
TOKENS = np.random.RandomState(0).randint(0, VOCABULARY, (3, 6))


def model(**options: Any) -> Any:
    options = {"hidden_features": (5, 4), "rngs": nnx.Rngs(0)} | options
    made = jaxrnn.LanguageModel(VOCABULARY, **options)
    made.bias[...] = jnp.arange(VOCABULARY) / 10.0  # initially zeros, which would hide a missing bias
    return made


@pytest.mark.parametrize(
    "options", [{"embedding_features": 3}, {"tie_head": True, "cell": "gru"}, {"dtype": jnp.bfloat16}], ids=str
)
def test_the_logits_are_those_of_embedding_layers_and_head(options):
    made = model(**options)
    hidden = made.layers(made.embedding.embedding[...][TOKENS].astype(options.get("dtype", jnp.float32)))
    kernel = made.embedding.embedding[...].T if "tie_head" in options else made.head.kernel[...]
    logits = made(TOKENS)
    assert logits.dtype == jnp.float32
    tolerance = 3e-2 if "dtype" in options else 1e-5
    np.testing.assert_allclose(logits, hidden.astype(jnp.float32) @ kernel + made.bias[...], atol=tolerance)
    assert made.embedding.embedding[...].shape == (VOCABULARY, options.get("embedding_features", 4))


def test_a_carry_handed_over_continues_the_text_and_lengths_and_resets_reach_the_layers():
    made = model()
    carry, whole = made(TOKENS, return_carry=True)
    first, head = made(TOKENS[:, :2], initial_carry=made.initialize_carry(3), return_carry=True)
    np.testing.assert_allclose(
        jnp.concatenate([head, made(TOKENS[:, 2:], initial_carry=first)], 1), whole, atol=1e-6
    )
    resets = jnp.zeros((3, 6), bool).at[:, 2].set(True)
    anew = made(TOKENS, initial_carry=carry, resets=resets, reset_carry="zeros")
    np.testing.assert_allclose(anew[:, 2:], made(TOKENS[:, 2:]), atol=1e-6)
    short = made(TOKENS, seq_lengths=jnp.array([2, 6, 0]))
    np.testing.assert_allclose(short[0, :2], whole[0, :2], atol=1e-6)
    np.testing.assert_allclose(short[2], jnp.broadcast_to(made.bias[...], (6, VOCABULARY)), atol=1e-6)


def test_a_key_drops_the_same_again_and_another_key_others_and_without_a_key_nothing_is_dropped():
    made, plain = model(dropout=0.5), model()
    np.testing.assert_array_equal(made(TOKENS), plain(TOKENS))
    np.testing.assert_array_equal(plain(TOKENS, dropout_key=jax.random.key(0)), plain(TOKENS))
    call = nnx.jit(lambda model, key: model(TOKENS, dropout_key=key))
    found = [call(made, jax.random.key(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()
    assert made.layers.dropout is None  # a call leaves the model as it was
    # With almost everything dropped, at each of the three places, only the biases are left.
    emptied = model(dropout=0.999999)(TOKENS, dropout_key=jax.random.key(0))
    np.testing.assert_allclose(emptied, jnp.broadcast_to(plain.bias[...], emptied.shape), atol=1e-6)


def greedy(made: Any, prompts: np.ndarray, length: int, exclude: int) -> np.ndarray:
    """The likeliest token again and again, each time from the whole text."""
    tokens = jnp.asarray(prompts)
    for _ in range(length):
        likeliest = made(tokens)[:, -1].at[:, exclude].set(-jnp.inf).argmax(-1)
        tokens = jnp.concatenate([tokens, likeliest[:, None]], axis=1)
    return np.asarray(tokens[:, prompts.shape[1] :])


@pytest.mark.parametrize(
    ("implementation", "options"),
    [("native", {}), ("jax", {"cell": "gru", "tie_head": True})],
    ids=["native", "jax"],
)
def test_at_a_temperature_of_zero_it_writes_what_is_likeliest_after_the_whole_text(implementation, options):
    made = model(**options)
    made.embedding.embedding[...] = made.embedding.embedding[...] * 9  # so that every token matters
    made.bias[...] = made.bias[...] * 0
    wanted = greedy(made, TOKENS[:, :3], 4, exclude=6)
    found = generate(made, TOKENS[:, :3], 4, temperature=0, exclude=[6], implementation=implementation)
    np.testing.assert_array_equal(found, wanted)
    assert len(np.unique(wanted)) > 1


class CappedModel(jaxrnn.LanguageModel):
    """Logits that are capped, and moved to other tokens."""

    def logits(self, hidden):
        return jnp.roll(jnp.tanh(super().logits(hidden)), 3, axis=-1)


def test_it_writes_with_the_logits_of_a_subclass():
    made = CappedModel(VOCABULARY, 4, rngs=nnx.Rngs(0))
    made.embedding.embedding[...] = made.embedding.embedding[...] * 9
    found = generate(made, TOKENS[:, :3], 4, temperature=0, exclude=[6])
    np.testing.assert_array_equal(found, greedy(made, TOKENS[:, :3], 4, exclude=6))


def test_a_temperature_near_zero_takes_the_likeliest():
    logits = np.array([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    for dtype in (np.float16, np.float32, np.float64, int):
        for temperature in (1e-30, 1e-40, 1e-46, 5e-324):
            drawn = sample_tokens(logits.astype(dtype), np.random.default_rng(0), temperature=temperature)
            np.testing.assert_array_equal(drawn, [1, 0])


def test_logits_of_bfloat16_and_of_jax_are_drawn_like_those_of_numpy():
    logits = (np.arange(40).reshape(4, 10) % 7 / 2).astype(np.float32)
    wanted = sample_tokens(logits, np.random.default_rng(0), top_p=0.9)
    for same in (jnp.asarray(logits), jnp.asarray(logits, jnp.bfloat16), np.asarray(logits, jnp.bfloat16)):
        np.testing.assert_array_equal(sample_tokens(same, np.random.default_rng(0), top_p=0.9), wanted)


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("row", [[np.nan, 0.0, 1.0], [-np.inf, -np.inf, -np.inf]], ids=["nan", "no token"])
def test_no_token_is_drawn_from_logits_that_are_not_finite(row, temperature):
    with pytest.raises(ValueError, match=r"the highest logit of row 1 is (nan|-inf), so no token can be drawn"):
        sample_tokens(np.array([[0.0, 1.0, 2.0], row]), np.random.default_rng(0), temperature=temperature)
    made = model()
    made.embedding.embedding[...] = jnp.full_like(made.embedding.embedding[...], jnp.nan)
    with pytest.raises(ValueError, match="the highest logit of row 0 is nan"):
        generate(made, TOKENS, 2, temperature=temperature)


def test_an_infinite_logit_is_the_likeliest():
    logits, random = np.array([[0.0, np.inf, 2.0]]), np.random.default_rng(0)
    assert sample_tokens(logits, random, temperature=0).tolist() == [1]
    with pytest.raises(ValueError, match="the highest logit of row 0 is inf"):
        sample_tokens(logits, random)


@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 0.0},
        {"top_p": "0.9"},
        {"top_k": 0},
        {"top_k": 2.5},
        {"temperature": -1.0},
        {"temperature": None},
    ],
)
def test_draws_that_make_no_sense_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be"):
        sample_tokens(np.zeros((2, 3)), np.random.default_rng(0), **options)


def test_the_same_seed_writes_the_same_again():
    made = model()
    texts = [generate(made, TOKENS, 20, seed=seed, exclude=[6]) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(texts[0], texts[1])
    assert (texts[0] != texts[2]).any() and (np.array(texts) < 6).all()


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        ({"temperature": 0.5}, [0.16 / 0.3, 0.09 / 0.3, 0.04 / 0.3, 0.01 / 0.3]),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.65}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.75}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.5}, [4 / 7, 3 / 7, 0, 0]),
        ({"temperature": 0}, [1, 0, 0, 0]),
    ],
    ids=str,
)
def test_tokens_are_drawn_with_their_probabilities(options, wanted):
    draws, order = 20000, [2, 0, 3, 1]  # the likeliest need not come first
    logits = np.zeros((draws, 4))
    logits[:, order] = np.log([0.4, 0.3, 0.2, 0.1]) + 3.0
    drawn = np.bincount(sample_tokens(logits, np.random.default_rng(0), **options), minlength=4)[order] / draws
    np.testing.assert_allclose(drawn, wanted, atol=4 * 0.5 / np.sqrt(draws))
    assert (drawn[np.array(wanted) == 0] == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: model(cell="lstn"), "unknown cell 'lstn'; available: simple_rnn"),
        (lambda: model(dropout=1), "dropout must be a number of at least 0 and below 1, not 1"),
        (
            lambda: model(tie_head=True, embedding_features=3),
            "needs embedding_features of the size of the top layer, 4",
        ),
        (lambda: model()(np.ones((2, 3))), "tokens must be integers [batch, time], not float32 (2, 3)"),
        (lambda: model()(TOKENS[0]), "tokens must be integers [batch, time], not int32 (6,)"),
        (lambda: generate(model(), [[7]], 1), "tokens from 0 to 6, but theirs reach from 7 to 7"),
        (lambda: generate(model(), [[]], 1), "at least one token each, not float64 (1, 0)"),
        (lambda: generate(model(), [[1]], 0), "length must be a positive integer, not 0"),
        (lambda: generate(model(), [[1]], 1, temperature=-1), "temperature must be a finite number of at least 0"),
        (lambda: generate(model(), [[1]], 1, top_p=0), "top_p must be above 0 and at most 1, not 0"),
        (lambda: generate(model(), [[1]], 1, exclude=[0, -1]), "exclude has tokens from 0 to 6, not -1"),
        (
            lambda: generate(model(), [[1]], 1, exclude=NO_LIST),
            "exclude must be a list of tokens, such as [0], not 3",
        ),
        (lambda: generate(model(), [[1]], 1, exclude=[7]), "exclude has tokens from 0 to 6, not 7"),
        (lambda: generate(model(), [[1]], 1, exclude=range(7)), "exclude has all 7 tokens"),
        (lambda: generate(model(), [[1]], 1, top_k=0), "top_k must be a positive integer, not 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_values(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
