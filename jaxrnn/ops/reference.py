"""The equations of a recurrence in ``lax.scan``, differentiated by JAX: the oracle of every test.

    carry_0         = initial_carry
    c               = initial_carry where resets_t, else carry_{t-1}
    rh_t            = h(c) @ recurrent_kernel + recurrent_bias
    new, y          = pointwise(params, c, xw_t, rh_t)
    carry_t, y_t    = (new, y) where valid_t, else (c, 0)

Never optimised: its worth is that it is obviously right.
"""

import jax.numpy as jnp
from jax import Array, lax

from jaxrnn.ops.step import Carry, Params, Pointwise, apply_pointwise, recurrent_projection, select


def reference_recurrence(
    pointwise: Pointwise,
    params: Params,
    recurrent_kernel: Array,
    recurrent_bias: Array | None,
    xw: Array,
    initial_carry: Carry,
    valid: Array | None,
    resets: Array | None,
    *,
    reverse: bool,
    unroll: int,
) -> tuple[Carry, Array]:
    def body(carry, inputs):
        xw_t, valid_t, reset_t = inputs
        if reset_t is not None:
            carry = select(reset_t, initial_carry, carry)
        rh = recurrent_projection(carry, recurrent_kernel, recurrent_bias)
        new_carry, y = apply_pointwise(pointwise, params, carry, xw_t, rh)
        if valid_t is not None:
            new_carry, y = select(valid_t, new_carry, carry), jnp.where(valid_t[..., None], y, 0)
        return new_carry, y

    return lax.scan(body, initial_carry, (xw, valid, resets), reverse=reverse, unroll=unroll)
