"""Runs the built-in cells in C++ on a CPU: forward, backward, and weight gradients.

``lax.scan`` on a CPU is slow at every step: it hands a matrix product to threads and waits for them, reads the
weights in an order that does not suit the caches, and writes all intermediate values to memory. Here the whole
loop is one call. The weights are packed once, and threads divide the batch (or the units, if the batch is small).
A step's product, input projection and cell equations stay in registers, and the weight gradients are blocked
products over many steps. The equations are those of the scan, and the conformance suite is the same; see
recurrence.cpp.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxrnn.ops.native.cells import CELLS, cell_parameter
from jaxrnn.ops.pointwise import LSTMCarry
from jaxrnn.ops.scan import scan_recurrence
from jaxrnn.ops.step import Carry, Pointwise, Projection, Recurrence, projected

MOST_THREADS = 0
"""The largest number of threads that a call uses; 0 means all threads of JAX. Results do not depend on it."""


def native_recurrence(
    pointwise: Pointwise, arrays: Recurrence, *, reverse: bool, unroll: int
) -> tuple[Carry, Array]:
    """Like :func:`jaxrnn.ops.scan.scan_recurrence`; ``unroll`` has no effect."""
    if 0 in arrays.xw.shape[:-1]:  # no steps or no rows
        return scan_recurrence(pointwise, arrays, reverse=reverse, unroll=unroll)
    carry, outputs, _ = _run(pointwise, reverse, False, arrays)
    return carry, outputs


def _results(pointwise: Pointwise, reverse: bool, save: bool, arrays: Recurrence) -> tuple[Carry, Array, Array]:
    """Carry and outputs, and with ``save`` the other values that the backward pass needs."""
    call = _Call(pointwise, reverse, arrays)
    cell, steps = call.cell, call.steps
    shapes = [
        call.shape(*steps, call.hidden),
        call.shape(*steps, cell.saved * call.hidden) if save and cell.saved else call.shape(0),
        call.shape(call.batch, call.hidden) if cell.has_c else call.shape(0),
        call.shape(call.batch, call.hidden),
    ]
    y, saved, c, h = call("jaxrnn_forward", shapes, call.arguments())
    return call.carry(c, h), call.time_first(y), saved


@functools.partial(jax.tree_util.register_dataclass, data_fields=(), meta_fields=("of_inputs",))
@dataclass(frozen=True)
class _Wanted:
    """Which gradients are needed: those of a first layer's inputs are not."""

    of_inputs: bool


_run: Any = jax.custom_vjp(_results, nondiff_argnums=(0, 1, 2))


def _run_forward(pointwise: Pointwise, reverse: bool, save: bool, arrays: Recurrence):
    def of(field: str) -> Any:
        return jax.tree.map(lambda a: getattr(a, field), arrays, is_leaf=lambda a: hasattr(a, "perturbed"))

    wanted: Any = of("perturbed").xw
    wanted = wanted.inputs if isinstance(wanted, Projection) else wanted
    arrays = of("value")
    carry, outputs, saved = _run(pointwise, reverse, True, arrays)
    result = carry, outputs, saved if save else jnp.zeros(0, outputs.dtype)
    return result, (_Wanted(wanted), arrays, outputs, saved)


def _run_backward(pointwise: Pointwise, reverse: bool, save: bool, residuals: Any, cotangents: Any):
    wanted, arrays, outputs, saved = residuals
    dcarry, doutputs, _ = cotangents  # the saved values are only used for gradients, so they have no cotangent

    def concrete(d: Any, part: Array) -> Array:
        return jnp.zeros_like(part) if isinstance(d, SymbolicZero) else d

    dcarry = jax.tree.map(concrete, dcarry, arrays.initial_carry, is_leaf=lambda d: isinstance(d, SymbolicZero))
    doutputs = None if isinstance(doutputs, SymbolicZero) else doutputs
    return (_gradients(pointwise, reverse, wanted.of_inputs, arrays, outputs, saved, (dcarry, doutputs)),)


# Symbolic zeros tell which gradients are needed, and which results the loss does not depend on.
_run.defvjp(_run_forward, _run_backward, symbolic_zeros=True)


class _BackwardResults(NamedTuple):
    """The results of ``jaxrnn_backward``, in the order of ``enum BackwardResults`` in library.cpp."""

    dinputs: Any
    dxw: Any
    dc: Any
    dh: Any
    dreset_c: Any
    dreset_h: Any
    dkernel: Any
    dbias: Any
    drecurrent_kernel: Any
    drecurrent_bias: Any
    dcell_parameter: Any


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _gradients(
    pointwise: Pointwise,
    reverse: bool,
    of_inputs: bool,
    arrays: Recurrence,
    outputs: Array,
    saved: Array,
    cotangents: tuple[Carry, Array | None],
) -> Recurrence:
    """The gradient of every array; None for arrays that need none."""
    call, a = _Call(pointwise, reverse, arrays), arrays
    cell, absent = call.cell, call.shape(0)
    width = cell.gates * call.hidden
    projection = a.xw if isinstance(a.xw, Projection) else None
    h = call.shape(call.batch, call.hidden)
    c = h if cell.has_c else absent
    inputs = call.shape(*call.steps, a.xw.inputs.shape[-1] if projection else width) if of_inputs else absent
    shapes = _BackwardResults(
        dinputs=inputs if projection else absent,
        dxw=absent if projection else inputs,
        dc=c,
        dh=h,
        dreset_c=absent if a.resets is None else c,
        dreset_h=absent if a.resets is None else h,
        dkernel=call.shape(*projection.kernel.shape) if projection else absent,
        dbias=call.shape(width) if projection and projection.bias is not None else absent,
        drecurrent_kernel=call.shape(*a.recurrent_kernel.shape),
        drecurrent_bias=absent if a.recurrent_bias is None else call.shape(*a.recurrent_bias.shape),
        dcell_parameter=call.shape(*(call.hidden,) * cell.parameter_axes) if cell.parameter_axes else absent,
    )
    dcarry, doutputs = cotangents
    arguments = [
        *call.arguments(),
        call.native_order(outputs),
        saved,
        *call.carry_rows(dcarry),
        call.absent if doutputs is None else call.native_order(doutputs),
    ]
    results = _BackwardResults(*call("jaxrnn_backward", list(shapes), arguments))
    dxw: Any = None
    if projection is not None:
        dinputs: Any = call.time_first(results.dinputs) if of_inputs else None
        dxw = Projection(
            inputs=dinputs,
            kernel=results.dkernel,
            bias=None if projection.bias is None else results.dbias,
            batch_major=projection.batch_major,
        )
    elif of_inputs:
        dxw = call.time_first(results.dxw)

    def parameter_gradient(parameter: Array) -> Array:
        if parameter.ndim > 1:
            return results.dcell_parameter
        # The library's parameter is sigmoid(leak), see cell_parameter.
        return results.dcell_parameter * jax.nn.sigmoid(parameter) * jax.nn.sigmoid(-parameter)

    return Recurrence(
        recurrent_kernel=results.drecurrent_kernel,
        xw=dxw,
        initial_carry=call.carry(results.dc, results.dh),
        params=jax.tree.map(parameter_gradient, a.params),
        recurrent_bias=None if a.recurrent_bias is None else results.drecurrent_bias,
        reset_carry=None if a.resets is None else call.carry(results.dreset_c, results.dreset_h),
    )


def _gradients_forward(pointwise, reverse, of_inputs, arrays, outputs, saved, cotangents):
    return _gradients(pointwise, reverse, of_inputs, arrays, outputs, saved, cotangents), (arrays, cotangents)


def _gradients_backward(pointwise, reverse, of_inputs, residuals, seconds):
    """Differentiate the scan's gradients instead. Outputs and saved values depend on the arrays alone."""

    def gradients(arrays: Recurrence, cotangents):
        masks = {"valid": arrays.valid, "resets": arrays.resets, "recurrent_scale": arrays.recurrent_scale}
        dcarry, doutputs = cotangents

        def run(smooth: Recurrence):
            whole = smooth._replace(xw=projected(smooth.xw), **masks)
            carry, outputs = scan_recurrence(pointwise, whole, reverse=reverse, unroll=1)
            return (carry, None if doutputs is None else outputs)

        smooth = arrays._replace(valid=None, resets=None, recurrent_scale=None)
        found = jax.vjp(run, smooth)[1]((dcarry, doutputs))[0]
        if of_inputs:
            return found
        if isinstance(found.xw, Projection):
            return found._replace(xw=dataclasses.replace(found.xw, inputs=None))
        return found._replace(xw=None)

    arrays, cotangents = residuals
    _, pullback = jax.vjp(gradients, arrays, cotangents)
    darrays, dcotangents = pullback(seconds)
    return darrays._replace(valid=None, resets=None), None, None, dcotangents


_gradients.defvjp(_gradients_forward, _gradients_backward)


class _Call:
    """The arrays of a recurrence in the library's form: one batch axis, in the caller's memory order."""

    def __init__(self, pointwise: Pointwise, reverse: bool, arrays: Recurrence):
        self.cell, self.reverse, self.arrays = CELLS[pointwise], reverse, arrays
        self.time, *self.batch_axes = arrays.xw.shape[:-1]
        self.batch = 1
        for size in self.batch_axes:
            self.batch *= size
        self.hidden = arrays.recurrent_kernel.shape[0]
        self.dtype = arrays.recurrent_kernel.dtype
        self.batch_major = isinstance(arrays.xw, Projection) and arrays.xw.batch_major
        self.steps = (self.batch, self.time) if self.batch_major else (self.time, self.batch)

    def shape(self, *sizes: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, self.dtype)

    def native_order(self, array: Array) -> Array:
        """``[time, *batch, width]`` in the library's order, ``[*self.steps, width]``."""
        if self.batch_major:
            # This cancels the layer's transposition to time first, so that XLA does not move the data.
            array = jnp.moveaxis(array, 0, -2)
            return array.reshape(self.batch, self.time, array.shape[-1])
        return array.reshape(self.time, self.batch, array.shape[-1])

    def time_first(self, array: Array) -> Array:
        if self.batch_major:
            return jnp.moveaxis(array.reshape(*self.batch_axes, self.time, array.shape[-1]), -2, 0)
        return array.reshape(self.time, *self.batch_axes, array.shape[-1])

    def carry(self, c: Array, h: Array) -> Carry:
        h = h.reshape(*self.batch_axes, self.hidden)
        if self.cell.has_c:
            return LSTMCarry(c.reshape(*self.batch_axes, self.hidden), h)
        return jax.tree.unflatten(jax.tree.structure(self.arrays.initial_carry), [h])

    def carry_rows(self, carry: Carry) -> list[Array]:
        """c (empty if the cell has none) and h, ``[batch, hidden]``."""
        leaves = [leaf.reshape(self.batch, self.hidden) for leaf in jax.tree.leaves(carry)]
        return leaves if self.cell.has_c else [self.absent, *leaves]

    @property
    def absent(self) -> Array:
        return jnp.zeros(0, self.dtype)

    def arguments(self) -> list[Array]:
        a, absent = self.arrays, self.absent

        def mask(array: Array | None) -> Array:
            return absent if array is None else array.reshape(self.time, self.batch).astype(jnp.uint8)

        if isinstance(a.xw, Projection):
            bias = absent if a.xw.bias is None else a.xw.bias
            inputs = [self.native_order(a.xw.inputs), a.xw.kernel, bias, absent]
        else:
            inputs = [absent, absent, absent, self.native_order(a.xw)]
        scale = absent
        if a.recurrent_scale is not None:
            shape = (*self.batch_axes, self.hidden)
            scale = jnp.broadcast_to(a.recurrent_scale, shape).reshape(self.batch, self.hidden)
        return [
            *inputs,
            a.recurrent_kernel,
            absent if a.recurrent_bias is None else a.recurrent_bias,
            cell_parameter(a, absent),
            *self.carry_rows(a.initial_carry),
            scale,
            mask(a.valid),
            mask(a.resets),
            *([absent, absent] if a.resets is None else self.carry_rows(a.reset_carry)),
        ]

    def __call__(self, target: str, shapes: list[jax.ShapeDtypeStruct], arguments: list[Array]) -> list[Array]:
        inputs = self.arrays.xw.inputs.shape[-1] if isinstance(self.arrays.xw, Projection) else 0
        foreign: Callable[..., Any] = jax.ffi.ffi_call(target, shapes, vmap_method="sequential")
        options = {
            "cell": self.cell.number,
            "gates": self.cell.gates,
            "time": self.time,
            "batch": self.batch,
            "in_features": inputs,
            "hidden": self.hidden,
            "reverse": int(self.reverse),
            "batch_major": int(self.batch_major),
            "threads": MOST_THREADS,
        }
        # Attributes of a foreign call need a fixed type, here int64.
        return list(foreign(*arguments, **{name: np.int64(value) for name, value in options.items()}))
