"""One entry to every implementation of a recurrence: checks the arguments, picks, and runs."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer

from jaxrnn import checks
from jaxrnn.ops import pallas
from jaxrnn.ops.masks import checked_lengths, checked_reset_carry, checked_resets, valid_steps, without_padding
from jaxrnn.ops.native import recurrence as native
from jaxrnn.ops.reference import reference_recurrence
from jaxrnn.ops.scan import scan_recurrence
from jaxrnn.ops.step import (
    Carry,
    Params,
    Pointwise,
    Projection,
    Recurrence,
    check_recurrent_bias,
    hidden_state,
    projected,
    units_of,
)
from jaxrnn.ops.varying import varying_alike


def _always(pointwise: Pointwise, arrays: Recurrence, platform: str) -> str | None:
    return None


def _is_the_oracle(pointwise: Pointwise, arrays: Recurrence, platform: str) -> str | None:
    return "it is the oracle of the tests, never the fastest"


class Implementation(NamedTuple):
    """A way to run a recurrence.

    Attributes:
      run: ``(pointwise, arrays, *, reverse, unroll) -> (carry, outputs)``.
      unable: ``(pointwise, arrays, platform) -> reason``: why it cannot run these arrays (only their shapes and
        dtypes are looked at) on this platform (``cpu``, ``gpu``, ``tpu``), or None where it can.
      not_preferred: in the same way, why another implementation is faster although this one could run.
      projects: whether it takes a :class:`Projection` for xw; otherwise xw is computed before.
    """

    run: Callable[..., tuple[Carry, Array]]
    unable: Callable[[Pointwise, Recurrence, str], str | None] = _always
    not_preferred: Callable[[Pointwise, Recurrence, str], str | None] = _always
    projects: bool = False


IMPLEMENTATIONS = {
    "pallas": Implementation(pallas.pallas_recurrence, pallas.unable, pallas.not_preferred),
    "native": Implementation(native.native_recurrence, native.unable, native.not_preferred, projects=True),
    "scan": Implementation(scan_recurrence, projects=True),
    "reference": Implementation(reference_recurrence, not_preferred=_is_the_oracle),
}
"""In the order in which they are tried. ``pallas``: one kernel for all steps, on a GPU or TPU. ``native``: a
C++ library for CPUs, which has the built-in cells and interprets the equations of others. ``scan``: ``lax.scan``
with hand-written backpropagation through time, for every cell on every device. ``reference``: plain autodiff."""


UNROLL_ON_GPU = 8

exported_programs = jax.make_user_context(False)
"""``with exported_programs(True):`` what is traced must run on other machines, and without this package. It is the
scan, whatever implementation is named, or the reference where that one is named."""


class Choice(NamedTuple):
    """Which implementation runs, and why each of the others does not."""

    chosen: str
    reasons: dict[str, str]

    def __str__(self) -> str:
        return "\n".join([f"{self.chosen}: runs", *(f"{name}: {why}" for name, why in self.reasons.items())])


def recurrence(
    pointwise: Pointwise,
    recurrent_kernel: Array,
    xw: Array | Projection,
    initial_carry: Carry,
    *,
    params: Params = (),
    recurrent_bias: Array | None = None,
    recurrent_scale: Array | None = None,
    seq_lengths: Array | None = None,
    resets: Array | None = None,
    reset_carry: Carry = None,
    reverse: bool = False,
    unroll: int | None = None,
    implementation: str | None = None,
) -> tuple[Carry, Array]:
    """Run a recurrence over time. Time is the first axis.

    Args:
      pointwise: the cell's equations, ``(params, carry, xw, rh) -> (carry, y)``; ``xw`` and ``rh`` are tuples
        with one array ``[*batch, hidden]`` per gate, and may have different numbers of gates. A function of its
        arguments alone: arrays that it needs (and may want gradients of) come through ``params``.
      recurrent_kernel: ``[hidden, gates * hidden]``; or with heads, which are the blocks of a block-diagonal
        kernel, ``[heads, hidden / heads, gates * hidden / heads]``. Head n has the units from ``n * hidden /
        heads`` on.
      xw: ``[time, *batch, gates * hidden]``, the input's contribution with every bias in it, or the
        :class:`Projection` that gives it.
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
      reset_carry: a carry with the structure and shapes of ``initial_carry``, which it is by default.
      reverse: run from the last step to the first. Outputs stay aligned with ``xw``.
      unroll: steps per iteration of the loop that the scan and the reference compile. None for what is fastest: 8
        on a GPU, where an iteration costs more than its steps (2.0 to 2.4 times faster on an H200), otherwise 1.
      implementation: a name in :data:`IMPLEMENTATIONS`, or None for the best one that can run, which
        :func:`explain` tells.

    Returns:
      The final carry, and the outputs ``[time, *batch, hidden]`` in the dtype of ``xw``.

    Raises:
      ValueError: shapes, dtypes or the name of the implementation do not fit, or a named one cannot run.

    >>> import jax, jax.numpy as jnp
    >>> def elman(params, carry, xw, rh):
    ...     h = jnp.tanh(xw[0] + rh[0])
    ...     return h, h
    >>> carry, outputs = recurrence(elman, jnp.eye(3), jnp.ones((5, 2, 3)), jnp.zeros((2, 3)))
    >>> carry.shape, outputs.shape
    ((2, 3), (5, 2, 3))
    """
    check_name(implementation, IMPLEMENTATIONS)
    _check(recurrent_kernel, recurrent_bias, xw, initial_carry)
    valid = None
    if seq_lengths is not None:
        lengths = checked_lengths(seq_lengths, xw.shape[0], xw.shape[1:-1])
        valid = valid_steps(lengths, xw.shape[0], xw.shape[1:-1])
        if isinstance(xw, Projection):
            xw = dataclasses.replace(xw, inputs=without_padding(xw.inputs, lengths, valid))
        else:
            xw = without_padding(xw, lengths, valid)
    arrays = Recurrence(
        recurrent_kernel, xw, initial_carry, params, recurrent_bias, recurrent_scale, valid, resets, reset_carry
    )
    return run_recurrence(pointwise, arrays, reverse=reverse, unroll=unroll, implementation=implementation)


def run_recurrence(
    pointwise: Pointwise,
    arrays: Recurrence,
    *,
    reverse: bool,
    unroll: int | None = None,
    implementation: str | None = None,
) -> tuple[Carry, Array]:
    """:func:`recurrence` of arrays whose padding :func:`without_padding` has filled."""
    check_name(implementation, IMPLEMENTATIONS)
    recurrent_kernel, xw, initial_carry, params, recurrent_bias, recurrent_scale, valid, *_ = arrays
    _check(recurrent_kernel, recurrent_bias, xw, initial_carry)
    resets, reset_carry = checked_resets(arrays.resets, xw.shape[0], xw.shape[1:-1], valid), None
    unroll, reverse = checks.positive_integer_or_none("unroll", unroll), checks.flag("reverse", reverse)
    if resets is not None:
        reset_carry = initial_carry
        if arrays.reset_carry is not None:
            reset_carry = checked_reset_carry(arrays.reset_carry, initial_carry)
    if recurrent_scale is not None:
        recurrent_scale = lax.stop_gradient(_floating(recurrent_scale, recurrent_kernel.dtype))
    if recurrent_bias is not None:
        recurrent_bias = _floating(recurrent_bias, recurrent_kernel.dtype)
    if recurrent_kernel.shape[0] == 1 and recurrent_kernel.ndim == 3:
        recurrent_kernel = recurrent_kernel[0]  # one head is no heads, to the last bit
    arrays = Recurrence(
        recurrent_kernel, xw, initial_carry, params, recurrent_bias, recurrent_scale, valid, resets, reset_carry
    )
    if exported_programs.value and implementation != "reference":
        implementation = "scan"
    platform = platform_of(arrays)
    if unroll is None:
        unroll = UNROLL_ON_GPU if platform == "gpu" else 1
    name = implementation or choose(IMPLEMENTATIONS, pointwise, arrays, platform).chosen
    if implementation is not None:
        reason = IMPLEMENTATIONS[name].unable(pointwise, arrays, platform)
        if reason is not None:
            raise ValueError(f"implementation={name!r} cannot run this: {reason}")
    if not IMPLEMENTATIONS[name].projects:
        arrays = arrays._replace(xw=projected(xw))
    return _run(IMPLEMENTATIONS[name].run, pointwise, reverse, unroll, varying_alike(arrays))


def explain(
    pointwise: Pointwise,
    recurrent_kernel: Any,
    xw: Any,
    initial_carry: Carry,
    *,
    platform: str | None = None,
    params: Params = (),
    recurrent_bias: Any = None,
    recurrent_scale: Any = None,
    seq_lengths: Any = None,
    resets: Any = None,
) -> Choice:
    """Which implementation :func:`recurrence` would run for these arguments, and why not the others.

    Args:
      pointwise, recurrent_kernel, ...: as in :func:`recurrence`; ``jax.ShapeDtypeStruct`` will do, no array is
        looked into.
      platform: ``"cpu"``, ``"gpu"`` (or ``"cuda"``, ``"rocm"``) or ``"tpu"``; None for where the arrays are,
        or would be.

    >>> import jax, jax.numpy as jnp
    >>> h, xw, kernel = (jax.ShapeDtypeStruct(s, jnp.float32) for s in [(2, 3), (5, 2, 3), (3, 3)])
    >>> def elman(params, carry, xw, rh):
    ...     h = jnp.tanh(xw[0] + rh[0])
    ...     return h, h
    >>> explain(elman, kernel, xw, h, platform="cpu").chosen  # "scan" if the C++ library was not built
    'native'
    """
    _check(recurrent_kernel, recurrent_bias, xw, initial_carry)
    valid: Any = None if seq_lengths is None else jax.ShapeDtypeStruct(xw.shape[:-1], jnp.bool_)
    reset_carry = None if resets is None else initial_carry
    arrays: Any = Recurrence(
        recurrent_kernel, xw, initial_carry, params, recurrent_bias, recurrent_scale, valid, resets, reset_carry
    )
    platform = platform_of(arrays) if platform is None else checked_platform(platform)
    return choose(IMPLEMENTATIONS, pointwise, arrays, platform)


def choose(implementations: Mapping[str, Any], *arguments: Any) -> Choice:
    """The first implementation that can run these arguments and is not slower than another."""
    reasons: dict[str, str] = {}
    for name, implementation in implementations.items():
        why_not = implementation.unable(*arguments) or implementation.not_preferred(*arguments)
        if why_not is not None:
            reasons[name] = why_not
    chosen = next(name for name in implementations if name not in reasons)  # scan runs everything
    later = {name: f"{chosen} comes first" for name in implementations if name not in (chosen, *reasons)}
    return Choice(chosen, reasons | later)


def checked_platform(platform: Any) -> str:
    """``"cpu"``, ``"gpu"`` or ``"tpu"``, also from JAX's other names of GPUs and in any case; or a ValueError."""
    name = platform.lower() if isinstance(platform, str) else platform
    name = "gpu" if name in ("cuda", "rocm") else name
    if name not in ("cpu", "gpu", "tpu"):
        raise ValueError(f"platform must be 'cpu', 'gpu' or 'tpu', or None for the default, not {platform!r}")
    return name


def platform_of(arrays: Any) -> str:
    """Where arrays are; where they would be put, while their place is not known yet."""
    for leaf in jax.tree.leaves(arrays):
        if isinstance(leaf, Array) and not isinstance(leaf, Tracer):
            return next(iter(leaf.devices())).platform
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.platform


# Compiled as a unit, so that a call outside jit traces and compiles once, not at every call.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _run(run: Any, pointwise: Pointwise, reverse: bool, unroll: int, arrays: Recurrence) -> tuple[Carry, Array]:
    return run(pointwise, arrays, reverse=reverse, unroll=unroll)


def check_name(implementation: str | None, implementations: Mapping[str, Any]) -> None:
    if implementation is not None and implementation not in implementations:
        available = ", ".join(implementations)
        raise ValueError(f"unknown implementation {implementation!r}; available: {available}, or None to pick")


def _check(
    recurrent_kernel: Array, recurrent_bias: Array | None, xw: Array | Projection, initial_carry: Carry
) -> None:
    if not jax.tree.leaves(initial_carry):
        raise ValueError("initial_carry has no arrays: it must hold at least the hidden state")
    hidden = hidden_state(initial_carry).shape[-1:]
    if not hidden or not hidden[0]:
        raise ValueError(
            f"the hidden state has shape {hidden_state(initial_carry).shape}: it needs at least one unit"
        )
    if (
        recurrent_kernel.ndim not in (2, 3)
        or 0 in recurrent_kernel.shape
        or (units_of(recurrent_kernel) != hidden[0] or recurrent_kernel.shape[-1] % recurrent_kernel.shape[-2])
    ):
        raise ValueError(
            f"{recurrent_kernel.shape=} must be (hidden, gates * hidden), or (heads, hidden / heads, "
            f"gates * hidden / heads), with hidden = {hidden[0]} as in the last leaf of initial_carry"
        )
    if not jnp.issubdtype(recurrent_kernel.dtype, jnp.floating):
        raise ValueError(f"{recurrent_kernel.dtype=} must be a floating type")
    if xw.ndim < 2 or not xw.shape[-1] or xw.shape[-1] % hidden[0]:
        raise ValueError(f"{xw.shape=} must be (time, *batch, gates * hidden) with hidden = {hidden[0]}")
    if not jnp.issubdtype(xw.dtype, jnp.floating):
        raise ValueError(f"{xw.dtype=} must be a floating type")
    check_recurrent_bias(recurrent_kernel, recurrent_bias)
    batch = xw.shape[1:-1]
    for path, leaf in jax.tree_util.tree_leaves_with_path(initial_carry):
        if leaf.shape[:-1] != batch or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"initial_carry{jax.tree_util.keystr(path)} is {leaf.dtype} {leaf.shape}, but must be a "
                f"floating array of shape {(*batch, '...')} as {xw.shape=} has the batch {batch}"
            )


def _floating(array: Array, dtype: Any) -> Array:
    """The same numbers in a floating dtype: the C++ library would read a mask of bools as floats."""
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(dtype)
