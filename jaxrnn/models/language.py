"""A language model: what comes next in a text, as a distribution over a vocabulary, after every token."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn import checks
from jaxrnn.cells import CELLS
from jaxrnn.checks import Cell
from jaxrnn.layers.kinds import layer_sizes
from jaxrnn.layers.stack import StackedRNN
from jaxrnn.ops.step import Carry
from jaxrnn.signature import InitSignature

__all__ = ["LanguageModel"]


class LanguageModel(nnx.Module):
    """An embedding, stacked recurrent layers, and a linear head that gives the logits of the next token.

        x_t = embedding[token_t]        h_t = layers(x)_t        logits_t = h_t @ kernel + bias

    A token is a whole number below ``vocabulary_size``: a character, a byte or a word.

    Args:
      vocabulary_size: how many different tokens there are.
      hidden_features: one size per layer.
      embedding_features: size of a token's vector; by default that of the top layer, which ``tie_head`` needs.
      cell: ``"lstm"``, another name from ``jaxrnn.cells.CELLS``, or a cell class.
      tie_head: use the embedding, transposed, as the head's kernel (Press and Wolf 2017, arXiv:1608.05859).
      dropout: share of the embedding's and of every layer's outputs that are dropped, but not of what passes from
        step to step (Zaremba et al. 2014, arXiv:1409.2329). A call drops them only if it gets a ``dropout_key``.
      dtype, param_dtype: as in :class:`jaxrnn.RecurrentCell`. The logits are always float32 or wider.
      cell_options: further keyword arguments of the cells.
      rngs: source of the initial parameters.

    Raises:
      ValueError: at construction, an argument is invalid; at the call, the tokens, lengths or a carry do not fit.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> model = LanguageModel(50, (32, 32), rngs=nnx.Rngs(0))
    >>> model(jnp.zeros((8, 30), int)).shape                          # [batch, time, vocabulary]
    (8, 30, 50)
    """

    __signature__ = InitSignature()

    def __init__(
        self,
        vocabulary_size: int,
        hidden_features: int | Sequence[int] = (256, 256),
        *,
        embedding_features: int | None = None,
        cell: str | type[Cell] = "lstm",
        tie_head: bool = False,
        dropout: float = 0.0,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        cell_options: dict[str, Any] | None = None,
        rngs: nnx.Rngs,
    ):
        self.vocabulary_size = checks.positive_integer("vocabulary_size", vocabulary_size)
        if isinstance(cell, str):
            if cell not in CELLS:
                raise ValueError(f"unknown cell {cell!r}; available: {', '.join(CELLS)}")
            cell = CELLS[cell]
        sizes = layer_sizes(hidden_features, None)
        top = sizes[len(sizes) - 1]
        width = top if embedding_features is None else embedding_features
        width = checks.positive_integer("embedding_features", width)
        self.tie_head = checks.flag("tie_head", tie_head)
        if self.tie_head and width != top:
            raise ValueError(
                f"tie_head=True needs embedding_features of the size of the top layer, {top}, not {width}"
            )
        # The key of the masks comes with the call, so that the model holds nothing but parameters.
        self.dropout = nnx.Dropout(checks.dropout_rate("dropout", dropout))
        checks.initial_rngs(rngs)
        self.embedding = nnx.Embed(self.vocabulary_size, width, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        options: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, **(cell_options or {}))
        self.layers = StackedRNN(
            [
                cell(below, size, rngs=rngs, **options)  # pyright: ignore[reportCallIssue]
                for below, size in zip((width, *sizes), sizes)
            ]
        )
        self.head = nnx.data(None)
        if not self.tie_head:
            self.head = nnx.Linear(
                top, self.vocabulary_size, use_bias=False, dtype=dtype, param_dtype=param_dtype, rngs=rngs
            )
        self.bias = nnx.Param(jnp.zeros(self.vocabulary_size, param_dtype))

    def initialize_carry(self, batch_size: int) -> tuple[Carry, ...]:
        """Every layer's first carry (zeros) for that many texts at once."""
        return self.layers.initialize_carry((batch_size, self.embedding.features))

    def __call__(
        self,
        tokens: Array,
        *,
        initial_carry: Sequence[Carry] | None = None,
        seq_lengths: Array | None = None,
        resets: Array | None = None,
        reset_carry: Sequence[Carry] | str | None = None,
        return_carry: bool = False,
        dropout_key: Array | None = None,
    ) -> Any:
        """The logits of the token that follows each of these.

        Args:
          tokens: integers ``[batch, time]``, from 0 to ``vocabulary_size - 1``.
          initial_carry: one carry per layer, to go on with a text; zeros by default.
          seq_lengths: integers ``[batch]``. Steps beyond a row's length are padding: the carry stays as it is, and
            the logits there are the head's bias.
          resets, reset_carry: as in :class:`jaxrnn.RNN`, where several texts follow each other in a row.
          return_carry: return ``(carry, logits)``.
          dropout_key: a random key for the dropout masks. Without one, nothing is dropped.

        Returns:
          ``[batch, time, vocabulary_size]``.
        """
        tokens = checks.array("tokens", tokens)
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"tokens must be integers [batch, time], not {tokens.dtype} {tokens.shape}")
        # The masks between the layers are a copy of the stack's own dropout, which has the key of this call.
        layers, keys = self.layers, [None, None]
        if dropout_key is not None and self.dropout.rate:
            *keys, between = jax.random.split(dropout_key, 3)
            layers = nnx.clone(layers)
            layers.dropout = nnx.data(nnx.Dropout(self.dropout.rate, rngs=nnx.Rngs(between)))
        carry, hidden = layers(
            self._dropped(self.embedding(tokens), keys[0]),
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            resets=resets,
            reset_carry=reset_carry,
            return_carry=True,
        )
        logits = self.logits(self._dropped(hidden, keys[1]))
        return (carry, logits) if return_carry else logits

    def logits(self, hidden: Array) -> Array:
        """The logits ``[..., vocabulary_size]`` for outputs ``[..., hidden]`` of the top layer."""
        products = self.embedding.attend(hidden) if self.head is None else self.head(hidden)
        wide = jnp.promote_types(products.dtype, jnp.float32)
        return products.astype(wide) + self.bias[...].astype(wide)

    def _dropped(self, outputs: Array, key: Array | None) -> Array:
        return outputs if key is None else self.dropout(outputs, deterministic=False, rngs=key)
