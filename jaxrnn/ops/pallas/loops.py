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

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from jaxrnn.ops.pallas.cell import Cell, Plan
from jaxrnn.ops.step import accumulation_dtype, cast, scaled_hidden, widen


class Blocks(NamedTuple):
    """Arrays (or their shapes, or references to them in a kernel) by how they are cut into blocks.

    Attributes:
      steps: ``[time, rows, ...]``, one slice for every step.
      rows: ``[rows, ...]``, the same for every step. As outputs of a kernel: the loop's state.
      whole: needed by every row.
    """

    steps: dict[str, Any]
    rows: dict[str, Any]
    whole: dict[str, Any]


class Walk(NamedTuple):
    """How a loop goes through the steps that a kernel sees.

    Attributes:
      count: number of steps.
      position: of the i-th step in the arrays.
      prefetch: whether to read a step's arrays one step ahead, where no pipeline does that.
      weight: gate to the matrix ``[hidden, hidden]``, as the loop is to read it.
    """

    count: Any
    position: Callable[[Any], Any]
    prefetch: bool
    weight: Callable[[int], Array]

    def run(self, load: Callable[[Any], Any], step: Callable[[Any, Any, Any], Any], state: Any) -> Any:
        """``state = step(t, load(t), state)`` for every step."""
        if not self.prefetch:
            return lax.fori_loop(
                0, self.count, lambda i, s: step(self.position(i), load(self.position(i)), s), state
            )

        def body(i, state_and_loaded):
            state, loaded = state_and_loaded
            following = load(self.position(jnp.minimum(i + 1, self.count - 1)))
            return step(self.position(i), loaded, state), following

        return lax.fori_loop(0, self.count, body, (state, load(self.position(0))))[0]


class Kernel(NamedTuple):
    """``start`` makes the first state from a kernel's inputs, ``run`` walks: (inputs, outputs, walk, state)."""

    start: Callable[[Blocks], Any]
    run: Callable[[Blocks, Blocks, Walk, Any], Any]


def forward_kernel(cell: Cell, plan: Plan, save: bool) -> Kernel:
    """Inputs, steps: xw, valid, resets; rows: carry, reset_carry, scale; whole: bias, params. See the module."""

    def start(inputs: Blocks):
        return {"carry": [part[...] for part in inputs.rows["carry"]]}

    def run(inputs: Blocks, outputs: Blocks, walk: Walk, state):
        shape = inputs.rows["carry"][-1].shape
        params, bias, scale, reset_carry = _constants(inputs, shape)
        real = _real_columns(cell, shape)

        def load(t):
            gates = [inputs.steps["xw"][t, :, gate] for gate in _gates(cell.gates, shape)]
            return gates, *_masks(inputs, t)

        def step(t, loaded, state):
            xw, valid, resets = loaded
            carry = state["carry"]
            if resets is not None and reset_carry is not None:
                carry = [jnp.where(resets, new, old) for new, old in zip(reset_carry, carry)]
            left = _zero_elsewhere(real, scaled_hidden(carry[-1], walk.weight(0), scale))
            rh = [_dot(left, walk.weight(gate)) for gate in range(cell.recurrent_gates)]
            if bias is not None:
                rh = [cast(r + b, r.dtype) for r, b in zip(rh, bias)]
            (new_carry, y), pullback = cell.vjp(params, widen(carry), widen(xw), rh)
            if save:
                for i, saved in zip(plan.carries, outputs.steps["carry"]):
                    saved[t] = carry[i]
                residuals = jax.tree.leaves(pullback)
                for (name, i), residual in zip(plan.sources, residuals, strict=True):
                    if name == "kept":
                        outputs.steps["kept"][i][t] = cast(residual, plan.kept[i])
            new_carry = [cast(new, old.dtype) for new, old in zip(new_carry, carry)]
            if valid is not None:
                new_carry = [jnp.where(valid, new, old) for new, old in zip(new_carry, carry)]
                y = jnp.where(valid, y, 0)
            outputs.steps["y"][t] = cast(y, cell.dtype)
            return {"carry": new_carry}

        return walk.run(load, step, state)

    return Kernel(start, run)


def backward_kernel(cell: Cell, plan: Plan) -> Kernel:
    """Inputs, steps: dy, valid, resets, what forward saved; rows: dcarry, scale; whole: params. See the module."""

    def start(inputs: Blocks):
        dcarry = widen([part[...] for part in inputs.rows["dcarry"]])
        shape = dcarry[-1].shape
        dreset = [jnp.zeros_like(d) for d in dcarry] if "resets" in inputs.steps else []
        dparams = [jnp.zeros(shape, accumulation_dtype(dtype)) for dtype in cell.params_dtypes]
        return {"dcarry": dcarry, "dreset": dreset, "dparams": dparams}

    def run(inputs: Blocks, outputs: Blocks, walk: Walk, state):
        shape = inputs.rows["dcarry"][-1].shape
        params, _, scale, _ = _constants(inputs, shape)
        real = _real_columns(cell, shape)
        # The pullback's structure, and those residuals that follow from the parameters alone.
        _, *zeros = cell.tiles(shape, jnp.zeros)
        _, pullback = cell.vjp(params, *zeros)
        at_zero, structure = jax.tree.flatten(pullback)

        def load(t):
            steps = inputs.steps
            saved: dict[str, Any] = {
                "carry": dict(zip(plan.carries, [part[t] for part in steps["carry"]])),
                "kept": [part[t] for part in steps["kept"]],
            }
            if "y" in steps:
                saved["output"] = [steps["y"][t]]
            if "xw" in steps:
                saved["xw"] = [steps["xw"][t, :, gate] for gate in _gates(cell.gates, shape)]
            return steps["dy"][t], saved, *_masks(inputs, t)

        def step(t, loaded, state):
            dy, saved, valid, resets = loaded
            residuals = [
                like if name == "params" else _restored(saved[name][i], like.dtype)
                for (name, i), like in zip(plan.sources, at_zero, strict=True)
            ]
            pull = jax.tree.unflatten(structure, residuals)
            dparams, dcarry, dxw, drh = pull((state["dcarry"], cast(dy, accumulation_dtype(cell.dtype))))
            # Selected, not multiplied: 0 * NaN would be NaN, and padding may hold anything.
            keep = real if valid is None else valid if real is None else real & valid
            drh = [cast(_zero_elsewhere(keep, d), cell.kernel_dtype) for d in drh]
            dh = _dot(drh[0], walk.weight(0))
            for gate in range(1, cell.recurrent_gates):
                dh = dh + _dot(drh[gate], walk.weight(gate))
            if scale is not None:
                dh = dh * scale
            dcarry = [*dcarry[:-1], dcarry[-1] + cast(dh, dcarry[-1].dtype)]
            if valid is not None:
                dcarry = [jnp.where(valid, new, old) for new, old in zip(dcarry, state["dcarry"])]
            dreset = state["dreset"]
            if resets is not None:
                dreset = [total + jnp.where(resets, d, 0) for total, d in zip(dreset, dcarry)]
                dcarry = [jnp.where(resets, 0, d) for d in dcarry]
            for columns, d in zip(_gates(cell.recurrent_gates, shape), drh):
                outputs.steps["drh"][t, :, columns] = d
            if not plan.shared:
                for columns, d in zip(_gates(cell.gates, shape), dxw):
                    outputs.steps["dxw"][t, :, columns] = cast(_zero_elsewhere(keep, d), cell.dtype)
            dparams = [total + _zero_elsewhere(keep, d) for total, d in zip(state["dparams"], dparams)]
            return {"dcarry": dcarry, "dreset": dreset, "dparams": dparams}

        return walk.run(load, step, state)

    return Kernel(start, run)


def _dot(a: Array, b: Array) -> Array:
    """As :func:`jaxrnn.ops.step.matmul`, of two arrays of one dtype."""
    return jnp.dot(a, b, preferred_element_type=accumulation_dtype(a.dtype))


def _gates(number: int, shape: tuple[int, int]) -> list[Any]:
    return [pl.ds(gate * shape[1], shape[1]) for gate in range(number)]


def _constants(inputs: Blocks, shape: tuple[int, int]):
    """Parameters, bias of every gate, recurrent_scale and reset_carry as tiles, where there are any."""
    params = [jnp.broadcast_to(widen(part[...]), shape) for part in inputs.whole["params"]]
    bias = scale = reset_carry = None
    if "bias" in inputs.whole:
        bias = [widen(inputs.whole["bias"][gate]) for gate in range(inputs.whole["bias"].shape[0])]
    if "scale" in inputs.rows:
        scale = inputs.rows["scale"][...]
    if "reset_carry" in inputs.rows:
        reset_carry = [part[...] for part in inputs.rows["reset_carry"]]
    return params, bias, scale, reset_carry


def _masks(inputs: Blocks, t: Any) -> list[Array | None]:
    """valid and resets of a step as ``[rows, 1]``, or None."""
    return [inputs.steps[name][t] != 0 if name in inputs.steps else None for name in ("valid", "resets")]


def _real_columns(cell: Cell, shape: tuple[int, int]) -> Array | None:
    """Which columns are not padding; None if all are real."""
    return None if shape[1] == cell.hidden else lax.broadcasted_iota(jnp.int32, shape, 1) < cell.hidden


def _zero_elsewhere(condition: Array | None, array: Array) -> Array:
    return array if condition is None else jnp.where(condition, array, 0)


def _restored(saved: Array, dtype: jnp.dtype) -> Array:
    return widen(saved) != 0 if dtype == jnp.bool_ else cast(saved, dtype)
