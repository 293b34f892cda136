"""The long short-term memory cell."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn import checks
from jaxrnn.cells.base import RecurrentCell
from jaxrnn.cells.initializers import Initializer, glorot_uniform, orthogonal, zeros
from jaxrnn.ops.pointwise import LSTMCarry, lstm_pointwise


class LSTMCell(RecurrentCell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate: Gers, Schmidhuber, Cummins 2000).

        i, f, o = sigmoid(x @ kernel + bias + h @ recurrent_kernel)     of their gates
        g       = tanh(x @ kernel + bias + h @ recurrent_kernel)        of its gate
        c_t     = f * c_{t-1} + i * g
        h_t     = o * tanh(c_t)

    The order of the gates on the last axis of every parameter is i f g o. The carry is an
    :class:`jaxrnn.LSTMCarry` of c and h, each ``[*batch, hidden]``; the output is h.

    Args:
      unit_forget_bias: start with a forget bias of 1, so that the cell remembers until it learns to forget
        (Jozefowicz, Zaremba, Sutskever 2015), as in Keras. With False, ``bias_init`` gives all biases.
      The other arguments are those of :class:`jaxrnn.RecurrentCell`.

    Raises:
      ValueError: an argument is invalid, or the inputs or the carry do not fit; the message shows the value.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> cell = LSTMCell(3, 4, rngs=nnx.Rngs(0))
    >>> x = jnp.ones((2, 3))
    >>> carry, y = cell(cell.initialize_carry(x.shape), x)
    >>> carry.c.shape, carry.h.shape, bool((carry.h == y).all())
    ((2, 4), (2, 4), True)
    """

    num_gates = 4
    output_is_hidden_state = True

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        unit_forget_bias: bool = True,
        num_heads: int = 1,
        use_bias: bool = True,
        kernel_init: Initializer = glorot_uniform,
        recurrent_kernel_init: Initializer = orthogonal,
        bias_init: Initializer = zeros,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            in_features,
            hidden_features,
            num_heads=num_heads,
            use_bias=use_bias,
            kernel_init=kernel_init,
            recurrent_kernel_init=recurrent_kernel_init,
            bias_init=bias_init,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        if checks.flag("unit_forget_bias", unit_forget_bias) and self.bias is not None:
            self.bias[...] = self.bias[...].at[hidden_features : 2 * hidden_features].set(1)

    def carry_like(self, h: Array) -> LSTMCarry:
        return LSTMCarry(c=h, h=h)

    def pure_pointwise(self):
        return lstm_pointwise, ()

    def pointwise(self, carry: LSTMCarry, xw: tuple[Array, ...], rh: tuple[Array, ...]):
        return lstm_pointwise(None, carry, xw, rh)
