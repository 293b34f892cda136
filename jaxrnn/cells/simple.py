"""The simple recurrent cell: one dense layer that also reads its own previous output."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn import checks
from jaxrnn.cells.base import RecurrentCell
from jaxrnn.cells.initializers import Initializer, glorot_uniform, orthogonal, zeros
from jaxrnn.ops.activations import ACTIVATIONS, Activation
from jaxrnn.ops.pointwise import simple_rnn_pointwise


class SimpleRNNCell(RecurrentCell):
    """The simple recurrent cell of Elman, Finding structure in time (1990), doi:10.1207/s15516709cog1402_1.

        h_t = activation_fn(x_t @ kernel + bias + h_{t-1} @ recurrent_kernel)

    The carry is h, ``[*batch, hidden_features]``, and so is the output. With tanh, h stays within (-1, 1) for any
    weights. With relu it is not bounded: if the recurrent kernel has a gain above 1, h and the gradients grow
    exponentially with the length of the sequence.

    Args:
      activation_fn: an elementwise function.
      in_features, hidden_features, num_heads, use_bias, kernel_init, recurrent_kernel_init, bias_init, dtype,
        param_dtype, rngs: as in :class:`RecurrentCell`.

    Raises:
      ValueError: an argument is invalid, or the inputs or the carry do not fit; the message shows the value.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> cell = SimpleRNNCell(3, 4, rngs=nnx.Rngs(0))
    >>> x = jnp.ones((2, 3))
    >>> carry = cell.initialize_carry(x.shape)
    >>> carry, y = cell(carry, x)
    >>> carry.shape, y.shape
    ((2, 4), (2, 4))
    """

    output_is_hidden_state = True

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        activation_fn: Activation = jnp.tanh,
        num_heads: int = 1,
        use_bias: bool = True,
        kernel_init: Initializer = glorot_uniform,
        recurrent_kernel_init: Initializer = orthogonal,
        bias_init: Initializer = zeros,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        checks.function("activation_fn", activation_fn, "jnp.tanh")
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
        self.activation_fn = activation_fn

    def pure_pointwise(self):
        return simple_rnn_pointwise(self.activation_fn), ()

    def pointwise(self, carry: Array, xw: tuple[Array, ...], rh: tuple[Array, ...]) -> tuple[Array, Array]:
        return simple_rnn_pointwise(self.activation_fn)((), carry, xw, rh)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle cannot store JAX's own functions, so store the name of a known activation function instead."""
        state = super().__getstate__()
        names = [name for name, function in ACTIVATIONS.items() if function is self.activation_fn]
        return state | {"activation_fn": names[0]} if names else state

    def __setstate__(self, state: dict[str, Any]) -> None:
        function = state["activation_fn"]
        super().__setstate__(state | {"activation_fn": ACTIVATIONS.get(function, function)})
