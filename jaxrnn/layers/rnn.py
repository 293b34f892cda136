"""RNN and Bidirectional: one cell over a sequence, or two, with the faces of their namesakes in ``flax.nnx``."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn.cells.base import check_inputs
from jaxrnn.layers.flax_cells import is_known
from jaxrnn.layers.sequence import flip_time, run_cell
from jaxrnn.ops.step import Carry


def concatenate_features(forward: Array, backward: Array) -> Array:
    return jnp.concatenate([forward, backward], axis=-1)


class RNN(nnx.Module):
    """Apply a recurrent cell at every step of a sequence: a drop-in for ``flax.nnx.RNN``.

    A :class:`jaxrnn.RecurrentCell` runs on the engine: its input projection is one matmul before the loop,
    its weight gradients are one matmul each after it. So do Flax's own SimpleCell, LSTMCell, OptimizedLSTMCell
    and GRUCell, with their own parameters and carries. Any other ``nnx.RNNCellBase`` is scanned as it is.

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
      remat_every: for training on long sequences, keep the carry of every so many steps only and compute what
        lies between again in the backward pass. A divisor of time near its square root needs least memory.

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
        remat_every: int | None = None,
    ):
        if isinstance(cell, type):
            raise ValueError(f"cell is the class {cell.__name__}: make one, {cell.__name__}(...)")
        self.cell = cell
        self.time_major = time_major
        self.return_carry = return_carry
        self.reverse = reverse
        self.keep_order = keep_order
        self.unroll = unroll
        self.broadcast_rngs = broadcast_rngs
        self.rngs = nnx.data(_own_stream(rngs))
        self.implementation = implementation
        self.remat_every = remat_every

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
    ) -> Any:
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
        inputs = jnp.asarray(inputs)
        time_axis = time_axis_of(inputs, time_major, self.cell.num_feature_axes)
        check_shapes(self.cell, inputs, resets)
        carry, outputs = run_cell(
            self.cell,
            jnp.moveaxis(inputs, time_axis, 0),
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            resets=None if resets is None else jnp.moveaxis(jnp.asarray(resets), time_axis, 0),
            reverse=reverse,
            unroll=self.unroll,
            implementation=self.implementation,
            remat_every=self.remat_every,
            batch_major=time_axis != 0,
            rngs=self.rngs if rngs is None else rngs,
            broadcast_rngs=self.broadcast_rngs,
        )
        if reverse and not keep_order:
            outputs = jax.tree.map(lambda a: flip_time(a, seq_lengths), outputs)
        outputs = jax.tree.map(lambda a: jnp.moveaxis(a, 0, time_axis), outputs)
        return (carry, outputs) if return_carry else outputs


def check_shapes(cell: nnx.RNNCellBase, inputs: Array, resets: Array | None) -> None:
    """A ValueError in the caller's own order of axes, which further down is time first."""
    if is_known(cell):
        check_inputs(cell, inputs)
    steps = inputs.shape[: inputs.ndim - cell.num_feature_axes]
    if resets is not None and jnp.shape(resets) != steps:
        raise ValueError(f"resets must be bool of shape {steps}, one for every step, not {jnp.shape(resets)}")


def _own_stream(rngs: nnx.Rngs | nnx.RngStream | bool) -> nnx.RngStream | None:
    """The stream for random first carries; True and False, which Flax takes too, stand for none."""
    if isinstance(rngs, bool):
        return None
    if not isinstance(rngs, (nnx.Rngs, nnx.RngStream)):
        raise ValueError(f"rngs must be nnx.Rngs, one of its streams or a bool, not {rngs!r}")
    return (rngs.carry if isinstance(rngs, nnx.Rngs) else rngs).fork()


def time_axis_of(inputs: Array, time_major: bool, num_feature_axes: int = 1) -> int:
    """Which axis of the inputs is time; a ValueError if there are too few axes for one."""
    if inputs.ndim < num_feature_axes + 1:
        raise ValueError(
            f"{inputs.shape=} has {inputs.ndim} axes, but needs time and {num_feature_axes} feature axes: "
            "[*batch, time, features]. A univariate series x needs x[..., None]."
        )
    return 0 if time_major else inputs.ndim - num_feature_axes - 1


def pair_of_carries(initial_carry: Any) -> tuple[Carry, Carry]:
    """The first carries of both directions, or a ValueError."""
    if initial_carry is None:
        return None, None
    # A NamedTuple is one layer's carry, an LSTM's for instance.
    is_pair = isinstance(initial_carry, (tuple, list)) and not hasattr(initial_carry, "_fields")
    if not is_pair or len(initial_carry) != 2:
        structure = jax.tree.structure(initial_carry)
        raise ValueError(f"initial_carry must be a pair, of the forward and the backward layer, not {structure}")
    forward, backward = initial_carry
    return forward, backward


class Bidirectional(nnx.Module):
    """Two recurrent layers over the same inputs, one in each direction, their outputs merged at every step.

    A drop-in for ``flax.nnx.Bidirectional``.

    Args:
      forward_rnn, backward_rnn: :class:`RNN` layers, or others with the same call; each has its own parameters.
      merge_fn: of forward and backward outputs; concatenates their features by default.
      time_major, return_carry: as in :class:`RNN`; the carry is a pair.
      rngs: for cells with a random first carry.

    >>> import jax.numpy as jnp
    >>> import jaxrnn
    >>> from flax import nnx
    >>> rngs = nnx.Rngs(0)
    >>> layer = Bidirectional(RNN(jaxrnn.GRUCell(3, 4, rngs=rngs)), RNN(jaxrnn.GRUCell(3, 4, rngs=rngs)))
    >>> layer(jnp.ones((2, 10, 3))).shape
    (2, 10, 8)
    """

    def __init__(
        self,
        forward_rnn: Any,
        backward_rnn: Any,
        *,
        merge_fn: Callable[[Array, Array], Array] = concatenate_features,
        time_major: bool = False,
        return_carry: bool = False,
        rngs: nnx.Rngs | nnx.RngStream | bool = True,
    ):
        if forward_rnn is backward_rnn:
            raise ValueError("forward_rnn and backward_rnn are one object and would share parameters: make two")
        self.forward_rnn = forward_rnn
        self.backward_rnn = backward_rnn
        self.merge_fn = merge_fn
        self.time_major = time_major
        self.return_carry = return_carry
        self.rngs = nnx.data(_own_stream(rngs))

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: tuple[Carry, Carry] | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        **options: Any,
    ) -> Any:
        """Run both layers; the arguments are those of :class:`RNN`, with a pair of carries."""
        return_carry = self.return_carry if return_carry is None else return_carry
        carries = pair_of_carries(initial_carry)
        shared: dict[str, Any] = dict(
            seq_lengths=seq_lengths,
            return_carry=True,
            time_major=self.time_major if time_major is None else time_major,
            rngs=self.rngs if rngs is None else rngs,
            **options,
        )
        carry, outputs = self.forward_rnn(inputs, initial_carry=carries[0], **shared, reverse=False)
        back_carry, back_outputs = self.backward_rnn(
            inputs, initial_carry=carries[1], **shared, reverse=True, keep_order=True
        )
        merged = jax.tree.map(self.merge_fn, outputs, back_outputs)
        return ((carry, back_carry), merged) if return_carry else merged
