"""A recurrence run by the kernels, with its gradients: everything that happens outside them.

Arrays are padded to the sizes that a kernel takes and cut again; the weight gradients are matrix products here.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.ops.pallas.cell import Cell, plan
from jaxrnn.ops.pallas.heads import heads_as_rows, rows_as_heads, scan_heads
from jaxrnn.ops.pallas.interface import Blocks, Kernel, Sizes
from jaxrnn.ops.pallas.loops import backward_kernel, forward_kernel
from jaxrnn.ops.step import (
    Carry,
    Pointwise,
    Recurrence,
    accumulation_dtype,
    cast,
    heads_of,
    matmul,
    scaled_hidden,
    units_of,
    widen,
)


class Device(NamedTuple):
    """A kind of accelerator.

    Attributes:
      sizes: ``(batch, cell) -> Sizes``.
      call: runs a kernel, ``(kernel, inputs, outputs, sizes, *, reverse, interpret) -> outputs``.
      unable: why arrays of these shapes and dtypes cannot run there, or None.
      lacks: elementwise operations that it does not support.
      not_preferred: why another implementation is faster for arrays of these shapes, or None.
    """

    sizes: Callable[[int, Cell], Sizes]
    call: Callable[..., Blocks]
    unable: Callable[[Recurrence], str | None]
    lacks: frozenset[str] = frozenset()
    not_preferred: Callable[[Recurrence], str | None] = lambda a: None


class Run(NamedTuple):
    """How to run: hashable, so that compiled programs are found again."""

    device: Device
    pointwise: Pointwise
    reverse: bool
    interpret: Any


def pallas_recurrence(
    device: Device, pointwise: Pointwise, arrays: Recurrence, *, reverse: bool, interpret: Any = False
) -> tuple[Carry, Array]:
    """The recurrence on a device; ``interpret`` runs its kernels on any other, for tests, as Pallas defines it."""
    # JAX gives the pullback of a step its arrays in another order where an argument has a weak type, as
    # jnp.asarray(0.5) has. The kernels need the order of their plan, which was made without.
    a = jax.tree.map(lambda leaf: leaf.astype(leaf.dtype), arrays)
    batch = a.xw.shape[1:-1]
    if not a.xw.size:
        return a.initial_carry, jnp.zeros((*a.xw.shape[:-1], units_of(a.recurrent_kernel)), a.xw.dtype)

    def flat(tree, leading):
        def reshaped(leaf):
            return leaf.reshape(*leaf.shape[:leading], -1, *leaf.shape[leading + len(batch) :])

        return jax.tree.map(reshaped, tree)

    scale = a.recurrent_scale
    if scale is not None:
        scale = flat(jnp.broadcast_to(scale, (*batch, units_of(a.recurrent_kernel))), 0)
    a = a._replace(
        xw=flat(a.xw, 1),
        initial_carry=flat(a.initial_carry, 0),
        recurrent_scale=scale,
        valid=flat(a.valid, 1),
        resets=flat(a.resets, 1),
        reset_carry=flat(a.reset_carry, 0),
    )
    run, rows, with_heads = Run(device, pointwise, reverse, interpret), a.xw.shape[1], a.recurrent_kernel.ndim == 3
    if with_heads:
        a = heads_as_rows(a, device.sizes(rows, Cell.of(pointwise, a)).rows)
    results: Any = _recurrence(run, a)
    if with_heads:
        results = jax.tree.map(lambda leaf: rows_as_heads(leaf, len(a.recurrent_kernel), rows), results)
    carry, ys = results
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, -1), carry), ys.reshape(len(ys), *batch, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrence(run: Run, a: Recurrence) -> tuple[Carry, Array]:
    return _run_forward(run, a, save=False)[0]


def _forward(run: Run, a: Recurrence) -> tuple[tuple[Carry, Array], Any]:
    found: Any = _results_and_saved(run, a)
    return found[0], (a, found[1])


def _backward(run: Run, residuals: Any, cotangents: Any) -> tuple[Recurrence]:
    return (_gradients(run, *residuals, cotangents),)


_recurrence.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _results_and_saved(run: Run, a: Recurrence) -> tuple[tuple[Carry, Array], dict[str, Any]]:
    """A function of its own, so that a second derivative never looks into the kernel."""
    return _run_forward(run, a, save=True)


def _saved_forward(run: Run, a: Recurrence):
    found: Any = _results_and_saved(run, a)
    return found, (a, found[1])


def _saved_backward(run: Run, residuals: Any, cotangents: Any) -> tuple[Recurrence]:
    # What was saved has no gradient of its own: see _gradients_backward.
    return (_gradients(run, *residuals, cotangents[0]),)


_results_and_saved.defvjp(_saved_forward, _saved_backward)


def _run_forward(run: Run, a: Recurrence, *, save: bool) -> tuple[tuple[Carry, Array], dict[str, Any]]:
    cell, sizes = _cell_and_sizes(run, a)
    needs = plan(cell)
    inputs = _inputs(cell, sizes, a, _kernels(cell, sizes, a.recurrent_kernel))
    inputs.steps["xw"] = _padded_gates(a.xw, cell.gates, sizes)
    inputs.rows["carry"] = _padded_rows(jax.tree.leaves(a.initial_carry), sizes)
    if a.resets is not None:
        inputs.rows["reset_carry"] = _padded_rows(jax.tree.leaves(a.reset_carry), sizes)
    if a.recurrent_bias is not None:
        inputs.whole["bias"] = _padded_gates(a.recurrent_bias, cell.recurrent_gates, sizes, rows=False).reshape(
            sizes.heads, cell.recurrent_gates, 1, sizes.hidden
        )
    every_step, one_step = (len(a.xw), sizes.rows, sizes.hidden), (sizes.rows, sizes.hidden)
    steps: dict[str, Any] = {"y": jax.ShapeDtypeStruct(every_step, cell.dtype)}
    if save:
        steps["carry"] = [jax.ShapeDtypeStruct(every_step, cell.carry_dtypes[i]) for i in needs.carries]
        steps["kept"] = [jax.ShapeDtypeStruct(every_step, dtype) for dtype in needs.kept]
    rows = {"carry": [jax.ShapeDtypeStruct(one_step, dtype) for dtype in cell.carry_dtypes]}
    found = _call(run, forward_kernel(cell, needs, save), inputs, Blocks(steps, rows, {}), sizes, run.reverse)
    b, h = a.xw.shape[1], cell.hidden
    carry = jax.tree.unflatten(cell.carry, [leaf[:b, :h] for leaf in found.rows["carry"]])
    return (carry, found.steps["y"][:, :b, :h]), found.steps


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients(run: Run, a: Recurrence, saved: dict[str, Any], cotangents: tuple[Carry, Array]) -> Recurrence:
    cell, sizes = _cell_and_sizes(run, a)
    needs = plan(cell)
    dcarry, dys = cotangents
    inputs = _inputs(cell, sizes, a, jnp.swapaxes(_kernels(cell, sizes, a.recurrent_kernel), -2, -1))
    inputs.steps.update(dy=_padded_rows(dys, sizes, time=True), carry=saved["carry"], kept=saved["kept"])
    if any(name == "output" for name, _ in needs.sources):
        inputs.steps["y"] = saved["y"]
    if any(name == "xw" for name, _ in needs.sources):
        inputs.steps["xw"] = _padded_gates(a.xw, cell.gates, sizes)
    inputs.rows["dcarry"] = _padded_rows(jax.tree.leaves(dcarry), sizes)

    def struct(dtype, gates=1, time=False):
        return jax.ShapeDtypeStruct((*[len(a.xw)] * time, sizes.rows, gates * sizes.hidden), dtype)

    steps = {"drh": struct(cell.kernel_dtype, cell.recurrent_gates, time=True)}
    if not needs.shared:
        steps["dxw"] = struct(cell.dtype, cell.gates, time=True)
    wide: list[Any] = [struct(accumulation_dtype(dtype)) for dtype in cell.carry_dtypes]
    rows = {
        "dcarry": wide,
        "dreset": wide if a.resets is not None else [],
        "dparams": [struct(accumulation_dtype(dtype)) for dtype in cell.params_dtypes],
    }
    found = _call(run, backward_kernel(cell, needs), inputs, Blocks(steps, rows, {}), sizes, not run.reverse)

    b, h = a.xw.shape[1], cell.hidden
    drh = _cut_gates(found.steps["drh"], cell.recurrent_gates, sizes, b, h)
    dxw = drh if needs.shared else _cut_gates(found.steps["dxw"], cell.gates, sizes, b, h)
    h_in = saved["carry"][-1][:, :b, :h]
    left = scaled_hidden(h_in, a.recurrent_kernel, a.recurrent_scale)
    by_head = (len(drh), sizes.heads, -1, drh.shape[-1])
    if a.recurrent_kernel.ndim == 2:
        dkernel = matmul(left.reshape(-1, h).T, drh.reshape(-1, drh.shape[-1]))
    else:
        dtype, of_heads = accumulation_dtype(left.dtype), left.reshape(*by_head[:-1], h)
        dkernel = jnp.einsum("tnbi,tnbo->nio", of_heads, drh.reshape(by_head), preferred_element_type=dtype)
    dbias = None
    if a.recurrent_bias is not None:
        dbias = widen(drh).reshape(by_head).sum((0, 2)).reshape(a.recurrent_bias.shape)
        dbias = cast(dbias, a.recurrent_bias.dtype)

    def like(leaves, primals):
        cut = [cast(d[:b, :h], p.dtype) for d, p in zip(leaves, jax.tree.leaves(primals))]
        return jax.tree.unflatten(jax.tree.structure(primals), cut)

    # None stands for no gradient: of the masks, and of recurrent_scale, which is one too.
    return Recurrence(
        recurrent_kernel=cast(dkernel, a.recurrent_kernel.dtype),
        xw=dxw,
        initial_carry=like(found.rows["dcarry"], a.initial_carry),
        params=_params_gradients(found.rows["dparams"], a.params, sizes.heads, (b, h)),
        recurrent_bias=dbias,
        reset_carry=like(found.rows["dreset"], a.reset_carry),
    )


def _gradients_forward(run: Run, a: Recurrence, saved: Any, cotangents: Any):
    return _gradients(run, a, saved, cotangents), (a, saved, cotangents)


def _gradients_backward(run: Run, residuals: Any, second: Recurrence):
    """Second derivatives, by the scan: kernels have none. What was saved follows from the arrays: it gets zero."""
    a, saved, cotangents = residuals

    def gradients(a, cotangents):
        recurrence = functools.partial(scan_heads, run.pointwise, reverse=run.reverse)
        return jax.vjp(recurrence, a)[1](cotangents)[0]

    found, pullback = jax.vjp(gradients, a, cotangents)
    second = jax.tree.map(
        lambda like, d: d,
        found,
        second._replace(recurrent_scale=found.recurrent_scale, valid=found.valid, resets=found.resets),
    )
    da, dcotangents = pullback(second)
    return da, jax.tree.map(jnp.zeros_like, saved), dcotangents


_gradients.defvjp(_gradients_forward, _gradients_backward)


def _cell_and_sizes(run: Run, a: Recurrence) -> tuple[Cell, Sizes]:
    cell, heads = Cell.of(run.pointwise, a), heads_of(a.recurrent_kernel)
    sizes = run.device.sizes(a.xw.shape[1] // heads, cell)
    return cell, sizes._replace(rows=heads * sizes.rows, heads=heads)


def _call(run: Run, kernel: Kernel, inputs: Blocks, outputs: Blocks, sizes: Sizes, reverse: bool) -> Blocks:
    return run.device.call(kernel, inputs, outputs, sizes, reverse=reverse, interpret=run.interpret)


def _inputs(cell: Cell, sizes: Sizes, a: Recurrence, kernels: Array) -> Blocks:
    """What both kernels need."""
    inputs = Blocks({}, {}, {"kernels": kernels})
    for name, mask in (("valid", a.valid), ("resets", a.resets)):
        if mask is not None:  # as numbers in a column: every device can compare, and repeat over columns, these
            inputs.steps[name] = _padded_rows(
                mask[..., None].astype(jnp.float32), sizes._replace(hidden=1), time=True
            )
    if a.recurrent_scale is not None:
        inputs.rows["scale"] = _padded_rows(a.recurrent_scale, sizes)
    inputs.whole["params"] = [
        _padded_rows(jnp.broadcast_to(leaf, (sizes.heads, cell.hidden)), sizes._replace(rows=sizes.heads))[:, None]
        for leaf in jax.tree.leaves(a.params)
    ]
    return inputs


def _kernels(cell: Cell, sizes: Sizes, recurrent_kernel: Array) -> Array:
    """``[heads, gates, hidden, hidden]``, padded."""
    gates = recurrent_kernel.reshape(sizes.heads, cell.hidden, cell.recurrent_gates, cell.hidden)
    padding = sizes.hidden - cell.hidden
    return jnp.pad(gates.swapaxes(1, 2), ((0, 0), (0, 0), (0, padding), (0, padding)))


def _padded_rows(tree: Any, sizes: Sizes, *, time: bool = False) -> Any:
    def padded(leaf):
        rows, columns = leaf.shape[-2:]
        return jnp.pad(leaf, ((0, 0),) * time + ((0, sizes.rows - rows), (0, sizes.hidden - columns)))

    return jax.tree.map(padded, tree)


def _padded_gates(array: Array, gates: int, sizes: Sizes, *, rows: bool = True) -> Array:
    """``[..., rows, gates * hidden]`` with every gate padded to ``sizes.hidden``."""
    *leading, width = array.shape
    hidden = width // gates
    split = array.reshape(*leading, gates, hidden)
    padding = [(0, 0)] * (len(leading) + 1) + [(0, sizes.hidden - hidden)]
    if rows:
        padding[-3] = (0, sizes.rows - leading[-1])
    padded = jnp.pad(split, padding)
    return padded.reshape(*padded.shape[:-2], gates * sizes.hidden)


def _cut_gates(array: Array, gates: int, sizes: Sizes, batch: int, hidden: int) -> Array:
    split = array.reshape(*array.shape[:-1], gates, sizes.hidden)[:, :batch, :, :hidden]
    return split.reshape(*split.shape[:2], gates * hidden)


def _params_gradients(dparams: list[Array], params: Any, heads: int, shape: tuple[int, int]) -> Any:
    """From the gradients of parameters repeated over the batch to those of the parameters."""
    batch, hidden = shape
    leaves, structure = jax.tree.flatten(params)
    found = []
    for d, leaf in zip(dparams, leaves, strict=True):
        summed = d[:batch, :hidden].reshape(heads, -1, hidden).sum(1)
        found.append(cast(summed.sum() if leaf.size == 1 else summed, leaf.dtype).reshape(leaf.shape))
    return jax.tree.unflatten(structure, found)
