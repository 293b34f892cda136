"""The residual block of xLSTM around an sLSTM."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn import checks, ops
from jaxrnn.cells import SLSTMCell
from jaxrnn.cells.initializers import glorot_uniform
from jaxrnn.ops import SLSTMCarry, slstm_pointwise
from jaxrnn.ops.masks import checked_lengths
from jaxrnn.ops.step import accumulation_dtype
from jaxrnn.signature import InitSignature

__all__ = ["SLSTMBlock", "SLSTMBlockCarry"]

_EPSILON = 1e-5
_MULTIPLE = 8


class SLSTMBlockCarry(NamedTuple):
    """What a block hands from one part of a sequence to the next.

    Attributes:
      inputs: the last inputs of the convolution, ``[batch, conv_width - 1, features]``.
      cell: the carry of the sLSTM.
    """

    inputs: Array
    cell: SLSTMCarry


class SLSTMBlock(nnx.Module):
    """An sLSTM with heads in a residual block, as in xLSTM (Beck et al. 2024, arXiv:2405.04517, figure 10).

        u = layer_norm(x)                     v = silu(causal_convolution(u))         each feature by itself
        i~, f~ = v @ gates                    z~, o~ = u @ gates                      each head by itself
        x = x + head_norm(slstm(i~, f~, z~, o~))
        x = x + (gelu(a) * b) @ down          a, b = layer_norm(x) @ up

    Inputs and outputs are ``[batch, time, features]``, so blocks are put one after the other.

    Args:
      features: size of the last axis of inputs and outputs.
      num_heads: heads of the sLSTM, which divide ``features``.
      conv_width: steps that the convolution sees; 0 for none, then v = u.
      mlp_features: size of a and b; by default 4/3 of ``features``, rounded up to a multiple of 8.
      forget_gate, forget_bias: as in :class:`jaxrnn.SLSTMCell`.
      dtype, param_dtype: as in :class:`jaxrnn.RecurrentCell`.
      rngs: source of the initial parameters.

    Raises:
      ValueError: at construction, an argument is invalid; at the call, inputs, lengths or a carry do not fit.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> blocks = nnx.Sequential(*(SLSTMBlock(16, num_heads=2, rngs=nnx.Rngs(n)) for n in range(2)))
    >>> nnx.jit(blocks)(jnp.ones((4, 10, 16))).shape
    (4, 10, 16)
    """

    __signature__ = InitSignature()

    def __init__(
        self,
        features: int,
        *,
        num_heads: int = 4,
        conv_width: int = 4,
        mlp_features: int | None = None,
        forget_gate: str = "sigmoid",
        forget_bias: str | float = "ramp",
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.features = checks.positive_integer("features", features)
        self.conv_width = conv_width if conv_width == 0 else checks.positive_integer("conv_width", conv_width)
        self.dtype = None if dtype is None else checks.floating_dtype("dtype", dtype)
        if mlp_features is None:
            mlp_features = _MULTIPLE * -(-4 * features // (3 * _MULTIPLE))
        checks.positive_integer("mlp_features", mlp_features)
        checks.initial_rngs(rngs)
        types: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype)
        norm: dict[str, Any] = dict(use_bias=False, epsilon=_EPSILON, rngs=rngs, **types)
        self.norm = nnx.LayerNorm(features, **norm)
        self.conv = nnx.data(None)
        if conv_width:
            self.conv = nnx.Conv(
                features,
                features,
                (conv_width,),
                padding="VALID",
                feature_group_count=features,
                rngs=rngs,
                **types,
            )
        cell = SLSTMCell(
            1, features, num_heads=num_heads, forget_gate=forget_gate, forget_bias=forget_bias, rngs=rngs, **types
        )
        self.forget_gate = forget_gate
        self.recurrent_kernel, self.bias = cell.recurrent_kernel, cell.bias
        units = features // num_heads
        drawn = [glorot_uniform(rngs.params(), (units, units)) for _ in range(4 * num_heads)]
        gates = jnp.stack(drawn).reshape(4, num_heads, units, units)
        self.gates = nnx.Param(gates.astype(param_dtype))
        self.head_norm = nnx.LayerNorm(units, use_scale=False, **norm)  # a group norm whose groups are the heads
        self.head_scale = nnx.Param(jnp.ones(features, param_dtype))
        self.mlp_norm = nnx.LayerNorm(features, **norm)
        self.up = nnx.Linear(features, 2 * mlp_features, use_bias=False, rngs=rngs, **types)
        self.down = nnx.Linear(mlp_features, features, use_bias=False, rngs=rngs, **types)

    def initialize_carry(self, batch_size: int) -> SLSTMBlockCarry:
        """The carry before the first step: zeros."""
        dtype = self.dtype or self.recurrent_kernel[...].dtype
        h = jnp.zeros((batch_size, self.features), dtype)
        wide = h.astype(accumulation_dtype(dtype))
        before = jnp.zeros((batch_size, max(self.conv_width - 1, 0), self.features), dtype)
        return SLSTMBlockCarry(before, SLSTMCarry(c=wide, n=wide, m=wide, h=h))

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: SLSTMBlockCarry | None = None,
        seq_lengths: Array | None = None,
        return_carry: bool = False,
    ) -> Any:
        """The outputs for ``inputs [batch, time, features]``, of the same shape.

        Args:
          inputs: the inputs.
          initial_carry: the carry of the part of the sequence before; zeros by default. One step at a time with
            the carry handed over gives the outputs of the whole sequence.
          seq_lengths: integers ``[batch]``. Steps beyond a row's length are padding: the carry stays as it is, and
            the outputs are zero.
          return_carry: return ``(carry, outputs)``.
        """
        x = checks.array("inputs", inputs)
        if x.ndim != 3 or x.shape[-1] != self.features:
            raise ValueError(f"inputs must be [batch, time, {self.features}], not {x.shape}")
        x = x if self.dtype is None else x.astype(self.dtype)
        batch, time, _ = x.shape
        first = self.initialize_carry(batch)
        if initial_carry is not None:
            first = checks.carry(type(self).__name__, initial_carry, first, (batch, self.features))
        valid = None
        if seq_lengths is not None:
            seq_lengths = checked_lengths(seq_lengths, time, (batch,))
            valid = (jnp.arange(time) < seq_lengths[:, None])[..., None]
            x = jnp.where(valid, x, 0)  # whatever padding holds, it reaches no gradient of a parameter
        normed = self.norm(x)
        seen = jnp.concatenate([first.inputs.astype(normed.dtype), normed], axis=1)
        convolved = normed if self.conv is None else jax.nn.silu(self.conv(seen))
        kernel, bias = self.gates[...].astype(normed.dtype), self.bias[...]  # pyright: ignore[reportOptionalSubscript]
        heads, units = kernel.shape[1:3]
        xw = [
            jnp.einsum("bthi,ghio->tbgho", read.reshape(batch, time, heads, units), part)
            for read, part in ((convolved, kernel[:2]), (normed, kernel[2:]))
        ]
        cell, hidden = ops.recurrence(
            slstm_pointwise(self.forget_gate),
            self.recurrent_kernel[...].astype(normed.dtype),
            jnp.concatenate(xw, axis=2).reshape(time, batch, 4 * self.features) + bias.astype(normed.dtype),
            first.cell,
            seq_lengths=seq_lengths,
        )
        by_head = jnp.moveaxis(hidden, 0, 1).reshape(batch, time, heads, units)
        x = x + self.head_norm(by_head).reshape(x.shape) * self.head_scale[...].astype(normed.dtype)
        opened, value = jnp.split(self.up(self.mlp_norm(x)), 2, axis=-1)
        x = x + self.down(jax.nn.gelu(opened, approximate=False) * value)
        x = x if valid is None else jnp.where(valid, x, 0)
        if not return_carry:
            return x
        ends = jnp.full(batch, time) if seq_lengths is None else seq_lengths
        places = ends[:, None] + jnp.arange(first.inputs.shape[1])
        return SLSTMBlockCarry(jnp.take_along_axis(seen, places[..., None], axis=1), cell), x
