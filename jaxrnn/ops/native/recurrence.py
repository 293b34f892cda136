"""The built-in cells in C++ on a CPU, forward and backward, weight gradients included.

``lax.scan`` on a CPU pays for every step: a matrix product handed to threads and waited for, weights read in an
order that suits no cache, activations that go through memory. Here the whole loop is one call: weights are
packed once, threads divide the batch (or the units, where the batch is small), a step's product, input projection
and cell equations happen in registers, and the weight gradients are one blocked product at the end. The
equations are those of the scan and the conformance suite is the same; see recurrence.cpp.
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

from jaxrnn.ops.native.library import why_not_loaded
from jaxrnn.ops.pointwise import (
    LSTMCarry,
    gru_pointwise,
    gru_reset_before_pointwise,
    leaky_pointwise,
    lstm_pointwise,
    simple_rnn_pointwise,
)
from jaxrnn.ops.scan import scan_recurrence
from jaxrnn.ops.step import Carry, Pointwise, Projection, Recurrence, projected


class _Cell(NamedTuple):
    """A cell of the library.

    Attributes:
      number: in the library.
      gates: blocks of xw.
      saved: numbers of each unit and step that the backward pass needs besides the outputs.
      has_c: whether the carry is an LSTM's.
      recurrent_gates: blocks of the recurrent kernel, where that is another number.
      own: axes of the cell's own parameter, all of the hidden size; 0 where there is none.
    """

    number: int
    gates: int = 1
    saved: int = 0
    has_c: bool = False
    recurrent_gates: int | None = None
    own: int = 0


MOST_THREADS = 0
"""That a call may use; 0 for all that JAX has. Results do not depend on it."""

CELLS: dict[Pointwise, _Cell] = {
    simple_rnn_pointwise(jnp.tanh): _Cell(0),
    simple_rnn_pointwise(jax.nn.relu): _Cell(1),
    simple_rnn_pointwise(jax.nn.sigmoid): _Cell(2),
    lstm_pointwise: _Cell(3, gates=4, saved=5, has_c=True),
    gru_pointwise: _Cell(4, gates=3, saved=4),
    leaky_pointwise: _Cell(5, saved=1, own=1),
    gru_reset_before_pointwise: _Cell(6, gates=3, saved=3, recurrent_gates=2, own=2),
}


def unable(pointwise: Pointwise, arrays: Recurrence, platform: str) -> str | None:
    """Why this cannot run natively, or None."""
    if platform != "cpu":
        return f"it is for CPUs, and this runs on a {platform}"
    if pointwise not in CELLS:
        return "it has SimpleRNN (tanh, relu, sigmoid), LSTM, both GRUs and LeakyCell, not this cell"
    cell = CELLS[pointwise]
    hidden = arrays.recurrent_kernel.shape[0]
    if (
        arrays.recurrent_kernel.shape[1] != (cell.recurrent_gates or cell.gates) * hidden
        or arrays.xw.shape[-1] != cell.gates * hidden
    ):
        return f"the cell has {cell.gates} gates, which the widths of xw and recurrent_kernel do not fit"
    if cell.has_c != isinstance(arrays.initial_carry, LSTMCarry) or (
        not cell.has_c and len(jax.tree.leaves(arrays.initial_carry)) != 1
    ):
        return "the carry is not that of the cell"
    if [leaf.shape for leaf in jax.tree.leaves(arrays.params)] != [(hidden,) * cell.own] * (cell.own > 0):
        return "the parameters are not those of the cell"
    floating = [a for a in jax.tree.leaves(arrays) if jnp.issubdtype(a.dtype, jnp.floating)]
    dtypes = sorted({str(a.dtype) for a in floating})
    if dtypes not in (["float32"], ["float64"]):
        return f"it computes in float32 or float64 throughout, and there is {' and '.join(dtypes)}"
    if any(axis == jax.sharding.AxisType.Explicit for axis in jax.sharding.get_abstract_mesh().axis_types):
        return "arrays on an explicit mesh say how every operation divides them, which a foreign call cannot"
    return why_not_loaded()


def native_recurrence(
    pointwise: Pointwise, arrays: Recurrence, *, reverse: bool, unroll: int
) -> tuple[Carry, Array]:
    """As :func:`jaxrnn.ops.scan.scan_recurrence`; there is nothing to unroll."""
    if 0 in arrays.xw.shape[:-1]:  # no steps or no rows
        return scan_recurrence(pointwise, arrays, reverse=reverse, unroll=unroll)
    carry, outputs, _ = _run(pointwise, reverse, False, arrays)
    return carry, outputs


def _results(pointwise: Pointwise, reverse: bool, save: bool, arrays: Recurrence) -> tuple[Carry, Array, Array]:
    """Carry, outputs and, with ``save``, what the backward pass needs besides."""
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
    """Which gradients somebody wants; those of the inputs of a first layer, nobody does."""

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
    dcarry, doutputs, _ = cotangents  # what is saved has no use but the gradients, which know where it came from

    def concrete(d: Any, part: Array) -> Array:
        return jnp.zeros_like(part) if isinstance(d, SymbolicZero) else d

    dcarry = jax.tree.map(concrete, dcarry, arrays.initial_carry, is_leaf=lambda d: isinstance(d, SymbolicZero))
    doutputs = None if isinstance(doutputs, SymbolicZero) else doutputs
    return (_gradients(pointwise, reverse, wanted.of_inputs, arrays, outputs, saved, (dcarry, doutputs)),)


# Symbolic zeros say which gradients are wanted, and which of the results had any influence.
_run.defvjp(_run_forward, _run_backward, symbolic_zeros=True)


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
    """The gradient of every array, with None where there is none."""
    call, a = _Call(pointwise, reverse, arrays), arrays
    cell, rows, absent = call.cell, (call.batch, call.hidden), call.shape(0)
    width = cell.gates * call.hidden
    projection = a.xw if isinstance(a.xw, Projection) else None
    carry_shapes = [call.shape(*rows) if cell.has_c else absent, call.shape(*rows)]
    inputs = call.shape(*call.steps, a.xw.inputs.shape[-1] if projection else width) if of_inputs else absent
    shapes = [
        inputs if projection else absent,
        absent if projection else inputs,
        *carry_shapes,
        *(carry_shapes if a.resets is not None else [absent, absent]),
        call.shape(*projection.kernel.shape) if projection else absent,
        call.shape(width) if projection and projection.bias is not None else absent,
        call.shape(*a.recurrent_kernel.shape),
        absent if a.recurrent_bias is None else call.shape(*a.recurrent_bias.shape),
        call.shape(*(call.hidden,) * cell.own) if cell.own else absent,
    ]
    dcarry, doutputs = cotangents
    arguments = [
        *call.arguments(),
        call.native_order(outputs),
        saved,
        *call.carry_rows(dcarry),
        call.absent if doutputs is None else call.native_order(doutputs),
    ]
    results = call("jaxrnn_backward", shapes, arguments)
    dinputs, dxw, dc, dh, dreset_c, dreset_h, dkernel, dbias, drecurrent_kernel, drecurrent_bias, down = results
    if projection is not None:
        of_x: Any = call.time_first(dinputs) if of_inputs else None
        dxw = Projection(
            inputs=of_x,
            kernel=dkernel,
            bias=None if projection.bias is None else dbias,
            batch_major=projection.batch_major,
        )
    else:
        dxw = call.time_first(dxw) if of_inputs else None
    return Recurrence(
        recurrent_kernel=drecurrent_kernel,
        xw=dxw,
        initial_carry=call.carry(dc, dh),
        params=jax.tree.map(
            lambda p: down * jax.nn.sigmoid(p) * jax.nn.sigmoid(-p) if cell.own == 1 else down, a.params
        ),
        recurrent_bias=None if a.recurrent_bias is None else drecurrent_bias,
        reset_carry=None if a.resets is None else call.carry(dreset_c, dreset_h),
    )


def _gradients_forward(pointwise, reverse, of_inputs, arrays, outputs, saved, cotangents):
    return _gradients(pointwise, reverse, of_inputs, arrays, outputs, saved, cotangents), (arrays, cotangents)


def _gradients_backward(pointwise, reverse, of_inputs, residuals, seconds):
    """Derivatives of the gradients are the scan's: outputs and saved depend on the arrays alone."""

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


def own_parameter(arrays: Recurrence, absent: Any) -> Any:
    """The cell's own as the library wants it: a leak, the only one with one axis, between 0 and 1."""
    for own in jax.tree.leaves(arrays.params):
        return jax.nn.sigmoid(own) if own.ndim == 1 else own
    return absent


class _Call:
    """The arrays of a recurrence as the library wants them: one batch axis, in the caller's order in memory."""

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
        """``[time, *batch, width]`` as the library's steps."""
        if self.batch_major:
            # Undoes what the layer did to put time first, so that XLA moves nothing.
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
        """c (empty where the cell has none) and h, ``[batch, hidden]``."""
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
            own_parameter(a, absent),
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
        # Attributes of a foreign call are typed: NumPy's integers say which.
        return list(foreign(*arguments, **{name: np.int64(value) for name, value in options.items()}))
