"""The loops over time of both kernels, on tiles: the same for GPU and TPU, and for every cell.

Forward, at every step, with the recurrent kernel R on the chip and the carry in registers::

    rh_t            = h_{t-1} @ R + recurrent_bias
    carry_t, y_t    = pointwise(params, carry_{t-1}, xw_t, rh_t)

y_t is written, and with it h_{t-1} and the residuals of ``jax.vjp(pointwise)``: what the derivative of step t
needs.

Backward. Let L be the loss, dv the gradient of L with respect to v, and f the pointwise function. L depends on
carry_t through step t + 1, whence dcarry_t, and on y_t, whose gradient dy_t is given. By the chain rule, the
pullback of f at step t turns both into gradients of what went into f, ::

    dparams_t, dcarry_{t-1}, dxw_t, drh_t = pullback_t(dcarry_t, dy_t)

and h_{t-1} went into rh_t as well, so its gradient has a second part::

    dh_{t-1}       += drh_t @ R.T

These two lines are all that must wait for step t + 1, so the backward kernel holds R.T alone: h @ R is not
computed again, since the residuals were saved. What sums over time is left to matrix products after the kernel::

    dR = sum_t h_{t-1}.T @ drh_t          and, from dxw, the caller's d kernel = sum_t x_t.T @ dxw_t

except dparams, which is summed elementwise, row by row, beside the carry. A reset at step t replaces carry_{t-1},
so dcarry_{t-1} goes to reset_carry instead; a step outside a row's length leaves the carry as it is, so dcarry
passes through it unchanged. (Backpropagation through time: Werbos 1990, doi:10.1109/5.58337.)
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.ops.pallas.cell import Cell, Plan
from jaxrnn.ops.pallas.interface import Blocks, Kernel, TileOps
from jaxrnn.ops.step import accumulation_dtype, cast, widen


def forward_kernel(cell: Cell, plan: Plan, save: bool) -> Kernel:
    """Inputs, steps: xw, valid, resets; rows: carry, reset_carry, scale; whole: bias, params. See the module."""

    def start(inputs: Blocks, ops: TileOps):
        return {"carry": [ops.read(part) for part in inputs.rows["carry"]]}

    def run(inputs: Blocks, outputs: Blocks, ops: TileOps, state):
        params, bias, scale, reset_carry = _constants(inputs, ops)

        def load(t):
            gates = [ops.read(inputs.steps["xw"], t, gate) for gate in range(cell.gates)]
            return gates, *_masks(inputs, ops, t)

        def step(i, loaded, state):
            t = ops.position(i)
            xw, valid, resets = loaded
            carry = state["carry"]
            if resets is not None and reset_carry is not None:
                carry = [jnp.where(resets, new, old) for new, old in zip(reset_carry, carry)]
            left = cast(carry[-1] if scale is None else carry[-1] * scale, cell.kernel_dtype)
            rh = ops.product(i, [_zero_elsewhere(ops.real, left)])
            if bias is not None:
                rh = [cast(r + b, r.dtype) for r, b in zip(rh, bias)]
            (new_carry, y), pullback = ops.simplify(cell.vjp)(params, widen(carry), widen(xw), rh)
            if save:
                for leaf, saved in zip(plan.carries, outputs.steps["carry"]):
                    ops.write(saved, carry[leaf], t)
                residuals = jax.tree.leaves(pullback)
                for (name, k), residual in zip(plan.sources, residuals, strict=True):
                    if name == "kept":
                        ops.write(outputs.steps["kept"][k], cast(residual, plan.kept[k]), t)
            new_carry = [cast(new, old.dtype) for new, old in zip(new_carry, carry)]
            if valid is not None:
                new_carry = [jnp.where(valid, new, old) for new, old in zip(new_carry, carry)]
                y = jnp.where(valid, y, 0)
            ops.write(outputs.steps["y"], cast(y, cell.dtype), t)
            return {"carry": new_carry}

        return ops.run(load, step, state)

    return Kernel("recurrence_forward", cell, False, start, run)


def backward_kernel(cell: Cell, plan: Plan) -> Kernel:
    """Inputs, steps: dy, valid, resets, what forward saved; rows: dcarry, scale; whole: params. See the module."""

    def start(inputs: Blocks, ops: TileOps):
        dcarry = widen([ops.read(part) for part in inputs.rows["dcarry"]])
        dreset = [jnp.zeros_like(d) for d in dcarry] if "resets" in inputs.steps else []
        dparams = [jnp.zeros(ops.shape, accumulation_dtype(dtype)) for dtype in cell.params_dtypes]
        return {"dcarry": dcarry, "dreset": dreset, "dparams": dparams}

    def run(inputs: Blocks, outputs: Blocks, ops: TileOps, state):
        params, _, scale, _ = _constants(inputs, ops)
        # The pullback's structure, and those residuals that follow from the parameters alone.
        _, *zeros = cell.tiles(ops.shape, jnp.zeros)
        _, pullback = ops.simplify(cell.vjp)(params, *zeros)
        at_zero, structure = jax.tree.flatten(pullback)

        def load(t):
            steps = inputs.steps
            saved: dict[str, Any] = {
                "carry": dict(zip(plan.carries, [ops.read(part, t) for part in steps["carry"]])),
                "kept": [ops.read(part, t) for part in steps["kept"]],
            }
            if "y" in steps:
                saved["output"] = [ops.read(steps["y"], t)]
            if "xw" in steps:
                saved["xw"] = [ops.read(steps["xw"], t, gate) for gate in range(cell.gates)]
            return ops.read(steps["dy"], t), saved, *_masks(inputs, ops, t)

        def step(i, loaded, state):
            t = ops.position(i)
            dy, saved, valid, resets = loaded
            residuals = [
                like if name == "params" else _restored(saved[name][k], like.dtype)
                for (name, k), like in zip(plan.sources, at_zero, strict=True)
            ]
            pull = jax.tree.unflatten(structure, residuals)
            cotangents = state["dcarry"], cast(dy, accumulation_dtype(cell.dtype))
            dparams, dcarry, dxw, drh = ops.simplify(lambda pull, cotangents: pull(cotangents))(pull, cotangents)
            # Selected, not multiplied: 0 * NaN would be NaN, and padding may hold anything.
            keep = ops.real if valid is None else valid if ops.real is None else ops.real & valid
            drh = [cast(_zero_elsewhere(keep, d), cell.kernel_dtype) for d in drh]
            (dh,) = ops.product(i, drh)
            if scale is not None:
                dh = dh * scale
            dcarry = [*dcarry[:-1], dcarry[-1] + cast(dh, dcarry[-1].dtype)]
            if valid is not None:
                dcarry = [jnp.where(valid, new, old) for new, old in zip(dcarry, state["dcarry"])]
            dreset = state["dreset"]
            if resets is not None:
                dreset = [total + jnp.where(resets, d, 0) for total, d in zip(dreset, dcarry)]
                dcarry = [jnp.where(resets, 0, d) for d in dcarry]
            for gate, d in enumerate(drh):
                ops.write(outputs.steps["drh"], d, t, gate)
            if not plan.shared:
                for gate, d in enumerate(dxw):
                    ops.write(outputs.steps["dxw"], cast(_zero_elsewhere(keep, d), cell.dtype), t, gate)
            dparams = [total + _zero_elsewhere(keep, d) for total, d in zip(state["dparams"], dparams)]
            return {"dcarry": dcarry, "dreset": dreset, "dparams": dparams}

        return ops.run(load, step, state)

    return Kernel("recurrence_backward", cell, True, start, run)


def _constants(inputs: Blocks, ops: TileOps):
    """Parameters, bias of every gate, recurrent_scale and reset_carry as tiles, where there are any."""
    params = [jnp.broadcast_to(widen(ops.read(part)), ops.shape) for part in inputs.whole["params"]]
    bias = scale = reset_carry = None
    if "bias" in inputs.whole:
        bias = [widen(ops.read(inputs.whole["bias"], gate)) for gate in range(inputs.whole["bias"].shape[0])]
    if "scale" in inputs.rows:
        scale = ops.read(inputs.rows["scale"])
    if "reset_carry" in inputs.rows:
        reset_carry = [ops.read(part) for part in inputs.rows["reset_carry"]]
    return params, bias, scale, reset_carry


def _masks(inputs: Blocks, ops: TileOps, t: Any) -> list[Array | None]:
    """valid and resets of a step, of a tile's shape or a column of it, or None."""
    return [ops.read(inputs.steps[name], t) != 0 if name in inputs.steps else None for name in ("valid", "resets")]


def _zero_elsewhere(condition: Array | None, array: Array) -> Array:
    return array if condition is None else jnp.where(condition, array, 0)


def _restored(saved: Array, dtype: jnp.dtype) -> Array:
    return widen(saved) != 0 if dtype == jnp.bool_ else cast(saved, dtype)
