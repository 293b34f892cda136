"""The sLSTM cell of xLSTM."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn.cells.base import RecurrentCell
from jaxrnn.cells.initializers import Initializer, glorot_uniform, orthogonal, zeros
from jaxrnn.ops.slstm import SLSTMCarry, slstm_pointwise
from jaxrnn.ops.step import accumulation_dtype, cast


class SLSTMCell(RecurrentCell):
    """The sLSTM: an LSTM with exponential gates, a normaliser and heads (Beck et al. 2024, arXiv:2405.04517).

        log_f = log(sigmoid(f~)), or f~ with an exponential forget gate      where x~ = x @ kernel + bias
        m_t = max(i~, log_f + m_{t-1})                                                + h_{t-1} @ recurrent_kernel
        i = exp(i~ - m_t)       f = exp(log_f + m_{t-1} - m_t)       z = tanh(z~)       o = sigmoid(o~)
        c_t = f * c_{t-1} + i * z        n_t = f * n_{t-1} + i       h_t = o * c_t / n_t

    The order of the gates on the last axis of every parameter is i f z o. The carry is a
    :class:`jaxrnn.SLSTMCarry` of c, n, m and h, each ``[*batch, hidden]``; the output is h. No exponent is above
    0, so nothing overflows. With all zeros the memory is empty, and the first step then takes m_t = i~ and f = 0.

    In half precision c, n and m stay in float32, because n counts steps and an error of m is one in an exponent.

    Args:
      num_heads: the number of blocks on the diagonal of the recurrent kernel; it must divide ``hidden_features``.
      forget_gate: ``"sigmoid"`` or ``"exponential"``.
      forget_bias: the initial bias of the forget gate: ``"ramp"`` spreads it over the units of every head, from 3
        to 6, so that units forget at different rates; or a number. Without a bias it has no effect.
      The other arguments are those of :class:`jaxrnn.RecurrentCell`.

    Raises:
      ValueError: an argument is invalid, or the inputs or the carry do not fit; the message shows the value.

    >>> import jax.numpy as jnp
    >>> import jaxrnn
    >>> from flax import nnx
    >>> cell = SLSTMCell(3, 8, num_heads=2, rngs=nnx.Rngs(0))
    >>> cell.recurrent_kernel.shape                          # [heads, units of a head, gates * units of a head]
    (2, 4, 16)
    >>> carry, y = cell(cell.initialize_carry((5, 3)), jnp.ones((5, 3)))    # one step
    >>> carry.n.shape, y.shape
    ((5, 8), (5, 8))
    >>> jaxrnn.RNN(cell)(jnp.ones((5, 10, 3))).shape                        # a sequence
    (5, 10, 8)
    """

    num_gates = 4
    output_is_hidden_state = True

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        num_heads: int = 1,
        forget_gate: str = "sigmoid",
        forget_bias: str | float = "ramp",
        use_bias: bool = True,
        kernel_init: Initializer = glorot_uniform,
        recurrent_kernel_init: Initializer = orthogonal,
        bias_init: Initializer = zeros,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        slstm_pointwise(forget_gate)  # raises for an unknown one
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
        self.forget_gate = forget_gate
        value = _forget_bias(forget_bias, hidden_features // self.num_heads)
        if self.bias is not None:
            first, last = hidden_features, 2 * hidden_features
            self.bias[...] = self.bias[...].at[first:last].set(jnp.tile(value, self.num_heads).astype(param_dtype))

    def carry_like(self, h: Array) -> SLSTMCarry:
        wide = cast(h, accumulation_dtype(h.dtype))
        return SLSTMCarry(c=wide, n=wide, m=wide, h=h)

    def pure_pointwise(self):
        return slstm_pointwise(self.forget_gate), ()

    def pointwise(self, carry: SLSTMCarry, xw: tuple[Array, ...], rh: tuple[Array, ...]):
        return slstm_pointwise(self.forget_gate)((), carry, xw, rh)


def _forget_bias(forget_bias: str | float, units: int) -> Array:
    if isinstance(forget_bias, str):
        if forget_bias != "ramp":
            raise ValueError(f'forget_bias must be "ramp" or a number, not {forget_bias!r}')
        return jnp.linspace(3.0, 6.0, units)
    if isinstance(forget_bias, bool) or not isinstance(forget_bias, (numbers.Real, jax.Array)):
        raise ValueError(f'forget_bias must be "ramp" or a number, not {forget_bias!r}')
    return jnp.full(units, forget_bias)
