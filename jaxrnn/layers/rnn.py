"""RNN and Bidirectional: drop-in replacements for the layers of the same names in ``flax.nnx``."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn import checks
from jaxrnn.checks import Cell
from jaxrnn.layers.arguments import checked_implementation, pair_of_carries, pair_of_reset_carries, time_first
from jaxrnn.layers.sequence import flip_time, run_cell
from jaxrnn.ops.step import Carry
from jaxrnn.signature import InitSignature


def concatenate_features(forward: Array, backward: Array) -> Array:
    return jnp.concatenate([forward, backward], axis=-1)


class RNN(nnx.Module):
    """Apply a recurrent cell at every step of a sequence: a drop-in replacement for ``flax.nnx.RNN``.

    A :class:`jaxrnn.RecurrentCell` runs on the engine: its input projection is one matmul before the loop, and
    each of its weight gradients is one matmul after it. Flax's own SimpleCell, LSTMCell, OptimizedLSTMCell and
    GRUCell also run on the engine, with their own parameters and carries. Any other ``nnx.RNNCellBase`` runs in a
    plain scan, and so does any other ``nnx.Module`` with ``__call__(carry, inputs)``,
    ``initialize_carry(input_shape, rngs)`` and ``num_feature_axes``.

    It differs from ``flax.nnx.RNN`` on purpose: outputs past ``seq_lengths`` are zero and get no gradient, length
    0 returns the initial carry, ``seq_lengths`` may have any number of batch axes, and there is ``resets``.

    In recurrent reinforcement learning, an agent acts for some steps and learns from them afterwards. The sequence
    then starts with the carry that the agent had at its first step. An episode that begins inside the sequence
    began with zeros, so ``resets`` need ``reset_carry="zeros"``. Without it the episode would begin with the carry
    of an earlier one, which is wrong although nothing fails.

    Args:
      cell: the cell.
      time_major: inputs and outputs are ``[time, *batch, features]`` instead of ``[*batch, time, features]``.
      return_carry: return ``(carry, outputs)`` instead of ``outputs``.
      reverse: run from the last step to the first.
      keep_order: with ``reverse``, return the outputs in the order of the inputs instead of the order in which
        they were computed.
      unroll: steps per iteration of the compiled loop; None for what is fastest (:func:`jaxrnn.ops.recurrence`).
      state_axes: for compatibility with Flax. Only its default ``{...: nnx.Carry}`` is supported, with or without
        ``nnx.Param: None``: a cell's other variables are carried from step to step.
      broadcast_rngs: selects those random streams of the cell (for dropout) that repeat at every step.
      rngs: for cells with a random initial carry.
      implementation: which implementation of the engine to use, see :func:`jaxrnn.ops.recurrence`.
      remat_every: for training on long sequences. Keeps only the carry of every ``remat_every``-th step, and
        computes the others again in the backward pass. Memory is lowest for a divisor of the number of steps near
        its square root.

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

    A rollout of 10 steps. ``done[:, t]`` says that the episode ended with step t, so that step t + 1 is the first
    of another; step 0 is the first of one if the step before the rollout was the last of another.

    >>> rollout_carry = carry                                       # the agent's, before its first step
    >>> done_before, done = jnp.zeros((2, 1), bool), jnp.zeros((2, 10), bool).at[:, 6].set(True)
    >>> first_of_episode = jnp.concatenate([done_before, done[:, :-1]], axis=1)
    >>> carry, outputs = layer(
    ...     jnp.ones((2, 10, 3)), initial_carry=rollout_carry, resets=first_of_episode, reset_carry="zeros")
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
        unroll: int | None = None,
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
        self.unroll = checks.positive_integer_or_none("unroll", unroll)
        _check_state_axes(state_axes)
        self.broadcast_rngs = broadcast_rngs
        self.rngs = nnx.data(_own_stream(rngs))
        self.implementation = checked_implementation(implementation)
        self.remat_every = checks.positive_integer_or_none("remat_every", remat_every)

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Carry | None = None,
        seq_lengths: Array | None = None,
        resets: Array | None = None,
        reset_carry: Carry | str | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> Any:
        """Run the layer.

        Args:
          inputs: ``[*batch, time, features]``, or ``[time, *batch, features]`` with ``time_major``; a single
            sequence ``[time, features]`` works too.
          initial_carry: the carry before the first step; by default that of the cell's ``initialize_carry``.
          seq_lengths: integers ``[*batch]``. Steps beyond a row's length are padding.
          resets: bool, shaped like the inputs without their features; where true, the carry returns to
            ``reset_carry`` before that step.
          reset_carry: ``"zeros"``, or a carry with the structure and shapes of ``initial_carry``, which it is by
            default.
          return_carry, time_major, reverse, keep_order: override the constructor's arguments.
          rngs: for cells with a random initial carry.

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
            reset_carry=reset_carry,
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
            f"state_axes={checks.shown(state_axes)} is not supported: leave it out, or pass Flax's default "
            "{...: nnx.Carry}, which carries a cell's variables from step to step"
        )


def _own_stream(rngs: nnx.Rngs | nnx.RngStream | bool) -> nnx.RngStream | None:
    """The stream for random initial carries. True and False, which Flax accepts too, mean no stream."""
    if isinstance(rngs, bool):
        return None
    if not isinstance(rngs, (nnx.Rngs, nnx.RngStream)):
        raise ValueError(f"rngs must be nnx.Rngs, one of its streams or a bool, not {checks.shown(rngs)}")
    return (rngs.carry if isinstance(rngs, nnx.Rngs) else rngs).fork()


class Bidirectional(nnx.Module):
    """Run two recurrent layers over the same inputs, one in each direction, and merge their outputs at every step.

    A drop-in replacement for ``flax.nnx.Bidirectional``.

    Args:
      forward_rnn, backward_rnn: :class:`RNN` layers, or other layers with the same call. Each has its own
        parameters.
      merge_fn: a function of the forward and the backward outputs; by default it concatenates their features.
      time_major, return_carry: as in :class:`RNN`; the carry is a pair.
      rngs: for cells with a random initial carry.

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
            raise ValueError(
                "forward_rnn and backward_rnn are the same object and would share parameters: make two layers"
            )
        self.forward_rnn = _checked_rnn("forward_rnn", forward_rnn)
        self.backward_rnn = _checked_rnn("backward_rnn", backward_rnn)
        if getattr(forward_rnn, "cell", None) is getattr(backward_rnn, "cell", self):
            raise ValueError(
                "forward_rnn and backward_rnn have the same cell and would share parameters: make two cells"
            )
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
        reset_carry: tuple[Carry, Carry] | str | None = None,
    ) -> Any:
        """Run both layers. The arguments are those of :class:`RNN`, except that a carry is a pair.

        Both directions reset before the same steps. Each returns to its own part of ``reset_carry``, or to zeros
        with ``"zeros"``.

        ``reverse`` and ``keep_order`` have no effect, as in Flax. They exist so that another
        :class:`Bidirectional` may contain this layer.
        """
        return_carry = checks.flag("return_carry", return_carry, self.return_carry)
        carries = pair_of_carries(initial_carry)
        shared: dict[str, Any] = dict(
            seq_lengths=seq_lengths,
            return_carry=True,
            time_major=checks.flag("time_major", time_major, self.time_major),
            rngs=self.rngs if rngs is None else rngs,
        )
        # Flax's RNN does not have these two arguments, so they are only passed on if they are given.
        if resets is not None:
            shared["resets"] = resets
        of_forward, of_backward = {}, {}
        if reset_carry is not None:
            of_forward, of_backward = ({"reset_carry": part} for part in pair_of_reset_carries(reset_carry))
        carry, outputs = self.forward_rnn(inputs, initial_carry=carries[0], **shared, **of_forward, reverse=False)
        back_carry, back_outputs = self.backward_rnn(
            inputs, initial_carry=carries[1], **shared, **of_backward, reverse=True, keep_order=True
        )
        merged = jax.tree.map(self.merge_fn, outputs, back_outputs)
        return ((carry, back_carry), merged) if return_carry else merged


_PASSED_ON = ("initial_carry", "seq_lengths", "return_carry", "time_major", "reverse", "keep_order", "rngs")
"""The keyword arguments with which a Bidirectional calls its layers."""


def _checked_rnn(name: str, rnn: Any) -> Any:
    try:
        inspect.signature(rnn).bind(None, **dict.fromkeys(_PASSED_ON))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be a jaxrnn.RNN or another layer that is called like one, not {checks.shown(rnn)} "
            f"({error}). For a stack, pass bidirectional=True to jaxrnn.LSTM, GRU or SimpleRNN instead"
        ) from error
    return rnn
