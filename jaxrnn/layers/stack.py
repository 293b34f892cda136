"""Stacks of recurrent layers: each layer reads the outputs of the one below, one dense step at a time."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn.cells.base import Initializer, glorot_uniform, orthogonal, zeros
from jaxrnn.cells.simple import SimpleRNNCell
from jaxrnn.layers.rnn import time_axis_of
from jaxrnn.layers.sequence import flip_time, run_cell
from jaxrnn.ops.activations import Activation
from jaxrnn.ops.step import Carry


class StackedRNN(nnx.Module):
    """Recurrent layers on top of each other, from any cells.

    Args:
      cells: one cell per layer, the lowest first; each reads as many features as the one below puts out.
      return_sequences: return the outputs of every step, ``[*batch, time, hidden]``; False returns only the
        last one, ``[*batch, hidden]`` (the last within ``seq_lengths``; zeros for length 0).
      time_major, return_carry, reverse, keep_order, unroll, implementation: as in :class:`jaxrnn.RNN`.
    """

    def __init__(
        self,
        cells: Sequence[nnx.RNNCellBase],
        *,
        return_sequences: bool = True,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        implementation: str | None = None,
    ):
        if not cells:
            raise ValueError("a stack needs at least one cell")
        self.cells = nnx.List(cells)
        self.return_sequences = return_sequences
        self.time_major = time_major
        self.return_carry = return_carry
        self.reverse = reverse
        self.keep_order = keep_order
        self.unroll = unroll
        self.implementation = implementation

    @property
    def num_layers(self) -> int:
        return len(self.cells)

    def initialize_carry(self, input_shape: tuple[int, ...]) -> tuple[Carry, ...]:
        """Every layer's first carry, for one step's inputs of shape ``(*batch, in_features)``."""
        return tuple(cell.initialize_carry(input_shape) for cell in self.cells)

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Sequence[Carry] | None = None,
        seq_lengths: Array | None = None,
        resets: Array | None = None,
        return_carry: bool | None = None,
    ):
        """Run the stack.

        Args:
          inputs: ``[*batch, time, features]``, or ``[time, *batch, features]`` with ``time_major``.
          initial_carry: one carry per layer; zeros by default.
          seq_lengths, resets, return_carry: as in :class:`jaxrnn.RNN`.

        Returns:
          The outputs, or ``(carry, outputs)`` with a tuple of one carry per layer.
        """
        return_carry = self.return_carry if return_carry is None else return_carry
        if initial_carry is not None and (
            not isinstance(initial_carry, (tuple, list)) or len(initial_carry) != self.num_layers
        ):
            found = len(initial_carry) if isinstance(initial_carry, (tuple, list)) else type(initial_carry)
            raise ValueError(f"initial_carry must be a tuple of {self.num_layers} carries, not {found}")
        time_axis = time_axis_of(inputs, self.time_major)
        outputs = jnp.moveaxis(inputs, time_axis, 0)
        resets = None if resets is None else jnp.moveaxis(resets, time_axis, 0)
        if outputs.shape[0] == 0 and not self.return_sequences:
            raise ValueError(f"{inputs.shape=} has no steps, so there is no last output")
        carries = []
        for layer, cell in enumerate(self.cells):
            carry, outputs = run_cell(
                cell,
                outputs,
                initial_carry=None if initial_carry is None else initial_carry[layer],
                seq_lengths=seq_lengths,
                resets=resets,
                reverse=self.reverse,
                unroll=self.unroll,
                implementation=self.implementation,
            )
            carries.append(carry)
        if not self.return_sequences:
            outputs = self._last(outputs, seq_lengths)
        else:
            if self.reverse and not self.keep_order:
                outputs = flip_time(outputs, seq_lengths)
            outputs = jnp.moveaxis(outputs, 0, time_axis)
        return (tuple(carries), outputs) if return_carry else outputs

    def _last(self, outputs: Array, seq_lengths: Array | None) -> Array:
        """The output that was computed last, from outputs ``[time, *batch, hidden]`` aligned with time."""
        if self.reverse:
            return outputs[0]
        if seq_lengths is None:
            return outputs[-1]
        last = jnp.maximum(jnp.asarray(seq_lengths) - 1, 0)
        return jnp.take_along_axis(outputs, last[None, ..., None], axis=0)[0]


def layer_sizes(hidden_features: int | Sequence[int], num_layers: int | None) -> tuple[int, ...]:
    """One hidden size per layer, from one size and a number of layers or from the sizes themselves."""
    if isinstance(hidden_features, int):
        sizes = (hidden_features,) * (1 if num_layers is None else num_layers)
    else:
        sizes = tuple(hidden_features)
        if num_layers is not None and num_layers != len(sizes):
            raise ValueError(f"{hidden_features=} has {len(sizes)} layers, but {num_layers=}")
    if not sizes:
        raise ValueError(f"at least one layer is needed: {hidden_features=}, {num_layers=}")
    return sizes


class SimpleRNN(StackedRNN):
    """``num_layers`` layers of :class:`jaxrnn.SimpleRNNCell`.

    Args:
      in_features: size of the last axis of the inputs.
      hidden_features: size of every layer, or one size per layer.
      num_layers: how many layers; may be left out where ``hidden_features`` is a sequence.
      activation_fn, use_bias, kernel_init, recurrent_kernel_init, bias_init, dtype, param_dtype, rngs: of the
        cells.
      return_sequences, time_major, return_carry, reverse, keep_order, unroll, implementation: as in
        :class:`StackedRNN`.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layers = SimpleRNN(1, 100, num_layers=2, return_sequences=False, rngs=nnx.Rngs(0))
    >>> layers(jnp.ones((8, 30, 1))).shape
    (8, 100)
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | Sequence[int],
        *,
        num_layers: int | None = None,
        return_sequences: bool = True,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        implementation: str | None = None,
        activation_fn: Activation = jnp.tanh,
        use_bias: bool = True,
        kernel_init: Initializer = glorot_uniform,
        recurrent_kernel_init: Initializer = orthogonal,
        bias_init: Initializer = zeros,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        sizes = layer_sizes(hidden_features, num_layers)
        super().__init__(
            [
                SimpleRNNCell(
                    below,
                    size,
                    activation_fn=activation_fn,
                    use_bias=use_bias,
                    kernel_init=kernel_init,
                    recurrent_kernel_init=recurrent_kernel_init,
                    bias_init=bias_init,
                    dtype=dtype,
                    param_dtype=param_dtype,
                    rngs=rngs,
                )
                for below, size in zip((in_features, *sizes), sizes)
            ],
            return_sequences=return_sequences,
            time_major=time_major,
            return_carry=return_carry,
            reverse=reverse,
            keep_order=keep_order,
            unroll=unroll,
            implementation=implementation,
        )
