"""Buckets: every sequence comes out once, whole, in one of few shapes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import jaxrnn
from jaxrnn import training
from jaxrnn.data import bucket_by_length


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=30),
    batch_size=st.integers(1, 7),
    num_buckets=st.integers(1, 6),
    shuffled=st.booleans(),
)
def test_every_sequence_comes_out_once_and_whole(lengths, batch_size, num_buckets, shuffled):
    sequences = [np.full((n, 2), i, np.float32) for i, n in enumerate(lengths)]
    buckets = bucket_by_length(sequences, batch_size=batch_size, num_buckets=num_buckets)
    seen, shapes = [], set()
    for batch in buckets.batches(np.random.default_rng(0) if shuffled else None):
        shapes.add(batch.inputs.shape)
        for inputs, length, row in zip(*batch):
            assert not inputs[length:].any()
            if row >= 0:
                seen.append(row)
                np.testing.assert_array_equal(inputs[:length], sequences[row])
            else:
                assert length == 0
    assert sorted(seen) == list(range(len(sequences)))
    assert len(shapes) == buckets.num_programs <= num_buckets
    steps = sum(batch.inputs.shape[0] * batch.inputs.shape[1] for batch in buckets.batches())
    assert buckets.padding == 1 - sum(lengths) / steps


def test_lengths_from_7_to_361_compile_as_many_programs_as_it_says():
    random = np.random.default_rng(0)
    sequences = [random.normal(size=(n, 3)).astype(np.float32) for n in random.integers(7, 362, 40)]
    buckets = bucket_by_length(sequences, batch_size=8, num_buckets=3)
    graphdef, params = nnx.split(jaxrnn.GRU(3, 4, return_sequences=False, rngs=nnx.Rngs(0)))
    compiled: Any = jax.jit(lambda p, x, lengths: nnx.merge(graphdef, p)(x, seq_lengths=lengths))
    for batch in buckets.batches():
        outputs = compiled(params, batch.inputs, batch.seq_lengths)
        row = int(np.argmax(batch.seq_lengths))
        alone = nnx.merge(graphdef, params)(jnp.asarray(sequences[batch.rows[row]]))
        np.testing.assert_allclose(outputs[row], alone, rtol=1e-5, atol=1e-6)
        break
    for batch in buckets.batches():
        compiled(params, batch.inputs, batch.seq_lengths)
    assert compiled._cache_size() == buckets.num_programs == 3
    assert 0 < buckets.padding < 0.4


@pytest.mark.parametrize(
    ("number", "shortest", "longest", "expected"),
    [
        (50, 7, 30, (29,)),  # 1,856 steps in one bucket, about a third less in four
        (5_000, 30, 30, (30,)),
        (5_000, 20, 60, (29, 39, 49, 59)),
        (700, 10, 30, (19, 29)),
    ],
)
def test_without_a_number_there_are_as_many_buckets_as_pay(number, shortest, longest, expected):
    lengths = np.linspace(shortest, longest, number, endpoint=False).astype(int)
    sequences = [np.zeros((n, 1), np.float32) for n in lengths]
    buckets = bucket_by_length(sequences, batch_size=16)
    assert buckets.lengths == expected
    every = [bucket_by_length(sequences, batch_size=16, num_buckets=n) for n in range(1, 5)]
    costs = [b.num_steps + 2_000 * b.num_programs for b in every]
    assert buckets.num_steps + 2_000 * buckets.num_programs == min(costs)
    assert buckets.num_steps == sum(b.inputs.shape[0] * b.inputs.shape[1] for b in buckets.batches())


@pytest.mark.parametrize(
    ("sequences", "options", "message"),
    [
        ([], {}, "no sequences"),
        ([np.ones((3, 2)), np.ones((3, 1))], {}, "may only differ in length"),
        ([np.ones(3), np.ones(3, np.float32)], {}, "may only differ in length"),
        ([np.ones(3)], {"num_buckets": 0}, "num_buckets must be a positive integer, not 0"),
        ([np.ones(3)], {"batch_size": 2.0}, "batch_size must be a positive integer, not 2.0"),
        ([np.ones(())], {}, "may only differ in length"),
    ],
)
def test_what_does_not_fit_is_said(sequences, options, message):
    with pytest.raises(ValueError, match=message):
        bucket_by_length(sequences, **{"batch_size": 2, **options})


def test_a_seed_is_no_generator_and_numpy_s_integers_are_integers():
    sizes: Any = {"batch_size": np.int64(2), "num_buckets": np.int32(1)}
    buckets = bucket_by_length([np.ones(3)], **sizes)
    with pytest.raises(ValueError, match=r"rng must be np.random.default_rng\(seed\) or None, not 0"):
        buckets.batches(0)  # pyright: ignore[reportArgumentType]


def test_other_sequences_must_be_alike_too():
    buckets = bucket_by_length([np.zeros((3, 2))], batch_size=2)
    for others in ([np.zeros((2, 2)), np.zeros((2, 1))], [np.zeros((2, 2), int), np.full((2, 2), 0.7)]):
        with pytest.raises(ValueError, match="may only differ in length"):
            buckets.of(others)
    with pytest.raises(ValueError, match=r"has the shape \(1,\), but one of the buckets' sequences \(2,\)"):
        buckets.of([np.zeros((2, 1))])
    with pytest.raises(ValueError, match="there are no sequences, so there are no outputs"):
        training.bucketed_outputs(lambda params, inputs, carry: (carry, inputs), {}, buckets.of([]))
