"""Builds the training and the evaluation of a configured classification."""

from dataclasses import fields
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.common.labelled.datasets import Labelled, folds
from experiments.common.labelled.recipes import Config
from experiments.common.labelled.sequences import Augmentation, SequencePreparation, far_values
from experiments.common.labelled.texts import UNKNOWN, TextPreparation
from jaxrnn.data import Buckets, bucket_by_length
from jaxrnn.models import SequenceClassifier
from jaxrnn.training import (
    Run,
    SteppedEpoch,
    TrainState,
    accuracy,
    balanced_class_weights,
    bucketed_outputs,
    cross_entropy,
    make_bucketed_epoch,
    make_initializer,
    make_optimizer,
    pure_apply,
)

Preparation = SequencePreparation | TextPreparation


def make_model(config: Config, preparation: Preparation, classes: int, seed: Any) -> SequenceClassifier:
    """The network of a configuration, with new parameters."""
    is_text = isinstance(preparation, TextPreparation)
    return SequenceClassifier(
        config.embedding if is_text else preparation.num_features,
        config.hidden,
        num_classes=classes,
        vocabulary=len(preparation.words) + 1 if is_text else None,
        cell=config.cell,
        bidirectional=config.bidirectional,
        pooling=config.pooling,  # pyright: ignore[reportArgumentType]
        dropout=config.dropout,
        input_dropout=config.input_dropout,
        dtype=None if config.dtype == "float32" else jnp.dtype(config.dtype),
        rngs=nnx.Rngs(seed),
    )


def make_optimizer_of(config: Config, steps: int) -> optax.GradientTransformation:
    """The optimiser of a training of so many steps."""
    warmup = int(config.warmup * steps)
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(steps, warmup + 1))
    options = {"weight_decay": config.weight_decay} if config.optimizer == "adamw" else {}
    return make_optimizer(config.optimizer, rate, clip_norm=config.clip_norm or None, **options)


def features_of(preparation: Preparation, one: Any) -> np.ndarray:
    """What the network reads of a sequence or a text."""
    if isinstance(preparation, TextPreparation):
        return preparation.features(one)
    return preparation.features(preparation.scaled(one))


def probabilities_of(logits: np.ndarray) -> np.ndarray:
    """Float64 ``[examples, classes]``."""
    logits = logits.astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


class Classification:
    """One configured classification of one data set, by the mean of several networks.

    The training part is divided into folds. Each network (member) learns from all folds but one, another one for
    each network, and that one decides which of its epochs is best. So nothing is chosen on the test part, and with
    at least two networks every example helps to train.

    Args:
      config: the configuration.
      data: the data set.
      preparation: the fitted preparation of an earlier run; None fits one to the training part.

    Raises:
      ValueError: the data do not fit the preparation, or there are too few of them for the number of members.
    """

    def __init__(self, config: Config, data: Labelled, preparation: Preparation | None = None):
        self.config, self.data = config, data
        if config.members > len(data.train.labels) // 2:
            raise ValueError(
                f"--members {config.members} is too many for {len(data.train.labels)} examples to learn from: "
                f"each network holds out one part of them"
            )
        self.preparation = preparation or self._fit()
        self.train = [self.features(one) for one in data.train.inputs]
        self.test = [self.features(one) for one in data.test.inputs]
        self.folds = folds(data.train.labels, max(config.folds, config.members), config.seed)
        self.buckets = bucket_by_length(
            self.train, batch_size=min(config.batch_size, len(self.train)), num_buckets=config.buckets
        )
        # One set of functions for all members, so that they share the compiled programs.
        self.apply, _ = pure_apply(nnx.eval_shape(partial(self.make_model, 0)))
        self._parameters = make_initializer(self.make_model)
        steps = config.epochs * self._buckets_of(self.learned(0)).num_batches
        self.optimizer = make_optimizer_of(config, steps)
        classes = len(data.classes)
        weights = balanced_class_weights(data.train.labels, classes) if config.balanced else None
        self.loss = cross_entropy(label_smoothing=config.label_smoothing, class_weights=weights)

    def _fit(self) -> Preparation:
        config, inputs = self.config, self.data.train.inputs
        if self.data.is_text:
            return TextPreparation.fit(
                inputs, min_count=config.min_count, most=config.most_words, longest=config.longest
            )
        return SequencePreparation.fit(inputs, differences=config.differences, frame=config.frame)

    def notes(self) -> list[str]:
        """What a user should know of the data."""
        notes, preparation, data = [], self.preparation, self.data
        if isinstance(preparation, TextPreparation):
            cut = sum(map(preparation.is_cut, (*data.train.inputs, *data.test.inputs)))
            if cut:
                longer = "one text is" if cut == 1 else f"{cut} texts are"
                notes.append(
                    f"{longer} longer than {preparation.longest} words; the words after these are not read"
                )
        else:
            numbers = range(len(self.train)) if data.train.numbers is None else data.train.numbers.tolist()
            notes += far_values(data.train.inputs, numbers)
        repeated = data.num_repeated()
        if repeated:
            notes.append(
                f"{repeated} of the {len(data.test.inputs)} test examples are in the training part, too: on new "
                "examples the accuracy may be lower than on these"
            )
        return notes

    def features(self, one: Any) -> np.ndarray:
        """What the network reads of a sequence or a text."""
        return features_of(self.preparation, one)

    def make_model(self, seed: Any) -> SequenceClassifier:
        return make_model(self.config, self.preparation, len(self.data.classes), seed)

    def learned(self, member: int) -> np.ndarray:
        """The examples that a member learns from."""
        return np.flatnonzero(self.folds != member)

    def held_out(self, member: int) -> np.ndarray:
        """The examples that decide which of a member's epochs is best."""
        return np.flatnonzero(self.folds == member)

    def _buckets_of(self, rows: np.ndarray) -> Buckets:
        return self.buckets.of([self.train[row] for row in rows])

    def start(self, member: int) -> tuple[Run, SteppedEpoch, Any]:
        """A member's new run, its training epoch, and its evaluation."""
        config = self.config
        seed = config.seed * 1000 + member  # members of different seeds must not start alike
        state = TrainState.create(
            self._parameters(jax.random.key(seed)), self.optimizer, seed=seed, average=config.average > 0
        )
        learned, held_out = self.learned(member), self.held_out(member)
        epoch = make_bucketed_epoch(
            self.apply,
            self.optimizer,
            self.loss,
            self._buckets_of(learned),
            self.targets[learned],
            augment=self._augment,
            average_decay=config.average,
        )
        valid, labels = self._buckets_of(held_out), self.data.train.labels[held_out]

        def evaluate(state: TrainState) -> dict[str, float]:
            logits = bucketed_outputs(self.apply, state.best_guess, valid)
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
            right = accuracy(logits.argmax(axis=1), labels)
            return {"valid_loss": float(losses.mean()), "valid_accuracy": right}

        return Run.create(state, patience=config.patience), epoch, evaluate

    @cached_property
    def targets(self) -> np.ndarray:
        """What the network learns: the numbers of the classes, or probabilities ``[examples, classes]``."""
        train = self.data.train
        if train.ratings is None or not self.config.soft:
            return train.labels.astype(np.int32)
        positive = 1 / (1 + np.exp(-self.config.soft * train.ratings))
        return np.stack([1 - positive, positive], axis=1).astype(np.float32)

    @property
    def _augment(self) -> Any:
        config, preparation = self.config, self.preparation
        if isinstance(preparation, TextPreparation):

            def forget(rng: np.random.Generator, words: np.ndarray, longest: int) -> np.ndarray:
                return np.where(rng.random(len(words)) < config.word_dropout, UNKNOWN, words).astype(np.int32)

            return forget if config.word_dropout else None
        change = Augmentation(**{field.name: getattr(config, field.name) for field in fields(Augmentation)})
        if change == Augmentation():
            return None

        def augment(rng: np.random.Generator, features: np.ndarray, longest: int) -> np.ndarray:
            scaled = preparation.from_features(features)
            return preparation.features(change(rng, scaled, longest * preparation.frame))

        return augment

    def probabilities(self, params: Any, features: list[np.ndarray]) -> np.ndarray:
        """A network's probabilities of the classes, float64 ``[examples, classes]``."""
        return probabilities_of(bucketed_outputs(self.apply, params, self.buckets.of(features)))
