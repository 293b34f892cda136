"""The real-gated linear recurrent unit of Griffin."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn import checks
from jaxrnn.cells.initializers import Initializer, glorot_uniform, zeros
from jaxrnn.cells.linear import LinearRecurrentCell

SHARPNESS = 8.0
"""The constant c of the paper."""


class RGLRUCell(LinearRecurrentCell):
    """The real-gated linear recurrent unit (De et al. 2024, arXiv:2402.19427).

        r, i  = sigmoid(x @ kernel + bias)                  of their gates: the recurrence gate and the input gate
        a_t   = sigmoid(decay)^(8 r)
        h_t   = a_t * h_{t-1} + sqrt(1 - a_t^2) * (i * x)

    If ``in_features`` is not ``hidden_features``, a third gate of ``kernel`` projects x before it enters h. (In
    Griffin, a linear layer before the unit does that.) The carry is h, ``[*batch, hidden]``, and so is the output.

    Args:
      in_features, hidden_features, use_bias, kernel_init, bias_init, dtype, param_dtype, rngs: as in
        :class:`jaxrnn.LinearRecurrentCell`.
      min_decay, max_decay: the initial a_t for an open recurrence gate (r = 1) are uniformly distributed between
        these, as in the paper.

    Raises:
      ValueError: an argument is invalid, or the inputs or the carry do not fit; the message shows the value.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> cell = RGLRUCell(3, 4, rngs=nnx.Rngs(0))
    >>> carry, y = cell(cell.initialize_carry((2, 3)), jnp.ones((2, 3)))
    >>> y.shape
    (2, 4)
    """

    num_gates = 3

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        min_decay: float = 0.9,
        max_decay: float = 0.999,
        use_bias: bool = True,
        kernel_init: Initializer = glorot_uniform,
        bias_init: Initializer = zeros,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        checks.number("min_decay", min_decay)
        checks.number("max_decay", max_decay)
        if not 0 < min_decay < max_decay < 1:
            raise ValueError(
                f"the decays must be numbers with 0 < min_decay < max_decay < 1, not {min_decay} and {max_decay}"
            )
        if in_features == hidden_features:
            self.num_gates = 2  # x needs no projection
        super().__init__(
            in_features,
            hidden_features,
            use_bias=use_bias,
            kernel_init=kernel_init,
            bias_init=bias_init,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

        def decays(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            log_a = jnp.log(jax.random.uniform(key, shape, dtype, min_decay, max_decay)) / SHARPNESS
            return log_a - jnp.log(-jnp.expm1(log_a))  # the inverse of sigmoid

        self.decay = nnx.Param(self.initial(decays, rngs, self.hidden_features))

    def coefficients(self, xw: tuple[Array, ...], inputs: Array) -> tuple[Array, Array]:
        dtype = xw[0].dtype
        recurrence_gate, input_gate = jax.nn.sigmoid(xw[0]), jax.nn.sigmoid(xw[1])
        x = inputs.astype(dtype) if len(xw) == 2 else xw[2]
        log_a = SHARPNESS * recurrence_gate * jax.nn.log_sigmoid(self.decay[...].astype(dtype))
        # The derivative of the root is infinite at zero, where a closed gate may round to.
        rest = jnp.maximum(-jnp.expm1(2 * log_a), jnp.finfo(dtype).tiny)
        return jnp.exp(log_a), jnp.sqrt(rest) * input_gate * x
