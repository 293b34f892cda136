"""The gated recurrent unit, in both of its variants."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn import checks
from jaxrnn.cells.base import RecurrentCell
from jaxrnn.cells.initializers import Initializer, glorot_uniform, orthogonal, zeros
from jaxrnn.ops.pointwise import gru_pointwise, gru_reset_before_pointwise
from jaxrnn.ops.step import Params, Pointwise

CANDIDATE = "candidate"


class GRUCell(RecurrentCell):
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078).

        r, z = sigmoid(x @ kernel + bias + h @ recurrent_kernel + recurrent_bias)     of their gates
        n    = tanh(xw_n + r * (h @ recurrent_kernel_n + recurrent_bias_n))           reset_after=True
        n    = tanh(xw_n + (r * h) @ recurrent_kernel_n)                              reset_after=False
        h_t  = (1 - z) * n + z * h_{t-1}

    The order of the gates on the last axis of every parameter is r z n. The carry is h, ``[*batch, hidden]``, and
    so is the output.

    There are two variants, whose weights are not interchangeable. ``reset_after=True`` is that of cuDNN, PyTorch
    and, by default, Keras. Its ``recurrent_bias`` is not redundant, because the reset gate multiplies it.
    ``reset_after=False`` is that of the paper (version 3) and of Keras with ``reset_after=False``. It has no
    recurrent bias, and it is slower, because it needs a second product at every step. ``flax.nnx.GRUCell`` is the
    first variant with ``use_recurrent_bias=False``; Linen's and equinox's are that with ``"candidate"``.

    Args:
      reset_after: which variant to use.
      use_recurrent_bias: whether ``reset_after=True`` adds a recurrent bias; None means the same as ``use_bias``.
        ``"candidate"`` adds one of n only, ``[hidden]``. Those of r and z are redundant beside ``bias``.
      The other arguments are those of :class:`jaxrnn.RecurrentCell`.

    Raises:
      ValueError: an argument is invalid, or the inputs or the carry do not fit; the message shows the value.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> cell = GRUCell(3, 4, rngs=nnx.Rngs(0))
    >>> carry, y = cell(cell.initialize_carry((2, 3)), jnp.ones((2, 3)))
    >>> carry.shape, y.shape
    ((2, 4), (2, 4))
    """

    num_gates = 3
    output_is_hidden_state = True

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        reset_after: bool = True,
        num_heads: int = 1,
        use_bias: bool = True,
        use_recurrent_bias: bool | str | None = None,
        kernel_init: Initializer = glorot_uniform,
        recurrent_kernel_init: Initializer = orthogonal,
        bias_init: Initializer = zeros,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        reset_after, use_bias = checks.flag("reset_after", reset_after), checks.flag("use_bias", use_bias)
        of_candidate = use_recurrent_bias == CANDIDATE
        if isinstance(use_recurrent_bias, str) and not of_candidate:
            raise ValueError(
                f'use_recurrent_bias must be True, False, "{CANDIDATE}" or None, not {use_recurrent_bias!r}'
            )
        if not isinstance(use_recurrent_bias, str):
            use_recurrent_bias = checks.flag(
                "use_recurrent_bias", use_recurrent_bias, default=use_bias and reset_after
            )
        if use_recurrent_bias and not reset_after:
            raise ValueError(f"{use_recurrent_bias=} needs reset_after=True: the other variant has no such bias")
        super().__init__(
            in_features,
            hidden_features,
            num_heads=num_heads,
            use_bias=use_bias,
            use_recurrent_bias=bool(use_recurrent_bias) and not of_candidate,
            kernel_init=kernel_init,
            recurrent_kernel_init=recurrent_kernel_init,
            bias_init=bias_init,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.reset_after = reset_after
        if of_candidate:
            bias = nnx.Param(bias_init(rngs.params(), (hidden_features,), param_dtype))
            self.recurrent_bias = nnx.data(bias)

    def recurrent_parameters(self, dtype: jnp.dtype) -> tuple[Array, Array | None]:
        kernel, bias = super().recurrent_parameters(dtype)
        if bias is not None and bias.shape[0] == self.hidden_features:  # of the candidate only
            bias = jnp.pad(bias, (2 * self.hidden_features, 0))
        return (kernel, bias) if self.reset_after else (kernel[..., : 2 * kernel.shape[-2]], None)

    def pure_pointwise(self) -> tuple[Pointwise, Params]:
        if self.reset_after:
            return gru_pointwise, ()
        return gru_reset_before_pointwise, self.recurrent_kernel[..., -(self.hidden_features // self.num_heads) :]

    def pointwise(self, carry: Array, xw: tuple[Array, ...], rh: tuple[Array, ...]):
        pointwise, params = GRUCell.pure_pointwise(self)
        return pointwise(params, carry, xw, rh)
