"""Training on sequences of many lengths: few programs, exact continuation, and only real rows count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import training
from jaxrnn.data import bucket_by_length

RNG = np.random.default_rng(0)
LABELS = np.arange(37) % 3
SEQUENCES = [RNG.normal(size=(n, 2)).astype(np.float32) for n in np.linspace(29, 361, 37).astype(int)]


class Linear:
    """Logits that are linear in the mean of a sequence. Counts how often it is traced."""

    def __init__(self):
        self.traced = 0

    def __call__(self, params, inputs, carry):
        self.traced += 1
        real = jnp.arange(inputs.inputs.shape[1]) < inputs.seq_lengths[:, None]
        total = (inputs.inputs * real[..., None]).sum(axis=1)
        return carry, total / jnp.maximum(inputs.seq_lengths, 1)[:, None] @ params


def start(apply, *, learning_rate=0.1, **options):
    optimizer = training.make_optimizer("sgd", learning_rate)
    buckets = bucket_by_length(SEQUENCES, batch_size=8, num_buckets=4)
    epoch = training.make_bucketed_epoch(apply, optimizer, training.cross_entropy(), buckets, LABELS, **options)
    return training.TrainState.create(jnp.ones((2, 3)), optimizer), epoch, buckets


def test_lengths_29_to_361_compile_at_most_four_programs():
    apply = Linear()
    state, epoch, buckets = start(apply)
    for _ in range(2):
        state, _ = epoch(state)
    assert buckets.num_programs == 4 and apply.traced == 4
    outputs = training.bucketed_outputs(apply, state.params, buckets)
    of_part = training.bucketed_outputs(apply, state.params, buckets.of(SEQUENCES[5:9]))
    assert apply.traced == 8  # four more without a gradient, which the part shares
    np.testing.assert_allclose(outputs, np.array([s.mean(axis=0) for s in SEQUENCES]) @ state.params, rtol=1e-4)
    np.testing.assert_array_equal(of_part, outputs[5:9])


def test_rows_that_fill_up_a_batch_do_not_count():
    state, epoch, buckets = start(Linear(), learning_rate=1e-30, shuffle=False)
    _, metrics = epoch(state)
    logits = np.array([s.mean(axis=0) for s in SEQUENCES]) @ np.ones((2, 3))
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(37), LABELS]
    np.testing.assert_allclose(metrics.loss, losses.mean(), rtol=1e-5)
    assert buckets.num_batches == epoch.steps > 37 / 8


def test_a_target_that_is_not_a_number_costs_its_own_batch_only():
    skipped = []
    for bad in (0, 20):
        buckets = bucket_by_length(SEQUENCES, batch_size=8, num_buckets=4)
        targets = np.ones((37, 3), np.float32)
        targets[bad] = np.nan
        optimizer = training.make_optimizer("sgd", 0.1)
        epoch = training.make_bucketed_epoch(Linear(), optimizer, training.huber, buckets, targets)
        state, _ = epoch(training.TrainState.create(jnp.ones((2, 3)), optimizer))
        skipped.append(int(state.totals.skipped))
    assert skipped == [1, 1]


def test_names_are_no_targets():
    buckets = bucket_by_length(SEQUENCES, batch_size=8)
    optimizer = training.make_optimizer("sgd", 0.1)
    with pytest.raises(ValueError, match="targets must be numbers, such as those of classes, not <U1"):
        training.make_bucketed_epoch(Linear(), optimizer, training.cross_entropy(), buckets, np.array(["a"] * 37))


def test_a_longer_sequence_gets_a_bucket_of_its_own():
    buckets = bucket_by_length(SEQUENCES, batch_size=8, num_buckets=4).of(
        [np.zeros((400, 2), np.float32), SEQUENCES[0]]
    )
    assert [batch.seq_lengths.max() for batch in buckets.batches()] == [29, 400]


def test_an_epoch_in_parts_is_the_same_epoch():
    """Also with dropout, a random order and an augmentation."""
    sequences = [s[:9] for s in SEQUENCES[:12]]

    def make():
        return jaxrnn.SequenceClassifier(2, 3, num_classes=3, dropout=0.5, rngs=nnx.Rngs(0))

    def noisy(rng, sequence, longest):
        changed = (sequence + rng.normal(size=sequence.shape)).astype(np.float32)
        return changed[: rng.integers(1, longest + 1)]

    apply, params = training.pure_apply(make)
    optimizer = training.make_optimizer("adam", 0.1)
    epoch = training.make_bucketed_epoch(
        apply,
        optimizer,
        training.cross_entropy(),
        bucket_by_length(sequences, batch_size=4, num_buckets=1),
        LABELS[:12],
        augment=noisy,
    )
    whole, parts = (training.TrainState.create(params, optimizer, seed=1) for _ in range(2))
    whole, metrics = epoch(whole)
    first = jax.tree.map(np.asarray, whole.params)
    for _ in range(3):
        parts, of_parts = epoch.advance(parts, 1)
    same = jax.tree.map(np.array_equal, first, jax.tree.map(np.asarray, parts.params))
    assert all(jax.tree.leaves(same)) and float(metrics.loss) == float(of_parts.loss)
    assert int(parts.epoch) == 1 and int(parts.position) == 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="there are 37 sequences, but 2 targets"):
        buckets = bucket_by_length(SEQUENCES, batch_size=8)
        optimizer = training.make_optimizer("sgd", 0.1)
        training.make_bucketed_epoch(Linear(), optimizer, training.cross_entropy(), buckets, LABELS[:2])
    with pytest.raises(ValueError, match=r"sequences \[1\] have no steps"):
        empty = bucket_by_length([SEQUENCES[0], SEQUENCES[0][:0]], batch_size=2)
        training.make_bucketed_epoch(Linear(), optimizer, training.cross_entropy(), empty, LABELS[:2])
    state, epoch, _ = start(Linear(), augment=lambda rng, sequence, longest: sequence[:0])
    with pytest.raises(ValueError, match=r"augment must return 1 to \d+ steps of the shape \(2,\), not \(0, 2\)"):
        epoch(state)
    with pytest.raises(ValueError, match="runs on one device"):
        epoch.over(jax.make_mesh((1,), ("batch",)))


class WithAList(nnx.Module):
    """Has a plain attribute that has no hash, and that changes what the model computes."""

    def __init__(self, factors):
        self.factors = factors
        self.classifier = jaxrnn.SequenceClassifier(2, 3, num_classes=3, rngs=nnx.Rngs(0))

    def __call__(self, x, *, seq_lengths=None):
        return self.classifier(x, seq_lengths=seq_lengths) * sum(self.factors)


def test_a_model_may_have_a_list_as_an_attribute():
    made = WithAList([1, 2])
    buckets = bucket_by_length(SEQUENCES[:5], batch_size=5, num_buckets=1)
    found = []
    for _ in range(2):
        apply, params = training.pure_apply(made)
        found.append(training.bucketed_outputs(apply, params, buckets))
        made.factors.append(3)
    np.testing.assert_allclose(found[1], 2 * found[0], rtol=1e-6)  # not the program of the shorter list
    optimizer = training.make_optimizer("sgd", 0.1)
    epoch = training.make_bucketed_epoch(apply, optimizer, training.cross_entropy(), buckets, LABELS[:5])
    state, metrics = epoch(training.TrainState.create(params, optimizer))
    assert int(state.step) == 1 and np.isfinite(metrics.loss)
