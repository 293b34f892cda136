"""Writes text with a language model: one token after the other, for many texts at once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flax import nnx
from jax import Array

from jaxrnn import checks
from jaxrnn.layers.streams import Streams
from jaxrnn.models.language import LanguageModel

__all__ = ["generate", "sample_tokens"]


def generate(
    model: LanguageModel,
    prompts: Any,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    exclude: Sequence[int] = (),
    seed: int = 0,
    threads: int | None = None,
    implementation: str | None = None,
) -> np.ndarray:
    """Continue every prompt by ``length`` tokens, each drawn from the model's distribution.

    On a CPU the layers run in the C++ library, all texts together (:class:`jaxrnn.Streams`). The embedding, the
    head and the draws are computed in NumPy.

    Args:
      model: the language model. A method ``logits`` of its own is called in the place of the head.
      prompts: integers ``[batch, time]``, at least one token each; a row for every text.
      length: how many tokens to add to each.
      temperature: what the logits are divided by. Below 1 the likely tokens become likelier; 0 always takes the
        likeliest.
      top_k: draw only from this many likeliest tokens; None from all.
      top_p: draw only from the likeliest tokens that together have at least this probability, above 0 and at most
        1 (Holtzman et al. 2020, arXiv:1904.09751); None from all.
      exclude: tokens that are never drawn.
      seed: of the draws. The same arguments give the same tokens.
      threads, implementation: as in :class:`jaxrnn.Streams`.

    Returns:
      int32 ``[batch, length]``, without the prompts.

    Raises:
      ValueError: an argument is invalid, a token is not of the vocabulary, or the model's logits are not finite.

    >>> from flax import nnx
    >>> model = LanguageModel(50, 16, rngs=nnx.Rngs(0))
    >>> generate(model, [[1, 2, 3], [7, 7, 7]], 5, temperature=0.8, top_k=10).shape
    (2, 5)
    """
    tokens = _checked_prompts(prompts, model.vocabulary_size)
    length = checks.positive_integer("length", length)
    _check_draws(temperature, top_k, top_p)
    streams = Streams(model.layers, len(tokens), threads=threads, implementation=implementation)
    embedding = np.asarray(model.embedding.embedding[...], np.float32)
    excluded = _checked_excluded(exclude, model.vocabulary_size)
    head = _head_of(model, embedding)
    rng = np.random.default_rng(seed)
    for column in tokens.T:
        hidden = streams.step(embedding[column])
    written = np.empty((len(tokens), length), np.int32)
    for number in range(length):
        logits = head(hidden)  # pyright: ignore[reportPossiblyUnboundVariable]
        logits[:, excluded] = -np.inf
        written[:, number] = sample_tokens(logits, rng, temperature=temperature, top_k=top_k, top_p=top_p)
        if number + 1 < length:
            hidden = streams.step(embedding[written[:, number]])
    return written


def _head_of(model: LanguageModel, embedding: np.ndarray) -> Callable[[Any], np.ndarray]:
    """A function from outputs of the top layer, ``[batch, hidden]``, to new logits in float32."""
    if type(model).logits is not LanguageModel.logits:  # a head of the model's own
        logits = nnx.jit(type(model).logits)
        return lambda hidden: np.array(logits(model, hidden), np.float32)
    kernel = np.asarray((embedding.T if model.head is None else model.head.kernel[...]), np.float32)
    bias = np.asarray(model.bias[...], np.float32)
    return lambda hidden: np.asarray(hidden, np.float32) @ kernel + bias


def sample_tokens(
    logits: np.ndarray | Array,
    rng: np.random.Generator,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> np.ndarray:
    """Draw a token for every row of ``logits [batch, vocabulary]``; the arguments are those of :func:`generate`.

    Returns:
      int64 ``[batch]``.

    Raises:
      ValueError: an argument is invalid, or the highest logit of a row is not finite; the message shows its value.

    >>> logits = np.log([[0.5, 0.3, 0.2]] * 1000)
    >>> drawn = sample_tokens(logits, np.random.default_rng(0), top_p=0.6)
    >>> np.bincount(drawn).tolist()                                     # about 0.5 and 0.3 of 0.8
    [604, 396]
    """
    _check_draws(temperature, top_k, top_p)
    logits = np.asarray(logits)
    if logits.dtype.kind == "V":  # bfloat16 and the like, which NumPy cannot combine with its own types
        logits = logits.astype(np.float32)
    greedy = np.asarray(temperature, np.result_type(logits, np.float16)) == 0  # also if it is rounded to 0
    highest = logits.max(axis=1, keepdims=True)
    wrong = ~np.isfinite(highest) & ~(greedy & (highest == np.inf))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"the highest logit of row {row} is {highest[row, 0]}, so no token can be drawn: it must be finite. "
            f"Look for values that are not finite in the weights of the model, which its training may have left"
        )
    if greedy:
        return logits.argmax(axis=1)
    differences = logits - highest
    with np.errstate(over="ignore"):  # a weight of exp(-inf) is 0, as it should be
        scaled = differences / temperature
    if top_k is not None and top_k < scaled.shape[1]:
        least = np.partition(scaled, -top_k, axis=1)[:, -top_k, None]
        scaled = np.where(scaled < least, -np.inf, scaled)
    weights = np.exp(scaled)
    if top_p is not None and top_p < 1:
        order = np.argsort(-weights, axis=1, kind="stable")
        ordered = np.take_along_axis(weights, order, axis=1)
        before = ordered.cumsum(axis=1) - ordered  # of the tokens that are likelier than each
        ordered[before >= top_p * ordered.sum(axis=1, keepdims=True)] = 0
        np.put_along_axis(weights, order, ordered, axis=1)
    cumulative = weights.cumsum(axis=1, dtype=np.float64)
    drawn = rng.random((len(weights), 1)) * cumulative[:, -1:]
    return (cumulative <= drawn).sum(axis=1)


def _checked_prompts(prompts: Any, vocabulary_size: int) -> np.ndarray:
    try:
        tokens = np.asarray(prompts)
    except ValueError:
        raise ValueError(
            "prompts must all have one length, [batch, time]: give those of another length in a call of their own"
        ) from None
    if tokens.ndim != 2 or not tokens.size or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(
            f"prompts must be integers [batch, time] with at least one token each, not {tokens.dtype} "
            f"{tokens.shape}"
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocabulary_size:
        raise ValueError(
            f"prompts must hold tokens from 0 to {vocabulary_size - 1}, but theirs reach from {low} to {high}"
        )
    return tokens


def _checked_excluded(exclude: Sequence[int], vocabulary_size: int) -> list[int]:
    try:
        tokens = [int(token) for token in exclude]
    except (TypeError, ValueError):
        raise ValueError(f"exclude must be a list of tokens, such as [0], not {checks.shown(exclude)}") from None
    unknown = [token for token in tokens if not 0 <= token < vocabulary_size]
    if unknown:
        raise ValueError(f"exclude has tokens from 0 to {vocabulary_size - 1}, not {unknown[0]}")
    if len(set(tokens)) == vocabulary_size:
        raise ValueError(f"exclude has all {vocabulary_size} tokens, so there is none to draw")
    return tokens


def _check_draws(temperature: Any, top_k: Any, top_p: Any) -> None:
    if not _holds(lambda: 0 <= temperature < float("inf")):
        raise ValueError(f"temperature must be a finite number of at least 0, not {temperature!r}")
    if top_k is not None:
        checks.positive_integer("top_k", top_k)
    if top_p is not None and not _holds(lambda: 0 < top_p <= 1):
        raise ValueError(f"top_p must be above 0 and at most 1, not {top_p!r}")


def _holds(condition: Callable[[], Any]) -> bool:
    """Whether a value is in its range; what cannot be compared with numbers, such as text or None, is not."""
    try:
        return bool(condition())
    except (TypeError, ValueError):
        return False
