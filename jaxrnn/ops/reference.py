"""The equations of a recurrence in ``lax.scan``, differentiated by JAX: the oracle of every test.

    carry_0         = initial_carry
    c               = reset_carry where resets_t, else carry_{t-1}
    rh_t            = (h(c) * recurrent_scale) @ recurrent_kernel + recurrent_bias
    new, y          = pointwise(params, c, xw_t, rh_t)
    carry_t, y_t    = (new, y) where valid_t, else (c, 0)

Never optimised: its worth is that it is obviously right.
"""

import jax.numpy as jnp
from jax import Array, lax

from jaxrnn.ops.step import (
    Carry,
    Pointwise,
    Recurrence,
    apply_pointwise,
    by_gate,
    hidden_state,
    recurrent_projection,
    select,
)


def reference_recurrence(
    pointwise: Pointwise, arrays: Recurrence, *, reverse: bool, unroll: int
) -> tuple[Carry, Array]:
    a = arrays

    def body(carry, inputs):
        xw_t, valid_t, reset_t = inputs
        if reset_t is not None:
            carry = select(reset_t, a.reset_carry, carry)
        rh = recurrent_projection(carry, a.recurrent_kernel, a.recurrent_bias, a.recurrent_scale)
        hidden = hidden_state(carry).shape[-1]
        new_carry, y = apply_pointwise(pointwise, a.params, carry, by_gate(xw_t, hidden), by_gate(rh, hidden))
        if valid_t is not None:
            new_carry, y = select(valid_t, new_carry, carry), jnp.where(valid_t[..., None], y, 0)
        return new_carry, y

    return lax.scan(body, a.initial_carry, (a.xw, a.valid, a.resets), reverse=reverse, unroll=unroll)
