"""Cross-entropy against its formula, and the metrics against loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import training

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(20, 4)), RNG.integers(4, size=20)
LOG_P = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weights", [None, (1.0, 0.0, 2.0, 0.5)])
def test_cross_entropy_is_its_formula(smoothing, weights):
    loss = training.cross_entropy(label_smoothing=smoothing, class_weights=weights)
    wanted = -(1 - smoothing) * LOG_P[np.arange(20), LABELS] - smoothing * LOG_P.mean(axis=1)
    if weights is not None:
        wanted *= np.array(weights)[LABELS]
    np.testing.assert_allclose(loss(jnp.asarray(LOGITS), jnp.asarray(LABELS)), wanted, rtol=1e-5)
    certain = loss(jnp.asarray(LOGITS), jnp.asarray(np.eye(4)[LABELS]))
    np.testing.assert_allclose(certain, wanted, rtol=1e-5)
    assert training.cross_entropy(label_smoothing=smoothing, class_weights=weights) is loss


@pytest.mark.parametrize(("dtype", "classes"), [(jnp.uint8, 256), (jnp.int8, 128), (jnp.int8, 200)])
def test_labels_may_have_a_dtype_that_cannot_hold_the_number_of_classes(dtype, classes):
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(3, classes)))
    labels = jnp.array([0, 1, min(classes - 1, int(jnp.iinfo(dtype).max))])
    loss = training.cross_entropy(class_weights=np.linspace(1, 2, classes).tolist())
    np.testing.assert_array_equal(loss(logits, labels.astype(dtype)), loss(logits, labels))
    assert np.isfinite(loss(logits, labels)).all()


def test_classes_that_do_not_exist_have_no_loss():
    labels = jnp.array([0, 3, 4, -1])  # of four classes
    losses = training.cross_entropy()(jnp.asarray(LOGITS[:4]), labels)
    assert np.isnan(losses).tolist() == [False, False, True, True]


def test_probabilities_are_targets_too():
    wanted = RNG.dirichlet(np.ones(4), size=20)
    found = training.cross_entropy()(jnp.asarray(LOGITS), jnp.asarray(wanted))
    np.testing.assert_allclose(found, -(wanted * LOG_P).sum(axis=1), rtol=1e-5)


def test_metrics_are_those_of_a_loop():
    predicted = np.where(RNG.random(20) < 0.5, LABELS, RNG.integers(3, size=20))
    scores, counts = [], np.zeros((6, 6), int)
    for one, label in zip(predicted, LABELS):
        counts[label, one] += 1
    for k in range(6):
        right = sum(p == k and y == k for p, y in zip(predicted, LABELS))
        if k in predicted or k in LABELS:  # classes 4 and 5 do not occur
            precision = right / max(np.count_nonzero(predicted == k), 1)
            recall = right / max(np.count_nonzero(k == LABELS), 1)
            scores.append(2 * precision * recall / (precision + recall) if right else 0.0)
    assert training.macro_f1(predicted, LABELS, 6) == pytest.approx(np.mean(scores))
    np.testing.assert_array_equal(training.confusion_matrix(predicted, LABELS, 6), counts)
    assert training.accuracy(predicted, LABELS) == np.trace(counts) / 20


@pytest.mark.parametrize(("dtype", "classes"), [(np.uint8, 200), (np.int8, 20), (np.int16, 200)])
def test_metrics_of_labels_of_a_small_dtype_are_those_of_wide_ones(dtype, classes):
    random = np.random.default_rng(0)
    labels, other = random.integers(classes, size=(2, 1000))
    predicted = np.where(random.random(1000) < 0.7, labels, other)
    found = training.confusion_matrix(predicted.astype(dtype), labels.astype(dtype), classes)
    wanted = np.zeros((classes, classes), int)
    np.add.at(wanted, (labels, predicted), 1)
    np.testing.assert_array_equal(found, wanted)


def test_balanced_weights_give_every_class_the_same_sum():
    labels = np.array([0] * 6 + [2] * 2)
    weights = np.array(training.balanced_class_weights(labels, 3))
    np.testing.assert_allclose([weights[labels[labels == k]].sum() for k in (0, 2)], 4.0)
    assert weights[1] == 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"label_smoothing=1.0 must be at least 0 and below 1"):
        training.cross_entropy(label_smoothing=1.0)
    with pytest.raises(ValueError, match="class_weights must be numbers of at least 0"):
        training.cross_entropy(class_weights=(1.0, -1.0))
    logits = jnp.zeros((3, 4))
    with pytest.raises(ValueError, match=r"targets int32 \(2,\) do not fit logits \(3, 4\)"):
        training.cross_entropy()(logits, jnp.zeros(2, jnp.int32))
    with pytest.raises(ValueError, match="there are 2 class_weights, but 4 classes"):
        training.cross_entropy(class_weights=(1, 1))(logits, jnp.zeros(3, jnp.int32))
    with pytest.raises(ValueError, match="labels must be between 0 and 1, not 2"):
        training.macro_f1([0, 1], [0, 2], 2)
    with pytest.raises(ValueError, match="one predicted class for every label"):
        training.accuracy([0, 1], [0])
    with pytest.raises(ValueError, match="one predicted class for every label"):
        training.accuracy([], [])
