"""Builds the training, the evaluation and the samples of a configured language model."""

import math
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from experiments.common.language_config import LanguageConfig
from experiments.common.text import Text
from jaxrnn.data import sequential_starts
from jaxrnn.models import LanguageModel, generate
from jaxrnn.training import CheckpointStore, TrainState, make_optimizer, make_sequential_epoch, pure_apply

RESET_EVERY = 1024
"""In training, the carry returns to zeros before a window at random, on average after this many characters.

A model that reads hundreds of thousands of characters in one go never meets zeros again. Its cells drift to large
values, and from zeros, with which every test and every prompt begins, it predicts much worse."""
ROWS_OF_EVALUATION, STEPS_OF_EVALUATION = 64, 256
"""A part of a text is evaluated as this many pieces side by side, each in windows of this many characters."""


def make_model(config: LanguageConfig, vocabulary_size: int) -> LanguageModel:
    return LanguageModel(
        vocabulary_size,
        config.hidden,
        embedding_features=config.embedding,
        cell=config.cell,
        tie_head=config.tie_head,
        dropout=config.dropout,
        dtype=None if config.dtype == "float32" else jnp.dtype(config.dtype),
        rngs=nnx.Rngs(config.seed),
    )


def learning_rates(config: LanguageConfig, updates: int) -> optax.Schedule:
    warmup = max(1, round(0.02 * updates))
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(updates, warmup + 1))


def load_best(folder: Path, config: LanguageConfig, vocabulary_size: int) -> LanguageModel:
    """The best model of a run, without its text. It computes in float32, which suits single steps.

    Raises:
      CheckpointError: there is no checkpoint, or none that is undamaged.
    """

    def arrays() -> dict[str, Any]:
        model = make_model(config, vocabulary_size)
        params, optimizer = (
            nnx.state(model),
            make_optimizer("adam", learning_rates(config, 100), clip_norm=config.clip_norm),
        )
        carry = model.initialize_carry(config.batch_size)
        return {"state": TrainState.create(params, optimizer, carry=carry), "best_params": params}

    restored = CheckpointStore(folder).restore(jax.eval_shape(arrays))
    model = make_model(replace(config, dtype="float32"), vocabulary_size)
    nnx.update(model, restored.arrays["best_params"])
    return model


def cross_entropy(logits: Array, tokens: Array) -> Array:
    """In nats, ``[batch, time]``, of logits ``[batch, time, vocabulary]`` and tokens ``[batch, time, 1]``."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, tokens[..., 0])


class Modelling:
    """One configured language model on one text.

    Raises:
      ValueError: the text is too short for the configuration.
    """

    def __init__(self, config: LanguageConfig, text: Text):
        self.config, self.text = config, text
        self.starts = self._training_starts()
        self.updates = len(self.starts) // config.validations * config.validations * config.passes
        self.resets = np.random.default_rng(config.seed).random(self.starts.shape) < config.window / RESET_EVERY
        self.apply, self.params = pure_apply(self.make_model)
        self._graphdef = nnx.graphdef(nnx.eval_shape(self.make_model))

    def make_model(self) -> LanguageModel:
        return make_model(self.config, self.text.vocabulary_size)

    def train_apply(
        self, params: Any, inputs: Array, carry: Any, *, key: Array | None = None
    ) -> tuple[Any, Array]:
        """The model on ``inputs [batch, time, 2]``: the tokens, and 1 where the carry returns to zeros first."""
        model = nnx.merge(self._graphdef, params)
        return model(
            inputs[..., 0],
            initial_carry=carry,
            resets=inputs[..., 1] == 1,
            reset_carry="zeros",
            return_carry=True,
            dropout_key=key,
        )

    def _training_starts(self) -> np.ndarray:
        config, length = self.config, self.text.train - 1
        batches = length // (config.window * config.batch_size)
        if batches < config.validations:
            raise ValueError(
                f"the training part of {self.text.name} has {self.text.train} characters, which are {batches} "
                f"batches of --batch-size {config.batch_size} times --window {config.window}, fewer than "
                f"--validations {config.validations}: choose smaller numbers, or a longer text"
            )
        return sequential_starts(length, config.window, config.batch_size)

    @property
    def epochs(self) -> int:
        """The number of validations in all; between two of them lies what ``fit`` calls an epoch."""
        return self.config.passes * self.config.validations

    def learning_rates(self) -> optax.Schedule:
        return learning_rates(self.config, self.updates)

    def start(self) -> tuple[TrainState, Any]:
        """A new train state, and the compiled function that trains it until the next validation."""
        config = self.config
        optimizer = make_optimizer("adam", self.learning_rates(), clip_norm=config.clip_norm)
        carry = self.make_carry(config.batch_size)
        state = TrainState.create(self.params, optimizer, seed=config.seed, carry=carry)
        resets = np.zeros_like(self.text.tokens)
        resets[self.starts[self.resets]] = 1
        epoch = make_sequential_epoch(
            self.train_apply,
            optimizer,
            cross_entropy,
            jnp.asarray(np.stack([self.text.tokens, resets], axis=1)[:-1]),
            jnp.asarray(self.text.tokens[1:, None]),
            jnp.asarray(self.starts),
            window=config.window,
            initial_carry=carry,
            parts=config.validations,
        )
        return state, epoch

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """The loss on the validation part, in nats per character."""
        return {"valid_loss": self.bits(state.best_guess, self.text.train, self.text.test) * math.log(2)}

    def bits(self, params: Any, begin: int, end: int) -> float:
        """Bits per character of ``tokens[begin:end]``, each predicted from those before it.

        The part is read as pieces side by side, each from a carry of zeros, so the first characters of a piece are
        predicted from little. With pieces of thousands of characters that adds less than a thousandth.
        """
        rows = min(ROWS_OF_EVALUATION, end - begin)
        windows = -(-(end - begin) // (rows * STEPS_OF_EVALUATION))
        places = begin - 1 + np.arange(rows * windows * STEPS_OF_EVALUATION)
        weights = (places < end - 1).astype(np.float32)
        places = np.minimum(places, end - 2)

        def cut(array: np.ndarray) -> np.ndarray:
            """``[windows, rows, steps]`` of consecutive characters in each row."""
            return array.reshape(rows, windows, STEPS_OF_EVALUATION).swapaxes(0, 1)

        tokens = self.text.tokens
        carry = self.make_carry(rows)
        total = self._nats(params, carry, cut(tokens[places]), cut(tokens[places + 1]), cut(weights))
        return float(total) / (end - begin) / math.log(2)

    def make_carry(self, rows: int) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros((rows, *leaf.shape[1:]), leaf.dtype), self._one_carry)

    @cached_property
    def _one_carry(self) -> Any:
        return jax.eval_shape(lambda: self.make_model().initialize_carry(1))

    @cached_property
    def _nats(self) -> Any:
        def total(params: Any, carry: Any, inputs: Array, targets: Array, weights: Array) -> Array:
            def window(carry: Any, part: Any) -> tuple[Any, Array]:
                inputs, targets, weights = part
                carry, logits = self.apply(params, inputs, carry)
                return carry, (cross_entropy(logits, targets[..., None]) * weights).sum()

            return jax.lax.scan(window, carry, (inputs, targets, weights))[1].sum()

        return jax.jit(total)


def write_text(
    model: LanguageModel, characters: str, prompts: list[np.ndarray], length: int, **options: Any
) -> list[str]:
    """Continue every prompt by ``length`` characters; the options are those of :func:`jaxrnn.models.generate`.

    Prompts of different lengths are read one after the other, those of one length together.
    """
    unknown = [len(characters)]
    written: dict[int, np.ndarray] = {}
    for size in sorted({len(prompt) for prompt in prompts}):
        same = [number for number, prompt in enumerate(prompts) if len(prompt) == size]
        found = generate(model, np.stack([prompts[number] for number in same]), length, exclude=unknown, **options)
        written |= dict(zip(same, found))
    return ["".join(characters[token] for token in written[number]) for number in range(len(prompts))]
