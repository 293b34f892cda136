"""A character n-gram model with interpolated Kneser-Ney smoothing: what a language model is compared with.

With c(hw) for how often the character w follows the context h, and D for a discount::

    p(w | h) = max(c(hw) - D, 0) / c(h) + D * N(h) / c(h) * p(w | h')

where N(h) is how many different characters follow h, c(h) is the sum of c(hw) over them, and h' is h without its
first character. The longest n-grams are counted as they are; every shorter one counts how many different
characters come before it. A context that was never seen leaves everything to the shorter one, and below single
characters all are equally likely. Of every order, D = n1 / (n1 + 2 n2), from how many n-grams have the count one
and two.

Source: Kneser and Ney (1995), doi:10.1109/ICASSP.1995.479394; in this form Chen and Goodman (1999),
doi:10.1006/csla.1999.0128.
"""

from typing import NamedTuple

import numpy as np


class _Order(NamedTuple):
    """The n-grams of one length.

    Attributes:
      grams: int64, the codes of all n-grams, in ascending order; counts: their counts.
      contexts: int64, the codes of their contexts, in ascending order; totals: the sums of counts of each, c(h);
        followers: how many different characters follow each, N(h).
      discount: D.
    """

    grams: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    followers: np.ndarray
    discount: float


class KneserNey:
    """The model, counted on a text.

    Args:
      tokens: integers ``[length]``, the text.
      vocabulary_size: how many different tokens there are, seen or not.
      order: how many tokens an n-gram has.

    Raises:
      ValueError: the text is shorter than one n-gram, or the codes of n-grams would not fit into 63 bits.

    >>> model = KneserNey(np.array([0, 1, 0, 1, 0, 2]), 3, order=2)
    >>> model.probabilities(np.array([0, 1]))[1:].round(4).tolist()     # of 1 after 0
    [0.6444]
    """

    def __init__(self, tokens: np.ndarray, vocabulary_size: int, order: int = 5):
        if len(tokens) < order:
            raise ValueError(f"a text of {len(tokens)} characters has no {order}-grams")
        if order * np.log2(vocabulary_size) >= 63:
            raise ValueError(f"{order}-grams of {vocabulary_size} different characters have no codes in 64 bits")
        self.vocabulary_size, self.order = vocabulary_size, order
        grams, counts = np.unique(_codes(tokens, order, vocabulary_size)[order - 1 :], return_counts=True)
        self._orders = [_counted(grams, counts, vocabulary_size)]
        for length in range(order - 1, 0, -1):
            # Each longer n-gram is one character that comes before its end.
            grams, counts = np.unique(grams % vocabulary_size**length, return_counts=True)
            self._orders.insert(0, _counted(grams, counts, vocabulary_size))

    def probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """The probability of every token after those before it, float64 ``[length]``."""
        found = np.full(len(tokens), 1 / self.vocabulary_size)
        for length, of in enumerate(self._orders, start=1):
            grams = _codes(tokens, length, self.vocabulary_size)
            counts, _ = _look_up(of.grams, grams, of.counts)
            totals, place = _look_up(of.contexts, grams // self.vocabulary_size, of.totals)
            known = totals > 0
            known[: length - 1] = False  # the text begins here, so the context is shorter
            share = (np.maximum(counts - of.discount, 0) + of.discount * of.followers[place] * found)[known]
            found[known] = share / totals[known]
        return found

    def bits(self, tokens: np.ndarray, start: int) -> float:
        """The mean of -log2 p over ``tokens[start:]``; the tokens before are only contexts."""
        begin = max(start - self.order + 1, 0)
        return float(-np.log2(self.probabilities(tokens[begin:])[start - begin :]).mean())


def _codes(tokens: np.ndarray, length: int, base: int) -> np.ndarray:
    """At every place, a number for the last ``length`` tokens (or as many as there are)."""
    tokens = np.asarray(tokens, np.int64)
    codes = np.zeros(len(tokens), np.int64)
    for back in range(length - 1, -1, -1):
        codes[back:] = codes[back:] * base + tokens[: len(tokens) - back]
    return codes


def _counted(grams: np.ndarray, counts: np.ndarray, base: int) -> _Order:
    contexts, first, followers = np.unique(grams // base, return_index=True, return_counts=True)
    once, twice = (counts == 1).sum(), (counts == 2).sum()
    discount = once / (once + 2 * twice) if once else 0.5  # a small alphabet may have no rare n-grams
    return _Order(grams, counts, contexts, np.add.reduceat(counts, first), followers, float(discount))


def _look_up(codes: np.ndarray, wanted: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The value of each wanted code, 0 for one that is not there; and its place."""
    place = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
    return np.where(codes[place] == wanted, values[place], 0), place
