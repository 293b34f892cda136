"""The loss of a classification, and its metrics."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxrnn.training.step import Loss


def cross_entropy(*, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None) -> Loss:
    """Make a cross-entropy loss ``(logits [*batch, classes], targets) -> losses [*batch]``.

    The targets are the numbers of the classes, integers ``[*batch]``, or probabilities ``[*batch, classes]``. The
    loss of a number that is not from 0 to classes - 1 is NaN: a class that does not exist cannot be learned.
    Equal arguments give the same function, so compiled programs that use it are shared.

    Args:
      label_smoothing: share of the target that is spread evenly over all classes. Source: Szegedy et al. (2016),
        Rethinking the Inception architecture, doi:10.1109/CVPR.2016.308.
      class_weights: the factor on the loss of each class, such as :func:`balanced_class_weights`; with
        probabilities as targets, their weighted mean.

    Raises:
      ValueError: ``label_smoothing`` is not at least 0 and below 1, or a weight is negative; at the call, the
        targets do not fit the logits.

    >>> loss = cross_entropy(label_smoothing=0.1)
    >>> loss(jnp.array([[2.0, 0.0], [0.0, 2.0]]), jnp.array([0, 0])).tolist()  # doctest: +ELLIPSIS
    [0.226..., 2.02...]
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"{label_smoothing=} must be at least 0 and below 1")
    weights = None if class_weights is None else tuple(float(weight) for weight in class_weights)
    if weights is not None and not (all(0 <= weight < float("inf") for weight in weights) and any(weights)):
        raise ValueError(f"class_weights must be numbers of at least 0, and not all of them 0: {class_weights}")
    return _cross_entropy(float(label_smoothing), weights)


@lru_cache(maxsize=64)
def _cross_entropy(label_smoothing: float, class_weights: tuple[float, ...] | None) -> Loss:
    def loss(logits: Array, targets: Array) -> Array:
        classes = logits.shape[-1]
        numbers = jnp.issubdtype(targets.dtype, jnp.integer)
        if targets.shape != (logits.shape[:-1] if numbers else logits.shape):
            raise ValueError(
                f"targets {targets.dtype} {targets.shape} do not fit logits {logits.shape}: they must be "
                f"numbers of classes {logits.shape[:-1]}, or probabilities {logits.shape}"
            )
        if numbers and targets.dtype.itemsize < 4:  # the number of classes may have no place in a small dtype
            targets = targets.astype(jnp.int32)
        if class_weights is not None and len(class_weights) != classes:
            raise ValueError(f"there are {len(class_weights)} class_weights, but {classes} classes")
        wanted = jax.nn.one_hot(targets, classes, dtype=logits.dtype) if numbers else targets
        losses = optax.losses.softmax_cross_entropy(logits, optax.smooth_labels(wanted, label_smoothing))
        if class_weights is not None:
            losses *= wanted @ jnp.asarray(class_weights, wanted.dtype)
        return jnp.where((targets >= 0) & (targets < classes), losses, jnp.nan) if numbers else losses

    return loss


def balanced_class_weights(labels: Any, num_classes: int) -> tuple[float, ...]:
    """Weights that give every class the same influence, and every sequence a mean weight of 1.

    Args:
      labels: integers ``[sequences]``.
      num_classes: how many classes there are; one without sequences gets the weight 0.

    >>> balanced_class_weights([0, 0, 0, 1], 2)
    (0.6666666666666666, 2.0)
    """
    counts = np.bincount(_numbers("labels", labels, num_classes), minlength=num_classes)
    weights = len(np.asarray(labels)) / np.maximum(counts, 1) / np.count_nonzero(counts) * (counts > 0)
    return tuple(weights.tolist())


def confusion_matrix(predicted: Any, labels: Any, num_classes: int) -> np.ndarray:
    """How many sequences of each class (row) were taken for each class (column), int ``[classes, classes]``.

    >>> confusion_matrix([0, 1, 1, 2], [0, 1, 2, 2], 3)
    array([[1, 0, 0],
           [0, 1, 0],
           [0, 1, 1]])
    """
    predicted = _numbers("predicted", predicted, num_classes)
    labels = _numbers("labels", labels, num_classes)
    _same_length(predicted, labels)
    pairs = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def accuracy(predicted: Any, labels: Any) -> float:
    """The share of predicted classes that are right.

    Raises:
      ValueError: there are none, or their numbers differ.

    >>> accuracy([0, 1, 1, 2], [0, 1, 2, 2])
    0.75
    """
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    _same_length(predicted, labels)
    return float((predicted == labels).mean())


def macro_f1(predicted: Any, labels: Any, num_classes: int) -> float:
    """The mean over the classes of F1, which is 2 * right / (predicted + there are).

    A class that neither occurs nor is predicted does not count. Every other class has the same influence, however
    rare it is.

    >>> macro_f1([0, 1, 1, 2], [0, 1, 2, 2], 3)
    0.7777777777777777
    """
    matrix = confusion_matrix(predicted, labels, num_classes)
    seen = matrix.sum(axis=0) + matrix.sum(axis=1)
    return float((2 * np.diag(matrix)[seen > 0] / seen[seen > 0]).mean())


def _numbers(name: str, classes: Any, num_classes: int) -> np.ndarray:
    classes = np.asarray(classes)
    if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(f"{name} must be numbers of classes, integers, not {classes.dtype} {classes.shape}")
    wrong = classes[(classes < 0) | (classes >= num_classes)]
    if wrong.size:
        raise ValueError(f"{name} must be between 0 and {num_classes - 1}, not {wrong[0]}")
    return classes.astype(np.int64)  # a product of two small integers may not fit into their dtype


def _same_length(predicted: np.ndarray, labels: np.ndarray) -> None:
    if predicted.shape != labels.shape or not labels.size:
        raise ValueError(
            f"there must be one predicted class for every label, not {predicted.shape} for {labels.shape}"
        )
