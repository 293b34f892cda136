"""One entry to every implementation of a linear recurrence: checks the arguments, picks, and runs."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn import checks
from jaxrnn.ops.dispatch import (
    Choice,
    check_name,
    checked_platform,
    choose,
    exported_programs,
    platform_of,
)
from jaxrnn.ops.linear import kernel, loops, native
from jaxrnn.ops.linear.arrays import LinearArrays, spread_alike
from jaxrnn.ops.masks import checked_lengths, checked_resets
from jaxrnn.ops.step import accumulation_dtype, cast


def _always(x: LinearArrays, platform: str) -> str | None:
    return None


class LinearImplementation(NamedTuple):
    """A way to run a linear recurrence.

    Attributes:
      run: ``(arrays, *, reverse, batch_major) -> states``.
      unable: ``(arrays, platform) -> reason``: why it cannot run these arrays (only their shapes and dtypes are
        looked at) on this platform, or None where it can.
      not_preferred: in the same way, why another implementation is faster although this one could run.
    """

    run: Callable[..., Array]
    unable: Callable[[LinearArrays, str], str | None] = _always
    not_preferred: Callable[[LinearArrays, str], str | None] = _always


def _by_loop(loop: loops.Loop) -> Callable[..., Array]:
    return functools.partial(loops.loop_recurrence, loop)


def _launches(x: LinearArrays, platform: str) -> str | None:
    return None if platform == "cpu" else f"on a {platform}, each of its steps costs the launch of a kernel"


def _on_a_gpu(x: LinearArrays, platform: str) -> str | None:
    return "on a GPU associative is several times as fast" if platform == "gpu" else None


LINEAR_IMPLEMENTATIONS = {
    "pallas": LinearImplementation(kernel.kernel_recurrence, kernel.unable, kernel.not_preferred),
    "native": LinearImplementation(native.native_recurrence, native.unable),
    "scan": LinearImplementation(_by_loop(loops.scan), not_preferred=_launches),
    "chunked": LinearImplementation(_by_loop(loops.chunked), not_preferred=_on_a_gpu),
    "associative": LinearImplementation(_by_loop(loops.associative)),
}
"""In the order in which they are tried. ``pallas``: a kernel for GPUs and TPUs, of real numbers; on a TPU it must
be named, since it was not measured there. ``native``: the C++ library, on CPUs. ``scan``: ``lax.scan``.
``chunked``: chunks side by side, with a scan within them and an associative scan across. ``associative``:
``lax.associative_scan``, which takes more memory, and loses digits of long products of complex numbers. The last
three run everywhere. All gradients are hand-written."""


def linear_recurrence(
    a: Any,
    b: Any,
    initial_state: Any = None,
    *,
    seq_lengths: Any = None,
    resets: Any = None,
    reset_state: Any = None,
    reverse: bool = False,
    implementation: str | None = None,
) -> Array:
    """Compute h_t = a_t * h_{t-1} + b_t for all steps, elementwise. Time is the first axis.

    This is the recurrence of the LRU, of S4D and S5, of RG-LRU, minGRU and minLSTM, and of exponential smoothing.

    Args:
      a: real or complex, ``[time, *batch, channels]``, or anything that broadcasts to the shape of ``b``: a decay
        that does not depend on time, ``[channels]``, is not repeated in memory by the C++ library.
      b: real or complex, ``[time, *batch, channels]``.
      initial_state: the state before the first step, ``[*batch, channels]`` or what broadcasts to it; by default
        zeros.
      seq_lengths: integer ``[*batch]``, from 0 to time. From its length on, a row's state stays as it is, so that
        the last state (with ``reverse`` the first) is the final one of every row. Padding reaches no gradient.
      resets: bool ``[time, *batch]``. Where true, the state returns to ``reset_state`` BEFORE that step.
      reset_state: as ``initial_state``, which it is by default.
      reverse: run from the last step to the first. States stay aligned with ``b``.
      implementation: a name in :data:`LINEAR_IMPLEMENTATIONS`, or None for the best one that can run, which
        :func:`explain_linear_recurrence` tells.

    Returns:
      The states ``[time, *batch, channels]``, in the common dtype of ``a`` and ``b``. Half precision is computed
      in float32.

    Raises:
      ValueError: shapes, dtypes or the name of the implementation do not fit, or a named one cannot run.

    Gradients are taken in reverse, of any order; those of complex numbers are not conjugated, as elsewhere in JAX.
    Forward-mode derivatives (``jax.jvp``, ``jax.hessian``) are not supported, since the gradients are
    hand-written; ``jax.jacrev(jax.grad(f))`` is the Hessian.

    >>> import jax.numpy as jnp
    >>> linear_recurrence(0.5, jnp.ones((4, 1)))[:, 0]
    Array([1.   , 1.5  , 1.75 , 1.875], dtype=float32)
    """
    reverse = checks.flag("reverse", reverse)
    x = checked_arrays(a, b, initial_state, seq_lengths, resets, reset_state)
    return run_linear_recurrence(x, reverse=reverse, implementation=implementation)


def run_linear_recurrence(
    x: LinearArrays, *, reverse: bool, implementation: str | None = None, batch_major: bool = False
) -> Array:
    """:func:`linear_recurrence` of arrays that have been checked.

    With ``batch_major``, the arrays are transposes of arrays with time after the batch, and so are the states.
    """
    check_name(implementation, LINEAR_IMPLEMENTATIONS)
    if 0 in x.b.shape:
        return x.b
    if exported_programs.value:
        implementation = "scan"
    platform = platform_of(x)
    name = implementation or choose(LINEAR_IMPLEMENTATIONS, x, platform).chosen
    if implementation is not None:
        reason = LINEAR_IMPLEMENTATIONS[name].unable(x, platform)
        if reason is not None:
            raise ValueError(f"implementation={name!r} cannot run this: {reason}")
    return _run(LINEAR_IMPLEMENTATIONS[name].run, reverse, batch_major, x)


def explain_linear_recurrence(
    a: Any,
    b: Any,
    initial_state: Any = None,
    *,
    platform: str | None = None,
    seq_lengths: Any = None,
    resets: Any = None,
    reset_state: Any = None,
    reverse: bool = False,
) -> Choice:
    """Which implementation :func:`linear_recurrence` would run for these arguments, and why not the others.

    Args:
      a, b, ...: as in :func:`linear_recurrence`; ``jax.ShapeDtypeStruct`` will do, no array is looked into.
      platform: ``"cpu"``, ``"gpu"`` (or ``"cuda"``, ``"rocm"``) or ``"tpu"``; None for where the arrays are,
        or would be.

    >>> import jax, jax.numpy as jnp
    >>> b = jax.ShapeDtypeStruct((100, 8, 64), jnp.float32)
    >>> explain_linear_recurrence(b, b, platform="tpu").chosen
    'chunked'
    """
    platform = platform_of((a, b)) if platform is None else checked_platform(platform)
    checks.flag("reverse", reverse)  # every implementation runs both ways
    x = jax.eval_shape(checked_arrays, a, b, initial_state, seq_lengths, resets, reset_state)
    return choose(LINEAR_IMPLEMENTATIONS, x, platform)


# Compiled as a unit, so that a call outside jit traces and compiles once, not at every call.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(run: Any, reverse: bool, batch_major: bool, x: LinearArrays) -> Array:
    dtype = x.b.dtype
    wide = accumulation_dtype(dtype) if jnp.issubdtype(dtype, jnp.floating) else dtype
    state = None if x.reset_state is None else cast(x.reset_state, wide)
    a, b, initial_state = (cast(part, wide) for part in (x.a, x.b, x.initial_state))
    x = LinearArrays(a, b, initial_state, state, x.lengths, x.resets)
    return cast(run(x, reverse=reverse, batch_major=batch_major), dtype)


def checked_arrays(
    a: Any, b: Any, initial_state: Any, seq_lengths: Any, resets: Any, reset_state: Any
) -> LinearArrays:
    """The arguments of :func:`linear_recurrence` in one dtype and spread alike, or a ValueError."""
    a, b = _array("a", a), _array("b", b)
    if b.ndim < 2:
        raise ValueError(f"{b.shape=} must be (time, *batch, channels); a single channel x needs x[..., None]")
    dtype = jnp.result_type(a, b)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(f"a and b must be real or complex arrays, not {a.dtype} and {b.dtype}")
    batch, channels = b.shape[1:-1], b.shape[-1]
    a = _cast(_broadcastable("a", a, b.shape), dtype)
    a = jnp.broadcast_to(a, (*a.shape[:-1], channels))
    state = (*batch, channels)
    if initial_state is None:
        initial_state = jnp.zeros(state, dtype)
    initial_state = _state("initial_state", initial_state, state, dtype)
    lengths = None if seq_lengths is None else checked_lengths(seq_lengths, b.shape[0], batch)
    valid = None if lengths is None else jnp.arange(b.shape[0]).reshape(-1, *([1] * len(batch))) < lengths[None]
    resets = checked_resets(resets, b.shape[0], batch, valid)
    if resets is None:
        reset_state = None
    elif reset_state is None:
        reset_state = initial_state
    else:
        reset_state = _state("reset_state", reset_state, state, dtype)
    return spread_alike(LinearArrays(a, cast(b, dtype), initial_state, reset_state, lengths, resets))


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of this shape broadcasts to the other one."""
    return len(shape) <= len(to) and all(size in (1, wanted) for size, wanted in zip(shape[::-1], to[::-1]))


def _broadcastable(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    """The array with as many axes as the shape. Raises a ValueError unless it broadcasts to it."""
    if not broadcasts(array.shape, shape):
        raise ValueError(f"{name} of shape {array.shape} does not broadcast to {shape}")
    return array.reshape((1,) * (len(shape) - array.ndim) + array.shape)


def _array(name: str, value: Any) -> Array:
    if value is None:
        raise ValueError(f"{name} must be an array of numbers, not None")
    return checks.array(name, value)


def _state(name: str, array: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    array = _array(name, array)
    if jnp.issubdtype(array.dtype, jnp.complexfloating) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"{name} is {array.dtype}, but a and b are {jnp.dtype(dtype).name}")
    return _cast(jnp.broadcast_to(_broadcastable(name, array, shape), shape), dtype)


def _cast(array: Array, dtype: Any) -> Array:
    """The array in this dtype; a Python number in float32 or wider, since 0.999 would be 1 in bfloat16."""
    return cast(array, accumulation_dtype(dtype) if array.weak_type else dtype)
