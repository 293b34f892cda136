"""The minimal versions of GRU and LSTM, whose gates do not read the state."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn import checks
from jaxrnn.cells.initializers import Initializer, glorot_uniform, zeros
from jaxrnn.cells.linear import LinearRecurrentCell
from jaxrnn.ops.activations import Activation


def positive(x: Array) -> Array:
    """The candidate's activation g of the paper: x + 0.5 where x is not negative, else sigmoid(x).

    It is positive, so that the paper can compute states by their logarithms. (Here they are computed as they are.)
    """
    return jnp.where(x >= 0, x + 0.5, jax.nn.sigmoid(x))


class _MinimalCell(LinearRecurrentCell):
    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        activation_fn: Activation = positive,
        use_bias: bool = True,
        kernel_init: Initializer = glorot_uniform,
        bias_init: Initializer = zeros,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
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
        self.activation_fn = checks.function("activation_fn", activation_fn, "jaxrnn.cells.positive")


class MinGRUCell(_MinimalCell):
    """The minimal GRU (Feng et al. 2024, arXiv:2410.01201).

        z    = sigmoid(x @ kernel + bias)                   of its gate
        h_t  = (1 - z) * h_{t-1} + z * g(x @ kernel + bias)

    The order of the gates is z, candidate. The carry is h, ``[*batch, hidden]``, and so is the output.

    Args:
      in_features, hidden_features, use_bias, kernel_init, bias_init, dtype, param_dtype, rngs: as in
        :class:`jaxrnn.LinearRecurrentCell`.
      activation_fn: g, by default that of the paper's log-space version. ``lambda x: x`` is its first version.

    Raises:
      ValueError: an argument is invalid, or the inputs or the carry do not fit; the message shows the value.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> cell = MinGRUCell(3, 4, rngs=nnx.Rngs(0))
    >>> carry, y = cell(cell.initialize_carry((2, 3)), jnp.ones((2, 3)))
    >>> y.shape
    (2, 4)
    """

    def coefficients(self, xw: tuple[Array, ...], inputs: Array) -> tuple[Array, Array]:
        update, candidate = xw
        # 1 - sigmoid(x) would lose the digits of a small result.
        return jax.nn.sigmoid(-update), jax.nn.sigmoid(update) * self.activation_fn(candidate)


class MinLSTMCell(_MinimalCell):
    """The minimal LSTM with normalised gates (Feng et al. 2024, arXiv:2410.01201).

        f, i  = sigmoid(x @ kernel + bias)                  of their gates
        h_t   = f / (f + i) * h_{t-1} + i / (f + i) * g(x @ kernel + bias)

    The order of the gates is f, i, candidate. The carry is h, ``[*batch, hidden]``, and so is the output.

    Args:
      in_features, hidden_features, use_bias, kernel_init, bias_init, dtype, param_dtype, rngs: as in
        :class:`jaxrnn.LinearRecurrentCell`.
      activation_fn: g, by default that of the paper's log-space version. ``lambda x: x`` is its first version.

    Raises:
      ValueError: an argument is invalid, or the inputs or the carry do not fit; the message shows the value.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> cell = MinLSTMCell(3, 4, rngs=nnx.Rngs(0))
    >>> carry, y = cell(cell.initialize_carry((2, 3)), jnp.ones((2, 3)))
    >>> y.shape
    (2, 4)
    """

    num_gates = 3

    def coefficients(self, xw: tuple[Array, ...], inputs: Array) -> tuple[Array, Array]:
        forget, insert, candidate = xw
        # f / (f + i) = sigmoid(log f - log i), which is finite where both gates round to zero.
        keep = jax.nn.log_sigmoid(forget) - jax.nn.log_sigmoid(insert)
        return jax.nn.sigmoid(keep), jax.nn.sigmoid(-keep) * self.activation_fn(candidate)
