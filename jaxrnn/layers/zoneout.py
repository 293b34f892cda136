"""Zoneout as an option of layers."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxrnn import checks
from jaxrnn.cells import RecurrentCell, SLSTMCell
from jaxrnn.cells.base import shapes_of_carry
from jaxrnn.checks import Cell
from jaxrnn.ops.step import Carry


class Zoneout(nnx.Module):
    """Which units keep their value from the step before: at random while training, on average afterwards.

    Args:
      rates: the probability of keeping a unit; one for all parts of the carry, or one for every part.
      rngs: source of the masks.

    Raises:
      ValueError: a rate does not lie in [0, 1), or there are no ``rngs``.
    """

    def __init__(self, rates: float | Sequence[float], *, rngs: nnx.Rngs | None):
        several = isinstance(rates, (tuple, list, np.ndarray))
        self.rates = tuple(checks.dropout_rate("zoneout", rate) for rate in (rates if several else [rates]))
        if rngs is None:
            raise ValueError(f"zoneout={rates} needs rngs to draw its masks from")
        self.deterministic = False
        self.rngs = rngs.dropout.fork() if isinstance(rngs, nnx.Rngs) else rngs.fork()

    def check(self, cell: Cell) -> None:
        """Raise a ValueError if the rates do not fit this cell."""
        carry = None
        if isinstance(cell, RecurrentCell):
            carry = shapes_of_carry(cell, (1, cell.in_features))
        rates, leaves = self.rates_of(cell, carry), jax.tree.leaves(carry)
        widths = [math.prod(leaf.shape[1:]) for leaf in leaves]
        wrong = [number for number, rate in enumerate(rates) if rate > 0 and widths[number] != widths[-1]]
        if wrong:
            raise ValueError(
                f"zoneout={self.rates}: part {wrong[0]} of the carry of {checks.shown(cell)} has "
                f"{widths[wrong[0]]} units, and not {widths[-1]} as its last part, the hidden state: give one "
                "rate for every part, and 0 for this one"
            )

    def rates_of(self, cell: Cell, carry: Carry) -> tuple[float, ...]:
        """One rate for every part of the cell's carry, or a ValueError."""
        if not isinstance(cell, RecurrentCell):
            raise ValueError(f"zoneout needs a jaxrnn.RecurrentCell, not {checks.shown(cell)}")
        parts = len(jax.tree.leaves(carry))
        rates = self.rates * parts if len(self.rates) == 1 else self.rates
        if len(rates) != parts:
            raise ValueError(
                f"zoneout={self.rates} has {len(rates)} rates, but the carry of {checks.shown(cell)} has "
                f"{parts} parts"
            )
        if isinstance(cell, SLSTMCell) and any(rates[:-1]):
            raise ValueError(
                f"zoneout={self.rates}: c, n and m of an SLSTMCell only have a meaning together, so they cannot "
                "keep their values apart: give (0, 0, 0, rate), which is that of h"
            )
        return rates

    def masks(self, rates: tuple[float, ...], shape: tuple[int, ...], dtype: Any) -> Array:
        """1 where a unit keeps its value, else 0: ``[*steps, parts * hidden]`` for ``shape [*steps, hidden]``."""
        drawn = [jax.random.bernoulli(self.rngs(), rate, shape) for rate in rates if rate > 0]
        return jnp.concatenate(drawn, axis=-1).astype(dtype)
