"""Zoneout: units of the state that keep their value for a step, as the equations of any cell."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.ops.step import Carry, Params, Pointwise


@functools.cache  # so that compiled programs are found again
def zoneout_pointwise(
    pointwise: Pointwise, rates: tuple[float, ...], random: bool, output_is_hidden_state: bool
) -> Pointwise:
    """The equations of a cell with zoneout (Krueger et al. 2017, arXiv:1606.01305).

        carry_t = keep * carry_{t-1} + (1 - keep) * new_carry_t

    Args:
      pointwise: the equations of the cell.
      rates: the probability of keeping a unit, for every part of the carry.
      random: whether ``keep`` is 0 or 1, as in training. Then ``xw`` ends with one more block for every part with
        a rate above 0, which is that part's ``keep``. Otherwise ``keep`` is the rate.
      output_is_hidden_state: whether the output is the hidden state; so it is where the equations return one array
        for both. It then is the one with zoneout. Any other output is what the equations say.
    """

    def with_zoneout(params: Params, carry: Carry, xw: tuple[Array, ...], rh: tuple[Array, ...]) -> Any:
        masks = list(xw[len(xw) - sum(rate > 0 for rate in rates) :]) if random else []
        new_carry, y = pointwise(params, carry, xw[: len(xw) - len(masks)], rh)
        old, (new, structure) = jax.tree.leaves(carry), jax.tree.flatten(new_carry)
        is_h = output_is_hidden_state or y is new[-1]
        for i, rate in enumerate(rates):
            if rate == 0:
                continue
            new[i] = jnp.where(masks.pop(0) > 0.5, old[i], new[i]) if random else new[i] + rate * (old[i] - new[i])
        return jax.tree.unflatten(structure, new), new[-1] if is_h else y

    return with_zoneout
