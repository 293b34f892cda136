"""Runs cells in C++ on a CPU: forward, backward, and weight gradients.

``lax.scan`` on a CPU is slow at every step: it hands a matrix product to threads and waits for them, reads the
weights in an order that does not suit the caches, and writes all intermediate values to memory. Here the whole
loop is one call. The weights are packed once, and threads divide the batch (or the units, if the batch is small).
The equations of a cell are a program that is interpreted on blocks of rows and units which stay in the cache
(programs.cpp). Small built-in cells, and the GRU that resets before its product, have code of their own, whose
values stay in registers (recurrence.cpp). The weight gradients are blocked products over many steps. The equations
are those of the scan, and the conformance suite is the same.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from jaxrnn.ops.native.builtin import BuiltInCall
from jaxrnn.ops.native.call import Call, residual_flag
from jaxrnn.ops.native.cells import CELLS, has_own_code
from jaxrnn.ops.native.cells import unable as built_in_unable
from jaxrnn.ops.native.program import ProgramCall
from jaxrnn.ops.native.program import unable as program_unable
from jaxrnn.ops.scan import scan_recurrence
from jaxrnn.ops.step import Carry, Pointwise, Projection, Recurrence, cast, dtype_of, projected
from jaxrnn.ops.varying import varying_alike

FEW_ROWS = 4
"""Steps times rows of the batch, up to which packing the weights takes longer than it gains."""

HALF_PRECISION = (jnp.dtype("bfloat16"), jnp.dtype("float16"))


def native_recurrence(
    pointwise: Pointwise, arrays: Recurrence, *, reverse: bool, unroll: int
) -> tuple[Carry, Array]:
    """Like :func:`jaxrnn.ops.scan.scan_recurrence`; ``unroll`` has no effect.

    Half precision is computed in float32 from the first step to the last. Carry and outputs are rounded to their
    dtypes afterwards, and not, as by the scan, at every step. A processor with tile registers (AMX) multiplies
    bfloat16: there, states and gradients are rounded for products, whose sums are float32.
    """
    if 0 in arrays.xw.shape[:-1]:  # no steps or no rows
        return scan_recurrence(pointwise, arrays, reverse=reverse, unroll=unroll)
    how = How(pointwise, reverse, multiplies_bfloat16(arrays))
    carry, outputs, _ = _run(how, False, widened(arrays))
    carry = jax.tree.map(lambda part, like: cast(part, like.dtype), carry, arrays.initial_carry)
    return carry, cast(outputs, arrays.xw.dtype)


def unable(pointwise: Pointwise, arrays: Recurrence, platform: str) -> str | None:
    """The reason why the library cannot run this, or None if it can."""
    arrays = widened(jax.tree.map(_shape_of, arrays))
    if pointwise in CELLS:
        return built_in_unable(pointwise, arrays, platform)
    return program_unable(pointwise, arrays, platform)


def not_preferred(pointwise: Pointwise, arrays: Recurrence, platform: str) -> str | None:
    """Why the scan is faster, where it is: the library packs the weights, which pays after a few products only."""
    time, rows = arrays.xw.shape[0], math.prod(arrays.xw.shape[1:-1])
    if time == 1 or time * rows <= FEW_ROWS:
        return f"the scan is faster where there are few steps and rows, here {time} and {rows}"
    return None


def widened(arrays: Recurrence) -> Recurrence:
    """The arrays, or their shapes, with float32 in place of half precision."""

    def one(leaf: Any) -> Any:
        if dtype_of(leaf) not in HALF_PRECISION:
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, jnp.float32)
        return leaf.astype(jnp.float32)

    return jax.tree.map(one, arrays)


def multiplies_bfloat16(arrays: Recurrence) -> bool:
    """Whether both sides of all products are bfloat16 in the caller's arrays."""
    sides = [arrays.recurrent_kernel]
    if isinstance(arrays.xw, Projection):
        sides += [arrays.xw.inputs, arrays.xw.kernel]
    return all(dtype_of(side) == jnp.bfloat16 for side in sides)


def _shape_of(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), dtype_of(leaf))


class How(NamedTuple):
    """What to run on the arrays, which are float32 or float64."""

    pointwise: Pointwise
    reverse: bool
    bfloat16: bool

    def call(self, arrays: Recurrence) -> Call:
        if has_own_code(self.pointwise, arrays):
            return BuiltInCall(CELLS[self.pointwise], self.reverse, arrays)
        return ProgramCall(self.pointwise, self.reverse, arrays, bfloat16=self.bfloat16)


def _results(how: How, save: bool, arrays: Recurrence) -> tuple[Carry, Array, Array]:
    """Carry and outputs, and with ``save`` the other values that the backward pass needs."""
    return how.call(arrays).forward(save)


_run: Any = jax.custom_vjp(_results, nondiff_argnums=(0, 1))


def _run_forward(how: How, save: bool, arrays: Recurrence):
    def of(field: str) -> Any:
        # Parameters may be in variables of Flax, which are pytrees, too, and pass attributes on to their values.
        return jax.tree.map(lambda a: getattr(a, field), arrays, is_leaf=lambda a: isinstance(a, CustomVJPPrimal))

    wanted: Any = of("perturbed").xw
    wanted = wanted.inputs if isinstance(wanted, Projection) else wanted
    arrays = of("value")
    carry, outputs, saved = _run(how, True, arrays)
    result = carry, outputs, saved if save else varying_alike((jnp.zeros(0, outputs.dtype), outputs))[0]
    return result, (residual_flag(wanted), arrays, outputs, saved)  # the inputs of a first layer need no gradient


def _run_backward(how: How, save: bool, residuals: Any, cotangents: Any):
    of_inputs, arrays, outputs, saved = residuals
    dcarry, doutputs, _ = cotangents  # the saved values are only used for gradients, so they have no cotangent

    def concrete(d: Any, part: Array) -> Array:
        return jnp.zeros_like(part) if isinstance(d, SymbolicZero) else d

    dcarry = jax.tree.map(concrete, dcarry, arrays.initial_carry, is_leaf=lambda d: isinstance(d, SymbolicZero))
    doutputs = None if isinstance(doutputs, SymbolicZero) else doutputs
    return (_gradients(how, bool(of_inputs.size), arrays, outputs, saved, (dcarry, doutputs)),)


# Symbolic zeros tell which gradients are needed, and which results the loss does not depend on.
_run.defvjp(_run_forward, _run_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gradients(
    how: How,
    of_inputs: bool,
    arrays: Recurrence,
    outputs: Array,
    saved: Array,
    cotangents: tuple[Carry, Array | None],
) -> Recurrence:
    """The gradient of every array; None for arrays that need none."""
    return how.call(arrays).backward(of_inputs, outputs, saved, *cotangents)


def _gradients_forward(how, of_inputs, arrays, outputs, saved, cotangents):
    return _gradients(how, of_inputs, arrays, outputs, saved, cotangents), (arrays, cotangents)


def _gradients_backward(how, of_inputs, residuals, seconds):
    """Differentiate the scan's gradients instead. Outputs and saved values depend on the arrays alone."""

    def gradients(arrays: Recurrence, cotangents):
        masks = {"valid": arrays.valid, "resets": arrays.resets, "recurrent_scale": arrays.recurrent_scale}
        dcarry, doutputs = cotangents

        def run(smooth: Recurrence):
            whole = smooth._replace(xw=projected(smooth.xw), **masks)
            carry, outputs = scan_recurrence(how.pointwise, whole, reverse=how.reverse, unroll=1)
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
