"""A program that runs once has JAX's own random bits, wherever its random keys come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import mlir

from jaxrnn.ops import compilation
from jaxrnn.ops.compilation import for_one_call
from jaxrnn.ops.native import library, threefry

DRAWN = {
    "bits of 8": lambda key: jax.random.bits(key, (3, 5), "uint8"),
    "bits of 16": lambda key: jax.random.bits(key, (7,), "uint16"),
    "bits of 64": lambda key: jax.random.bits(key, (2, 3), "uint64"),
    "a block and a part": lambda key: jax.random.bits(key, (700,)),
    "nothing": lambda key: jax.random.bits(key, (0, 3)),
    "normal": lambda key: jax.random.normal(key, (33, 9)),
    "split": lambda key: jax.random.key_data(jax.random.split(key, (2, 3))),
    "folded": lambda key: jax.random.key_data(jax.random.fold_in(key, 12345)),
    "a key from a seed": lambda key: jax.random.normal(jax.random.key(-7), (2,)),
    "rejected in a loop": lambda key: jax.random.gamma(key, 0.3, (5,)),
    "sorted": lambda key: jax.random.permutation(key, 11),
    "many keys": lambda key: jax.vmap(lambda k: jax.random.uniform(k, (4,)))(jax.random.split(key, 3)),
    "in a scan": lambda key: jax.lax.scan(
        lambda k, _: (jax.random.fold_in(k, 1), jax.random.bits(k)), key, length=4
    )[1],
}


@pytest.fixture(autouse=True)
def library_in_use():
    reason = library.why_not_loaded()
    if reason is not None:
        pytest.skip(reason)


def lowered(function, *arguments):
    return jax.jit(function).trace(*arguments).lower(_private_parameters=threefry.lowering_parameters()).as_text()


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("wide", [False, True])
def test_the_bits_are_those_of_jax(name, wide):
    if name == "bits of 64" and not wide:
        pytest.skip("they need float64")
    with jax.enable_x64(wide):
        key = jax.random.key(2**40 + 3 if wide else 3)
        found, expected = for_one_call(DRAWN[name])(key), jax.jit(DRAWN[name])(key)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        assert name == "nothing" or "@jaxrnn_" in lowered(DRAWN[name], key)


@pytest.mark.parametrize("name", ["normal", "many keys", "bits of 16", "sorted"])
@pytest.mark.parametrize("generator", ["rbg", "unsafe_rbg", "threefry2x32, not partitionable"])
def test_other_generators_stay_as_they_are(name, generator):
    implementation, _, other = generator.partition(", ")
    with jax.threefry_partitionable(not other):
        key = jax.random.key(3, impl=implementation)
        np.testing.assert_array_equal(for_one_call(DRAWN[name])(key), jax.jit(DRAWN[name])(key))
        assert "jaxrnn_random_words" not in lowered(DRAWN[name], key)


def test_all_bits_of_a_key_are_one_call():
    key = jax.random.key(0)
    assert lowered(lambda key: jax.random.bits(key, (5, 3)), key).count("@jaxrnn_random_words") == 1
    assert "iota" not in lowered(lambda key: jax.random.normal(key, (5, 3)), key)


def test_the_bits_are_those_of_the_paper():
    # Threefry-2x32 with 20 rounds, from the known answers of Random123, the authors' own implementation.
    answers = [
        ([0] * 2, [0] * 2, [0x6B200159, 0x99BA4EFE]),
        ([0xFFFFFFFF] * 2, [0xFFFFFFFF] * 2, [0x1CB996FC, 0xBB002BE7]),
        ([0x13198A2E, 0x03707344], [0x243F6A88, 0x85A308D3], [0xC4923A9C, 0x483DF7A0]),
    ]
    for key, counts, expected in answers:
        found = jax.jit(lambda *words: threefry._threefry(*words))(*np.array([*key, *counts], np.uint32))
        assert [int(word) for word in found] == expected


def test_a_program_is_compiled_once_for_shapes_and_runs_with_other_values():
    traced = []

    def draw(key, scale):
        traced.append(scale.shape)
        return scale * jax.random.normal(key, (2,))

    once = for_one_call(draw)
    for seed, scale in ((0, jnp.ones(2)), (1, jnp.zeros(2)), (2, jnp.ones(()))):
        key = jax.random.key(seed)
        np.testing.assert_allclose(once(key, scale), scale * jax.random.normal(key, (2,)), rtol=1e-6)
    assert traced == [(2,), ()]


def test_within_transformations_it_is_the_plain_function():
    key, keys = jax.random.key(0), jax.random.split(jax.random.key(0), 3)

    def draw(key):
        return for_one_call(lambda: jax.random.normal(key, (2,)))()

    expected = jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
    np.testing.assert_array_equal(jax.jit(draw)(key), jax.random.normal(key, (2,)))
    np.testing.assert_array_equal(jax.vmap(draw)(keys), expected)
    np.testing.assert_array_equal(jax.vmap(for_one_call(lambda key: jax.random.normal(key, (2,))))(keys), expected)
    gradient = jax.grad(lambda x: for_one_call(lambda: x * jax.random.normal(key))())(2.0)
    assert gradient == jax.random.normal(key)
    assert jax.eval_shape(draw, key).shape == (2,)


def test_other_generators_and_a_missing_library_are_left_to_jax(monkeypatch):
    key = jax.random.key(0, impl="rbg")
    np.testing.assert_array_equal(
        for_one_call(lambda k: jax.random.normal(k, (3,)))(key), jax.random.normal(key, (3,))
    )
    monkeypatch.delattr(mlir, "LoweringParameters")  # a later JAX may not have it
    monkeypatch.setattr(compilation, "lowering_parameters", threefry.lowering_parameters.__wrapped__)
    assert compilation.lowering_parameters() is None
    key = jax.random.key(1)
    np.testing.assert_array_equal(
        for_one_call(lambda k: jax.random.normal(k, (3,)))(key), jax.random.normal(key, (3,))
    )


def test_an_error_of_the_function_is_raised():
    def wrong():
        raise TypeError("no such initialiser")

    with pytest.raises(TypeError, match="no such initialiser"):
        for_one_call(wrong)()
