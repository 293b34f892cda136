"""RNN and Bidirectional: one cell over a sequence, or two, with the faces of their namesakes in ``flax.nnx``."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn import checks
from jaxrnn.checks import Cell
from jaxrnn.layers.arguments import pair_of_carries, time_first
from jaxrnn.layers.sequence import flip_time, run_cell
from jaxrnn.ops.step import Carry
from jaxrnn.signature import InitSignature


def concatenate_features(forward: Array, backward: Array) -> Array:
    return jnp.concatenate([forward, backward], axis=-1)


class RNN(nnx.Module):
    """Apply a recurrent cell at every step of a sequence: a drop-in for ``flax.nnx.RNN``.

    A :class:`jaxrnn.RecurrentCell` runs on the engine: its input projection is one matmul before the loop,
    its weight gradients are one matmul each after it. So do Flax's own SimpleCell, LSTMCell, OptimizedLSTMCell
    and GRUCell, with their own parameters and carries. Any other ``nnx.RNNCellBase`` is scanned as it is, and so
    is any other ``nnx.Module`` with ``__call__(carry, inputs)``, ``initialize_carry(input_shape, rngs)`` and
    ``num_feature_axes``.

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
      state_axes: only Flax's default, ``{...: nnx.Carry}``, with or without ``nnx.Param: None``: whatever a cell
        keeps besides its parameters goes along from step to step.
      broadcast_rngs: for cells with random streams of their own (dropout), those that repeat at every step.
      rngs: for cells with a random first carry.
      implementation: which implementation of the engine to use, see :func:`jaxrnn.ops.recurrence`.
      remat_every: for training on long sequences, keep the carry of every so many steps only and compute what
        lies between again in the backward pass. A divisor of time near its square root needs least memory.

    Raises:
      ValueError: at construction, an argument is invalid; at the call, the inputs, lengths, resets or a carry
        do not fit the cell, or an option is not available for this cell. The message shows the value.

    >>> import jax.numpy as jnp
    >>> import jaxrnn
    >>> from flax import nnx
    >>> layer = RNN(jaxrnn.SimpleRNNCell(3, 4, rngs=nnx.Rngs(0)), return_carry=True)
    >>> carry, outputs = layer(jnp.ones((2, 10, 3)))
    >>> carry.shape, outputs.shape
    ((2, 4), (2, 10, 4))
    """

    __signature__ = InitSignature()

    def __init__(
        self,
        cell: Cell,
        *,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        state_axes: Mapping[Any, Any] | None = None,
        broadcast_rngs: nnx.filterlib.Filter = None,
        rngs: nnx.Rngs | nnx.RngStream | bool = True,
        implementation: str | None = None,
        remat_every: int | None = None,
    ):
        self.cell = checks.cell("cell", cell)
        self.time_major = checks.flag("time_major", time_major)
        self.return_carry = checks.flag("return_carry", return_carry)
        self.reverse = checks.flag("reverse", reverse)
        self.keep_order = checks.flag("keep_order", keep_order)
        self.unroll = checks.positive_integer("unroll", unroll)
        _check_state_axes(state_axes)
        self.broadcast_rngs = broadcast_rngs
        self.rngs = nnx.data(_own_stream(rngs))
        self.implementation = implementation
        self.remat_every = None if remat_every is None else checks.positive_integer("remat_every", remat_every)

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
        return_carry = checks.flag("return_carry", return_carry, self.return_carry)
        time_major = checks.flag("time_major", time_major, self.time_major)
        reverse = checks.flag("reverse", reverse, self.reverse)
        keep_order = checks.flag("keep_order", keep_order, self.keep_order)
        sequence, seq_lengths, resets, time_axis = time_first(self.cell, inputs, seq_lengths, resets, time_major)
        carry, outputs = run_cell(
            self.cell,
            sequence,
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            resets=resets,
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


def _check_state_axes(state_axes: Any) -> None:
    axes = state_axes.items() if isinstance(state_axes, Mapping) else [(..., state_axes)]
    if state_axes is not None and any(
        axis is not nnx.Carry and not (axis is None and kind is nnx.Param) for kind, axis in axes
    ):
        raise ValueError(
            f"state_axes={checks.shown(state_axes)} is not supported: what a cell keeps besides its parameters "
            "goes along from step to step, as by Flax's default {...: nnx.Carry}"
        )


def _own_stream(rngs: nnx.Rngs | nnx.RngStream | bool) -> nnx.RngStream | None:
    """The stream for random first carries; True and False, which Flax takes too, stand for none."""
    if isinstance(rngs, bool):
        return None
    if not isinstance(rngs, (nnx.Rngs, nnx.RngStream)):
        raise ValueError(f"rngs must be nnx.Rngs, one of its streams or a bool, not {checks.shown(rngs)}")
    return (rngs.carry if isinstance(rngs, nnx.Rngs) else rngs).fork()


class Bidirectional(nnx.Module):
    """Two recurrent layers over the same inputs, one in each direction, their outputs merged at every step.

    A drop-in for ``flax.nnx.Bidirectional``.

    Args:
      forward_rnn, backward_rnn: :class:`RNN` layers, or others with the same call; each has its own parameters.
      merge_fn: of forward and backward outputs; concatenates their features by default.
      time_major, return_carry: as in :class:`RNN`; the carry is a pair.
      rngs: for cells with a random first carry.

    Raises:
      ValueError: a layer cannot be called like an :class:`RNN`, both layers are the same object or share a cell,
        or another argument is invalid. The message shows the value.

    >>> import jax.numpy as jnp
    >>> import jaxrnn
    >>> from flax import nnx
    >>> rngs = nnx.Rngs(0)
    >>> layer = Bidirectional(RNN(jaxrnn.GRUCell(3, 4, rngs=rngs)), RNN(jaxrnn.GRUCell(3, 4, rngs=rngs)))
    >>> layer(jnp.ones((2, 10, 3))).shape
    (2, 10, 8)
    """

    __signature__ = InitSignature()

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
        self.forward_rnn = _checked_rnn("forward_rnn", forward_rnn)
        self.backward_rnn = _checked_rnn("backward_rnn", backward_rnn)
        if getattr(forward_rnn, "cell", None) is getattr(backward_rnn, "cell", self):
            raise ValueError("forward_rnn and backward_rnn have one cell and would share parameters: make two")
        self.merge_fn = checks.function("merge_fn", merge_fn, "jnp.add")
        self.time_major = checks.flag("time_major", time_major)
        self.return_carry = checks.flag("return_carry", return_carry)
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
        reverse: bool | None = None,
        keep_order: bool | None = None,
        resets: Array | None = None,
    ) -> Any:
        """Run both layers; the arguments are those of :class:`RNN`, with a pair of carries.

        ``reverse`` and ``keep_order`` change nothing, as in Flax: they are there so that this layer may be part of
        another :class:`Bidirectional`.
        """
        return_carry = checks.flag("return_carry", return_carry, self.return_carry)
        carries = pair_of_carries(initial_carry)
        shared: dict[str, Any] = dict(
            seq_lengths=seq_lengths,
            return_carry=True,
            time_major=checks.flag("time_major", time_major, self.time_major),
            rngs=self.rngs if rngs is None else rngs,
        )
        if resets is not None:  # Flax's RNN does not know them
            shared["resets"] = resets
        carry, outputs = self.forward_rnn(inputs, initial_carry=carries[0], **shared, reverse=False)
        back_carry, back_outputs = self.backward_rnn(
            inputs, initial_carry=carries[1], **shared, reverse=True, keep_order=True
        )
        merged = jax.tree.map(self.merge_fn, outputs, back_outputs)
        return ((carry, back_carry), merged) if return_carry else merged


_PASSED_ON = ("initial_carry", "seq_lengths", "return_carry", "time_major", "reverse", "keep_order", "rngs")
"""What a Bidirectional calls its layers with."""


def _checked_rnn(name: str, rnn: Any) -> Any:
    try:
        inspect.signature(rnn).bind(None, **dict.fromkeys(_PASSED_ON))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be a jaxrnn.RNN or another layer that is called like one, not {checks.shown(rnn)} "
            f"({error}); stacks run both ways by themselves, with bidirectional=True"
        ) from error
    return rnn
