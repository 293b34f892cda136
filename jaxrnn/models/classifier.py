"""Recurrent layers, a pooling over time and one dense head, for classifying sequences."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn import checks
from jaxrnn.cells import CELLS
from jaxrnn.checks import Cell
from jaxrnn.layers.kinds import layer_sizes
from jaxrnn.layers.stack import StackedRNN
from jaxrnn.signature import InitSignature

__all__ = ["SequenceClassifier"]

Pooling = Literal["last", "mean", "max", "attention"]
POOLINGS: tuple[str, ...] = get_args(Pooling)


class SequenceClassifier(nnx.Module):
    """Recurrent layers over a sequence of features or of tokens, pooled over time, and one dense head.

    Steps beyond a row's length in ``seq_lengths`` change nothing. A row of length 0 is pooled to zeros, so its
    logits are the head's bias.

    Args:
      in_features: features of each step; with ``vocabulary``, the size of the embedding.
      hidden_features: units of every layer, or a sequence with one number per layer, the lowest first.
      num_classes: how many classes there are.
      vocabulary: how many tokens there are. The inputs are then token numbers, which are looked up in a table
        ``[vocabulary, in_features]``; None takes features.
      cell: ``"gru"``, another name from ``jaxrnn.cells.CELLS``, or a cell class.
      num_layers: number of layers; by default 1, or the length of ``hidden_features``.
      bidirectional: run every layer in both directions; the next layer, or the pooling, reads both outputs.
      pooling: how the outputs of the top layer become one vector: ``"last"`` takes the one computed last (of each
        direction), ``"mean"`` and ``"max"`` take those of all steps, and ``"attention"`` takes their mean with the
        weights softmax(v . tanh(W h_t + b)) (Yang et al. 2016, Hierarchical attention networks for document
        classification, doi:10.18653/v1/N16-1174).
      dropout: share of the features that are dropped before every layer but the lowest, and before the head.
      input_dropout: the same before the lowest layer.
      dtype, param_dtype: as in :class:`jaxrnn.RecurrentCell`. Logits are float32 or wider, whatever the ``dtype``.
      cell_options: further keyword arguments of the cells, such as ``use_bias``.
      rngs: source of the initial parameters.

    Raises:
      ValueError: at construction, an argument is invalid; at the call, the inputs or lengths do not fit.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> model = SequenceClassifier(12, 32, num_classes=9, bidirectional=True, pooling="mean", rngs=nnx.Rngs(0))
    >>> model(jnp.ones((8, 29, 12)), seq_lengths=jnp.arange(7, 15)).shape
    (8, 9)
    >>> words = SequenceClassifier(64, 32, num_classes=2, vocabulary=1000, dropout=0.5, rngs=nnx.Rngs(0))
    >>> words(jnp.zeros((8, 20), jnp.int32), dropout_key=jax.random.key(0)).shape
    (8, 2)
    """

    __signature__ = InitSignature()

    def __init__(
        self,
        in_features: int,
        hidden_features: int | Sequence[int] = 64,
        *,
        num_classes: int,
        vocabulary: int | None = None,
        cell: str | type[Cell] = "gru",
        num_layers: int | None = None,
        bidirectional: bool = False,
        pooling: Pooling = "last",
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        cell_options: dict[str, Any] | None = None,
        rngs: nnx.Rngs,
    ):
        checks.initial_rngs(rngs)
        in_features = checks.positive_integer("in_features", in_features)
        num_classes = checks.positive_integer("num_classes", num_classes)
        vocabulary = checks.positive_integer_or_none("vocabulary", vocabulary)
        if isinstance(cell, str):
            if cell not in CELLS:
                raise ValueError(f"unknown cell {cell!r}; available: {', '.join(CELLS)}")
            cell = CELLS[cell]
        if pooling not in POOLINGS:
            raise ValueError(f"unknown pooling {pooling!r}; available: {', '.join(POOLINGS)}")
        bidirectional = checks.flag("bidirectional", bidirectional)
        make_cell: Any = cell
        sizes = layer_sizes(hidden_features, num_layers)
        widths = [size * (1 + bidirectional) for size in sizes]
        options: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, **(cell_options or {}))
        dense: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)

        def layer(below: int, size: int, *, last_only: bool) -> StackedRNN:
            cells = [make_cell(below, size, rngs=rngs, **options) for _ in range(1 + bidirectional)]
            return StackedRNN(cells[:1], backward_cells=cells[1:] or None, return_sequences=not last_only)

        # One stack per layer, because the dropout between them takes its key with the call. So the model holds
        # parameters only, and is a pure function of them, of its inputs and of the key.
        self.layers = nnx.List(
            layer(below, size, last_only=pooling == "last" and number == len(sizes) - 1)
            for number, (below, size) in enumerate(zip((in_features, *widths), sizes))
        )
        self.embedding: Any = nnx.data(None if vocabulary is None else nnx.Embed(vocabulary, in_features, **dense))
        attention = pooling == "attention"
        self.attention_hidden: Any = nnx.data(nnx.Linear(widths[-1], widths[-1], **dense) if attention else None)
        self.attention_score: Any = nnx.data(
            nnx.Linear(widths[-1], 1, use_bias=False, **dense) if attention else None
        )
        self.head = nnx.Linear(widths[-1], num_classes, **dense)
        self.dropout = nnx.Dropout(checks.dropout_rate("dropout", dropout))
        self.input_dropout = nnx.Dropout(checks.dropout_rate("input_dropout", input_dropout))
        self.in_features, self.vocabulary, self.num_classes = in_features, vocabulary, num_classes
        self.pooling = pooling

    def __call__(
        self, inputs: Array, *, seq_lengths: Array | None = None, dropout_key: Array | None = None
    ) -> Array:
        """Classify sequences.

        Args:
          inputs: ``[batch, time, in_features]``; with ``vocabulary``, integers ``[batch, time]`` from 0 to
            ``vocabulary - 1``.
          seq_lengths: integers ``[batch]``; steps beyond a row's length are padding.
          dropout_key: a random key for the dropout masks. Without one, nothing is dropped.

        Returns:
          Logits ``[batch, num_classes]``, float32 or wider.
        """
        outputs = self._looked_up(checks.array("inputs", inputs))
        keys = [None] * (len(self.layers) + 1)
        if dropout_key is not None:
            keys = jax.random.split(dropout_key, len(keys))
        for number, (layer, key) in enumerate(zip(self.layers, keys)):
            drop = self.dropout if number else self.input_dropout
            outputs = layer(_dropped(drop, outputs, key), seq_lengths=seq_lengths)
        pooled = outputs if self.pooling == "last" else self._pooled(outputs, seq_lengths)
        logits = self.head(_dropped(self.dropout, pooled, keys[-1]))
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def _looked_up(self, inputs: Array) -> Array:
        if self.embedding is None:
            if inputs.ndim != 3 or inputs.shape[-1] != self.in_features:
                raise ValueError(f"{inputs.shape=} must be [batch, time, {self.in_features}]")
            return inputs
        if inputs.ndim != 2 or not jnp.issubdtype(inputs.dtype, jnp.integer):
            raise ValueError(
                f"the inputs must be token numbers, integers [batch, time], not {inputs.dtype} {inputs.shape}"
            )
        return self.embedding(inputs)

    def _pooled(self, outputs: Array, seq_lengths: Array | None) -> Array:
        """Pool outputs ``[batch, time, hidden]`` over the steps that are not padding."""
        batch, time = outputs.shape[:2]
        lengths = jnp.full(batch, time) if seq_lengths is None else jnp.clip(jnp.asarray(seq_lengths), 0, time)
        real = (jnp.arange(time) < lengths[:, None])[..., None]
        if self.pooling == "mean":  # a sum over many steps needs float32
            # The layers return zeros for the padding.
            total = outputs.sum(axis=1, dtype=jnp.promote_types(outputs.dtype, jnp.float32))
            return (total / jnp.maximum(lengths, 1)[:, None]).astype(outputs.dtype)
        if self.pooling == "max":
            lowest = jnp.finfo(outputs.dtype).min
            largest = jnp.where(real, outputs, lowest).max(axis=1, initial=lowest)
            return jnp.where(lengths[:, None] > 0, largest, 0)
        scores = self.attention_score(jnp.tanh(self.attention_hidden(outputs)))
        weights = jax.nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)), axis=1, where=real)
        # Where a row has no steps, the softmax has nothing to divide by.
        return (jnp.where(real, weights, 0) * outputs).sum(axis=1).astype(outputs.dtype)


def _dropped(dropout: nnx.Dropout, values: Array, key: Array | None) -> Array:
    return values if key is None else dropout(values, deterministic=False, rngs=key)
