"""One entry to every implementation of a recurrence: checks the arguments, picks, and runs."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxrnn.ops.reference import reference_recurrence
from jaxrnn.ops.scan import scan_recurrence
from jaxrnn.ops.step import Carry, Params, Pointwise, Recurrence, hidden_state

IMPLEMENTATIONS = {"scan": scan_recurrence, "reference": reference_recurrence}
"""``scan``: ``lax.scan`` with hand-written backpropagation through time. ``reference``: plain autodiff."""

DEFAULT_IMPLEMENTATION = "scan"


def recurrence(
    pointwise: Pointwise,
    recurrent_kernel: Array,
    xw: Array,
    initial_carry: Carry,
    *,
    params: Params = (),
    recurrent_bias: Array | None = None,
    recurrent_scale: Array | None = None,
    seq_lengths: Array | None = None,
    resets: Array | None = None,
    reset_carry: Carry = None,
    reverse: bool = False,
    unroll: int = 1,
    implementation: str | None = None,
) -> tuple[Carry, Array]:
    """Run a recurrence over time. Time is the first axis.

    Args:
      pointwise: the cell's equations, ``(params, carry, xw, rh) -> (carry, y)``; ``xw`` and ``rh`` are tuples
        with one array ``[*batch, hidden]`` per gate, and may have different numbers of gates. A function of its
        arguments alone: arrays that it needs (and may want gradients of) come through ``params``.
      recurrent_kernel: ``[hidden, gates * hidden]``.
      xw: ``[time, *batch, gates * hidden]``, the input's contribution with every bias in it.
      initial_carry: pytree of ``[*batch, hidden]``; its last leaf is the hidden state that the recurrent
        kernel multiplies. Each leaf keeps its dtype.
      params: pytree of arrays that the pointwise function has of its own.
      recurrent_bias: ``[gates * hidden]``, added to ``h @ recurrent_kernel``; only needed where the pointwise
        function does not simply add ``xw`` and ``rh``.
      recurrent_scale: ``[*batch, hidden]`` or anything that broadcasts to it, multiplies h before the recurrent
        product at every step; for dropout that drops the same units throughout. It gets no gradient.
      seq_lengths: integer ``[*batch]``, from 0 to time. From its length on, a row's carry stays as it is, its
        outputs are zero and its gradients are zero.
      resets: bool ``[time, *batch]``. Where true, the carry returns to ``reset_carry`` BEFORE that step.
      reset_carry: shaped like ``initial_carry``, which it is by default.
      reverse: run from the last step to the first. Outputs stay aligned with ``xw``.
      unroll: steps per iteration of the compiled loop.
      implementation: ``"scan"``, ``"reference"``, or None for the best one.

    Returns:
      The final carry, and the outputs ``[time, *batch, hidden]`` in the dtype of ``xw``.

    Raises:
      ValueError: shapes, dtypes or the name of the implementation do not fit.

    >>> import jax, jax.numpy as jnp
    >>> def elman(params, carry, xw, rh):
    ...     h = jnp.tanh(xw[0] + rh[0])
    ...     return h, h
    >>> carry, outputs = recurrence(elman, jnp.eye(3), jnp.ones((5, 2, 3)), jnp.zeros((2, 3)))
    >>> carry.shape, outputs.shape
    ((2, 3), (5, 2, 3))
    """
    run = _named(implementation)
    _check(recurrent_kernel, recurrent_bias, xw, initial_carry)
    time, batch = xw.shape[0], xw.shape[1:-1]
    valid = None if seq_lengths is None else valid_steps(seq_lengths, time, batch)
    if valid is not None:
        xw = jnp.where(valid[..., None], xw, 0)  # a NaN in the padding must not reach a gradient as 0 * NaN
    resets = checked_resets(resets, time, batch, valid)
    if not isinstance(unroll, int) or unroll < 1:
        raise ValueError(f"unroll must be a positive integer, not {unroll!r}")
    if resets is None:
        reset_carry = None
    elif reset_carry is None:
        reset_carry = initial_carry
    arrays = Recurrence(
        recurrent_kernel, xw, initial_carry, params, recurrent_bias, recurrent_scale, valid, resets, reset_carry
    )
    return _run(run, pointwise, reverse, unroll, arrays)


# Compiled as a unit, so that a call outside jit traces and compiles once, not at every call.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _run(run: Any, pointwise: Pointwise, reverse: bool, unroll: int, arrays: Recurrence) -> tuple[Carry, Array]:
    return run(pointwise, arrays, reverse=reverse, unroll=unroll)


def _named(implementation: str | None):
    name = DEFAULT_IMPLEMENTATION if implementation is None else implementation
    if name not in IMPLEMENTATIONS:
        raise ValueError(
            f"unknown implementation {name!r}; available: {', '.join(IMPLEMENTATIONS)}, or None to pick"
        )
    return IMPLEMENTATIONS[name]


def _check(recurrent_kernel: Array, recurrent_bias: Array | None, xw: Array, initial_carry: Carry) -> None:
    if not jax.tree.leaves(initial_carry):
        raise ValueError("initial_carry has no arrays: it must hold at least the hidden state")
    hidden = hidden_state(initial_carry).shape[-1:]
    if not hidden or not hidden[0]:
        raise ValueError(
            f"the hidden state has shape {hidden_state(initial_carry).shape}: it needs at least one unit"
        )
    if recurrent_kernel.ndim != 2 or recurrent_kernel.shape[:1] != hidden or recurrent_kernel.shape[1] % hidden[0]:
        raise ValueError(
            f"{recurrent_kernel.shape=} must be (hidden, gates * hidden) with hidden = {hidden[0]} "
            "as in the last leaf of initial_carry"
        )
    if xw.ndim < 2 or not xw.shape[-1] or xw.shape[-1] % hidden[0]:
        raise ValueError(f"{xw.shape=} must be (time, *batch, gates * hidden) with hidden = {hidden[0]}")
    if not jnp.issubdtype(xw.dtype, jnp.floating):
        raise ValueError(f"{xw.dtype=} must be a floating type")
    width = recurrent_kernel.shape[1]
    if recurrent_bias is not None and recurrent_bias.shape != (width,):
        raise ValueError(f"{recurrent_bias.shape=} must be ({width},) as {recurrent_kernel.shape=}")
    batch = xw.shape[1:-1]
    for path, leaf in jax.tree_util.tree_leaves_with_path(initial_carry):
        if leaf.shape[:-1] != batch or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"initial_carry{jax.tree_util.keystr(path)} is {leaf.dtype} {leaf.shape}, but must be a "
                f"floating array of shape {(*batch, '...')} as {xw.shape=} has the batch {batch}"
            )


def valid_steps(seq_lengths: Array, time: int, batch: tuple[int, ...]) -> Array:
    """bool ``[time, *batch]``: which steps lie within each row's length."""
    lengths = jnp.asarray(seq_lengths)
    if lengths.shape != batch or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"seq_lengths must be integers of shape {batch}, not {lengths.dtype} {lengths.shape}")
    if not isinstance(lengths, Tracer) and lengths.size:
        known = np.asarray(lengths)  # in NumPy, since within jit even a known array's minimum is not known
        low, high = int(known.min()), int(known.max())
        if low < 0 or high > time:
            raise ValueError(f"seq_lengths must lie in 0..{time} (time), but reach from {low} to {high}")
    steps = jnp.arange(time).reshape(time, *([1] * lengths.ndim))
    return steps < lengths


def checked_resets(resets: Array | None, time: int, batch: tuple[int, ...], valid: Array | None) -> Array | None:
    """``resets`` as an array, or a ValueError; without those in the padding, which freezes the carry."""
    if resets is None:
        return None
    resets = jnp.asarray(resets)
    if resets.shape != (time, *batch) or resets.dtype != jnp.bool_:
        raise ValueError(f"resets must be bool of shape {(time, *batch)}, not {resets.dtype} {resets.shape}")
    return resets if valid is None else resets & valid
