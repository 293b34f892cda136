"""A linear recurrence in the C++ library: one pass over time, and one back for all gradients.

The C++ code (``linear.cpp``) reads and writes every number once. Lengths and resets need no arrays as large as b,
and an ``a`` that does not depend on time or row is not repeated in memory.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from jaxrnn.ops.linear.arrays import LinearArrays, sum_to
from jaxrnn.ops.linear.loops import loop_recurrence, scan
from jaxrnn.ops.native import call as native_call
from jaxrnn.ops.native.call import foreign_call, residual_flag
from jaxrnn.ops.native.library import why_not_loaded

DTYPES = ("float32", "float64", "complex64", "complex128")


def unable(x: LinearArrays, platform: str) -> str | None:
    """The reason why the library cannot run this, or None if it can."""
    if platform != "cpu":
        return f"the C++ library runs on a cpu, not on a {platform}"
    if x.b.dtype.name not in DTYPES:
        return f"it computes in {', '.join(DTYPES)}, not in {x.b.dtype}"
    if any(axis == jax.sharding.AxisType.Explicit for axis in jax.sharding.get_abstract_mesh().axis_types):
        return "it does not support arrays on an explicit mesh"
    return why_not_loaded()


def native_recurrence(x: LinearArrays, *, reverse: bool, batch_major: bool) -> Array:
    return _states(_Call(reverse, batch_major), x)


@dataclass(frozen=True)
class _Call:
    """The arrays in the library's form: one batch axis; with ``batch_major`` it comes before time."""

    reverse: bool
    batch_major: bool

    def forward(self, x: LinearArrays) -> Array:
        (states,) = self._run("jaxrnn_linear_forward", x, [self._shape(x)], [])
        return self._from_steps(states, x)

    def backward(self, of_a: bool, x: LinearArrays, states: Array, dstates: Array) -> LinearArrays:
        rows, channels = self._rows(x), x.b.shape[-1]
        state, absent = jax.ShapeDtypeStruct((rows, channels), x.b.dtype), jax.ShapeDtypeStruct((0,), x.b.dtype)
        constant = x.a.shape[0] == 1 and x.time != 1
        shape_of_da = (state if constant else self._shape(x)) if of_a else absent
        shapes = [shape_of_da, self._shape(x), state, absent if x.resets is None else state]
        further = [self._steps(states, x), self._steps(dstates, x)]
        da, db, dinitial, dreset = self._run("jaxrnn_linear_backward", x, shapes, further)
        shape = x.initial_state.shape
        if of_a:
            da = da.reshape(1, *shape) if constant else self._from_steps(da, x)
        return LinearArrays(
            a=sum_to(da, x.a.shape) if of_a else None,  # pyright: ignore[reportArgumentType]
            b=self._from_steps(db, x),
            initial_state=dinitial.reshape(shape),
            reset_state=None if x.resets is None else dreset.reshape(shape),
        )

    def _rows(self, x: LinearArrays) -> int:
        return int(np.prod(x.batch, dtype=int))

    def _shape(self, x: LinearArrays) -> jax.ShapeDtypeStruct:
        steps = (self._rows(x), x.time) if self.batch_major else (x.time, self._rows(x))
        return jax.ShapeDtypeStruct((*steps, x.b.shape[-1]), x.b.dtype)

    def _steps(self, array: Array, x: LinearArrays) -> Array:
        """``[time, *batch, channels]`` in the library's order."""
        if self.batch_major:
            array = jnp.moveaxis(array, 0, -2)  # cancels the caller's transposition to time first
        return array.reshape(self._shape(x).shape)

    def _from_steps(self, array: Array, x: LinearArrays) -> Array:
        if self.batch_major:
            return jnp.moveaxis(array.reshape(*x.batch, x.time, array.shape[-1]), -2, 0)
        return array.reshape(x.b.shape)

    def _run(self, target: str, x: LinearArrays, shapes: list[Any], further: list[Array]) -> list[Array]:
        rows, channels = self._rows(x), x.b.shape[-1]
        a, has_time = x.a, x.a.shape[0] == x.time
        has_rows = a.shape[1:-1] == x.batch
        if not has_rows and any(size != 1 for size in a.shape[1:-1]):  # some batch axes, but not all
            a, has_rows = jnp.broadcast_to(a, (a.shape[0], *x.batch, channels)), True
        if has_time and has_rows:
            a = self._steps(a, x)
        absent = jnp.zeros(0, jnp.int32)
        resets = absent
        if x.resets is not None:
            resets = x.resets.reshape(x.time, rows).astype(jnp.uint8)
            resets = resets.T if self.batch_major else resets
        arguments = [
            a,
            self._steps(x.b, x),
            x.initial_state,
            jnp.zeros(0, x.b.dtype) if x.reset_state is None else x.reset_state,
            absent if x.lengths is None else x.lengths,
            resets,
            *further,
        ]
        options = {
            "time": x.time,
            "rows": rows,
            "width": channels,
            "batch_major": self.batch_major,
            "reverse": self.reverse,
            "a_has_time": has_time,
            "a_has_rows": has_rows,
            "threads": native_call.MOST_THREADS,
        }
        attributes = {name: np.int64(value) for name, value in options.items()}
        return foreign_call(target, shapes, arguments, attributes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _states(call: _Call, x: LinearArrays) -> Array:
    return call.forward(x)


def _forward(call: _Call, x: Any):
    perturbed = x.a.perturbed
    x = jax.tree.map(lambda part: part.value, x, is_leaf=lambda part: isinstance(part, CustomVJPPrimal))
    states = _states(call, x)
    return states, (residual_flag(perturbed), x, states)  # a fixed decay needs no gradient


def _backward(call: _Call, residuals: Any, dstates: Any):
    of_a, x, states = residuals
    if isinstance(dstates, SymbolicZero):
        dstates = jnp.zeros_like(states)
    return (_gradients(call, bool(of_a.size), x, states, dstates),)


# Symbolic zeros tell whether a needs a gradient.
_states.defvjp(_forward, _backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gradients(call: _Call, of_a: bool, x: LinearArrays, states: Array, dstates: Array) -> LinearArrays:
    return call.backward(of_a, x, states, dstates)


def _gradients_forward(call: _Call, of_a: bool, x: LinearArrays, states: Array, dstates: Array):
    return _gradients(call, of_a, x, states, dstates), (x, dstates)


def _gradients_backward(call: _Call, of_a: bool, residuals: Any, seconds: LinearArrays):
    """Differentiate the scan's gradients instead. The states depend on the other arrays alone."""

    def gradients(smooth: LinearArrays, dstates: Array) -> LinearArrays:
        def run(smooth: LinearArrays) -> Array:
            whole = smooth._replace(lengths=x.lengths, resets=x.resets)
            return loop_recurrence(scan, whole, reverse=call.reverse, batch_major=False)

        found = jax.vjp(run, smooth)[1](dstates)[0]
        return found if of_a else found._replace(a=None)

    x, dstates = residuals
    _, pullback = jax.vjp(gradients, x._replace(lengths=None, resets=None), dstates)
    smooth, ddstates = pullback(seconds._replace(lengths=None, resets=None))
    return smooth, None, ddstates


_gradients.defvjp(_gradients_forward, _gradients_backward)
