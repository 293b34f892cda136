"""Weights from the real Flax Linen, Haiku and equinox, and of whole Keras models: the outputs must agree."""

import os
import re
import warnings
from types import SimpleNamespace
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import interop

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 7, 4)), jnp.float32)


def peer(name: str) -> Any:
    os.environ["KERAS_BACKEND"] = "jax"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed")


def randomized(tree: Any) -> Any:
    """Every array random, biases included, so that nothing agrees by being zero."""
    leaves, treedef = jax.tree.flatten(tree)
    random = np.random.default_rng(1)
    return jax.tree.unflatten(treedef, [jnp.asarray(random.normal(size=a.shape) / 2, a.dtype) for a in leaves])


def assert_close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-5, atol=1e-5)


CANDIDATE: Any = {"use_recurrent_bias": "candidate"}


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (linen.OptimizedLSTMCell, lambda r: jaxrnn.LSTMCell(4, 5, rngs=r)),
        (linen.LSTMCell, lambda r: jaxrnn.LSTMCell(4, 5, rngs=r)),
        (linen.GRUCell, lambda r: jaxrnn.GRUCell(4, 5, **CANDIDATE, rngs=r)),
        (linen.GRUCell, lambda r: jaxrnn.GRUCell(4, 5, rngs=r)),
        (linen.SimpleCell, lambda r: jaxrnn.SimpleRNNCell(4, 5, rngs=r)),
    ],
)
def test_linen(kind, make):
    module, layer = linen.RNN(kind(5), return_carry=True), jaxrnn.RNN(make(nnx.Rngs(0)), return_carry=True)
    variables = randomized(module.init(jax.random.key(0), X))
    their_carry, theirs = module.apply(variables, X)
    for part in (variables, variables["params"]["cell"]):
        interop.load_linen_weights(layer, part)
        carry, ours = layer(X)
        assert_close(ours, theirs)
        for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(their_carry), strict=True):
            assert_close(a, b)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("LSTM", lambda r: jaxrnn.LSTMCell(4, 5, rngs=r)),
        ("GRU", lambda r: jaxrnn.GRUCell(4, 5, reset_after=False, rngs=r)),
        ("VanillaRNN", lambda r: jaxrnn.SimpleRNNCell(4, 5, activation_fn=jax.nn.relu, rngs=r)),
        ("one bias", lambda r: jaxrnn.SimpleRNNCell(4, 5, activation_fn=jax.nn.relu, rngs=r)),
    ],
)
def test_haiku(kind, make):
    haiku = peer("haiku")

    def run(x):
        core = haiku.VanillaRNN(5, double_bias=False) if kind == "one bias" else getattr(haiku, kind)(5)
        return haiku.dynamic_unroll(core, x, core.initial_state(3), time_major=False)[0]

    network = haiku.without_apply_rng(haiku.transform(run))
    params = randomized(network.init(jax.random.key(0), X))
    layer = jaxrnn.RNN(make(nnx.Rngs(0)))
    interop.load_haiku_weights(layer, params)
    assert_close(layer(X), network.apply(params, X))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell"])
def test_equinox(kind, use_bias):
    equinox = peer("equinox")
    module = randomized(getattr(equinox.nn, kind)(4, 5, use_bias=use_bias, key=jax.random.key(0)))
    options = CANDIDATE if kind == "GRUCell" and use_bias else {}
    layer = jaxrnn.RNN(getattr(jaxrnn, kind)(4, 5, use_bias=use_bias, **options, rngs=nnx.Rngs(0)))
    interop.load_equinox_weights(layer, module)

    def one(xs):
        def step(carry, x):
            carry = module(x, carry)
            return carry, carry[0] if kind == "LSTMCell" else carry

        zeros = jnp.zeros(5)
        return jax.lax.scan(step, (zeros, zeros) if kind == "LSTMCell" else zeros, xs)[1]

    assert_close(layer(X), jax.vmap(one)(X))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_whole_keras_models_both_ways(kind, bidirectional):
    keras = peer("keras")

    def theirs(units):
        layer = getattr(keras.layers, kind)(units, return_sequences=True)
        return keras.layers.Bidirectional(layer) if bidirectional else layer

    model = keras.Sequential([keras.Input((7, 4)), theirs(5), theirs(3)])

    def weights(part):  # get_weights() makes NumPy warn
        return [np.asarray(variable.value) for variable in part.weights]

    model.set_weights([np.asarray(array) for array in randomized(weights(model))])
    layers = getattr(jaxrnn, kind)(4, (5, 3), bidirectional=bidirectional, rngs=nnx.Rngs(0))
    interop.load_keras_weights(layers, weights(model))
    assert_close(layers(X), model(X))
    for ours, back in zip(interop.keras_weights(layers), weights(model), strict=True):
        np.testing.assert_array_equal(ours, back)
    if bidirectional:
        cells = [getattr(jaxrnn, f"{kind}Cell")(4, 5, rngs=nnx.Rngs(seed)) for seed in (1, 2)]
        both = jaxrnn.Bidirectional(*map(jaxrnn.RNN, cells))
        interop.load_keras_weights(both, weights(model.layers[0]))
        assert_close(both(X), model.layers[0](X))


def test_a_gru_with_a_bias_of_the_candidate_only_is_one_with_zeros_for_the_others():
    make = nnx.initializers.normal()
    few = jaxrnn.GRUCell(4, 5, **CANDIDATE, bias_init=make, rngs=nnx.Rngs(0))
    many = jaxrnn.GRUCell(4, 5, rngs=nnx.Rngs(1))
    assert few.recurrent_bias.shape == (5,)
    for name in ("kernel", "recurrent_kernel", "bias"):
        getattr(many, name)[...] = getattr(few, name)[...]
    many.recurrent_bias[...] = jnp.concatenate([jnp.zeros(10), few.recurrent_bias[...]])

    def loss(layer):
        return (layer(X) ** 2).sum()

    for implementation in ("scan", "native"):
        value, found = nnx.value_and_grad(loss)(jaxrnn.RNN(few, implementation=implementation))
        expected_value, expected = nnx.value_and_grad(loss)(jaxrnn.RNN(many, implementation=implementation))
        assert_close(value, expected_value)
        assert_close(found["cell"]["recurrent_bias"][...], expected["cell"]["recurrent_bias"][10:])
        assert_close(found["cell"]["bias"][...], expected["cell"]["bias"][...])
    step, carry = jaxrnn.streaming_step(few, X[:, 0])
    assert_close(step(carry, X[:, 0])[1], many(many.initialize_carry((3, 4)), X[:, 0])[1])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16], ids=["bfloat16", "float16"])
def test_sums_of_biases_in_half_precision_are_not_rounded(dtype):
    half = np.asarray(np.random.default_rng(0).normal(size=(3, 20)) * 3, dtype)
    wide = half.astype(np.float32)
    weights = {"w": np.zeros((9, 20), dtype), "b": half[0]}
    lstm = jaxrnn.LSTMCell(4, 5, rngs=nnx.Rngs(0))
    interop.load_haiku_weights(lstm, {"lstm/linear": weights})
    assert lstm.bias is not None
    i, g, f, o = np.split(wide[0], 4)
    np.testing.assert_array_equal(lstm.bias[...], np.concatenate([i, f + 1, g, o]))
    state = {"weight_ih_l0": np.zeros((20, 4), dtype), "weight_hh_l0": np.zeros((20, 5), dtype)}
    interop.load_torch_weights(jaxrnn.RNN(lstm), state | {"bias_ih_l0": half[1], "bias_hh_l0": half[2]})
    np.testing.assert_array_equal(lstm.bias[...], wide[1] + wide[2])


LSTM = {"lstm/linear": {"w": np.ones((9, 20)), "b": np.ones(20)}}
GRU = SimpleNamespace(weight_ih=np.ones((15, 4)), weight_hh=np.ones((15, 5)), bias=np.ones(15), bias_n=np.ones(5))


@pytest.mark.parametrize(
    ("load", "cell", "options", "weights", "message"),
    [
        (
            interop.load_linen_weights,
            jaxrnn.LSTMCell,
            {},
            {"params": {}},
            "needs the parameters ['hf', 'hg', 'hi'",
        ),
        (
            interop.load_linen_weights,
            jaxrnn.GRUCell,
            {"reset_after": False},
            {},
            "this cell has reset_after=False",
        ),
        (interop.load_haiku_weights, jaxrnn.LSTMCell, {"use_bias": False}, LSTM, "this one with use_bias=True"),
        (interop.load_haiku_weights, jaxrnn.GRUCell, {}, LSTM, "make this cell with reset_after=False"),
        (interop.load_haiku_weights, jaxrnn.SimpleRNNCell, {}, LSTM, "needs the parameters b, w and w, not"),
        (interop.load_equinox_weights, jaxrnn.SimpleRNNCell, {}, GRU, "but no SimpleRNNCell"),
        (
            interop.load_equinox_weights,
            jaxrnn.LSTMCell,
            {},
            SimpleNamespace(weight_ih=np.ones((20, 4)), weight_hh=np.ones((20, 5)), bias=True),
            "the bias has shape (), but the cell needs (20,)",
        ),
        (interop.load_equinox_weights, jaxrnn.LSTMCell, {}, 3, "weight_ih, weight_hh, bias, not 3"),
        (
            interop.load_equinox_weights,
            jaxrnn.LSTMCell,
            {},
            GRU,
            "kernel has shape (4, 15), but the cell needs (4, 20",
        ),
        (interop.load_equinox_weights, jaxrnn.GRUCell, {"use_recurrent_bias": False}, GRU, '_bias="candidate"'),
        (interop.load_keras_weights, jaxrnn.LSTMCell, {}, [], "but the LSTMCell needs [(4, 20), (5, 20), (20,)]"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_values(load, cell, options, weights, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(cell(4, 5, **options, rngs=nnx.Rngs(0)), weights)


def test_a_recurrent_bias_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="\"candidate\" or None, not 'n'"):
        jaxrnn.GRUCell(4, 5, use_recurrent_bias="n", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="use_recurrent_bias='candidate' needs reset_after=True"):
        jaxrnn.GRUCell(4, 5, **CANDIDATE, reset_after=False, rngs=nnx.Rngs(0))
