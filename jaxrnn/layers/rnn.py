"""RNN: one cell over a sequence, with the face of ``flax.nnx.RNN``."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn.layers.sequence import flip_time, run_cell
from jaxrnn.ops.step import Carry


class RNN(nnx.Module):
    """Apply a recurrent cell at every step of a sequence: a drop-in for ``flax.nnx.RNN``.

    A :class:`jaxrnn.RecurrentCell` runs on the engine: its input projection is one matmul before the loop,
    its weight gradients are one matmul each after it. Any other ``nnx.RNNCellBase`` is scanned as it is.

    Where it differs from ``flax.nnx.RNN``, on purpose: outputs past ``seq_lengths`` are zero and get no
    gradient, length 0 returns the initial carry, any number of batch axes works with ``seq_lengths``, calls
    leave no trace in the module, and there is ``resets``.

    Args:
      cell: the cell.
      time_major: inputs and outputs are ``[time, *batch, features]`` instead of ``[*batch, time, features]``.
      return_carry: return ``(carry, outputs)`` instead of ``outputs``.
      reverse: run from the last step to the first.
      keep_order: with ``reverse``, leave the outputs aligned with the inputs instead of in the order in which
        they were computed.
      unroll: steps per iteration of the compiled loop.
      broadcast_rngs: for cells with random streams of their own (dropout), those that repeat at every step.
      rngs: for cells with a random first carry.
      implementation: which implementation of the engine to use, see :func:`jaxrnn.ops.recurrence`.

    >>> import jax.numpy as jnp
    >>> import jaxrnn
    >>> from flax import nnx
    >>> layer = RNN(jaxrnn.SimpleRNNCell(3, 4, rngs=nnx.Rngs(0)), return_carry=True)
    >>> carry, outputs = layer(jnp.ones((2, 10, 3)))
    >>> carry.shape, outputs.shape
    ((2, 4), (2, 10, 4))
    """

    def __init__(
        self,
        cell: nnx.RNNCellBase,
        *,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        broadcast_rngs: nnx.filterlib.Filter = None,
        rngs: nnx.Rngs | nnx.RngStream | bool = True,
        implementation: str | None = None,
    ):
        self.cell = cell
        self.time_major = time_major
        self.return_carry = return_carry
        self.reverse = reverse
        self.keep_order = keep_order
        self.unroll = unroll
        self.broadcast_rngs = broadcast_rngs
        self.rngs = nnx.data(rngs.carry.fork() if isinstance(rngs, nnx.Rngs) else None)
        self.implementation = implementation

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Carry | None = None,
        seq_lengths: Array | None = None,
        resets: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        """Run the layer.

        Args:
          inputs: ``[*batch, time, features]`` (``[time, *batch, features]`` with ``time_major``); a single
            sequence ``[time, features]`` too.
          initial_carry: the carry before the first step; zeros by default.
          seq_lengths: integers ``[*batch]``; a row's steps from its length on are padding.
          resets: bool, shaped like the inputs without their features; where true, the carry returns to
            ``initial_carry`` before that step.
          return_carry, time_major, reverse, keep_order: override the constructor's.
          rngs: for cells with a random first carry.

        Returns:
          The outputs ``[*batch, time, hidden]``, or ``(carry, outputs)``.
        """
        return_carry = self.return_carry if return_carry is None else return_carry
        time_major = self.time_major if time_major is None else time_major
        reverse = self.reverse if reverse is None else reverse
        keep_order = self.keep_order if keep_order is None else keep_order
        time_axis = time_axis_of(inputs, time_major, self.cell.num_feature_axes)
        carry, outputs = run_cell(
            self.cell,
            jnp.moveaxis(inputs, time_axis, 0),
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            resets=None if resets is None else jnp.moveaxis(resets, time_axis, 0),
            reverse=reverse,
            unroll=self.unroll,
            implementation=self.implementation,
            rngs=self.rngs if rngs is None else rngs,
            broadcast_rngs=self.broadcast_rngs,
        )
        if reverse and not keep_order:
            outputs = jax.tree.map(lambda a: flip_time(a, seq_lengths), outputs)
        outputs = jax.tree.map(lambda a: jnp.moveaxis(a, 0, time_axis), outputs)
        return (carry, outputs) if return_carry else outputs


def time_axis_of(inputs: Array, time_major: bool, num_feature_axes: int = 1) -> int:
    """Which axis of the inputs is time; a ValueError if there are too few axes for one."""
    if inputs.ndim < num_feature_axes + 1:
        raise ValueError(
            f"{inputs.shape=} has {inputs.ndim} axes, but needs time and {num_feature_axes} feature axes: "
            "[*batch, time, features]. A univariate series x needs x[..., None]."
        )
    return 0 if time_major else inputs.ndim - num_feature_axes - 1
