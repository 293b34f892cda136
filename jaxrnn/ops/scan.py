"""``lax.scan`` with hand-written backpropagation through time, for any pointwise function.

Forward, at every step::

    rh_t            = h_{t-1} @ recurrent_kernel + recurrent_bias
    carry_t, y_t    = pointwise(params, carry_{t-1}, xw_t, rh_t)

and what the derivative of ``pointwise`` needs is saved (for tanh, only the output). Backward, at every
step in the opposite order, with d for the gradient of the loss::

    dparams_t, dcarry_{t-1}, dxw_t, drh_t = pullback_t(dcarry_t, dy_t)
    dh_{t-1}       += drh_t @ recurrent_kernel.T

The weight gradients wait until the loop is over, where each is one large product::

    drecurrent_kernel = sum_t h_{t-1}.T @ drh_t        one matmul over time and batch
    drecurrent_bias   = sum_t drh_t

Plain autodiff of a scan does that product, and adds up a ``[hidden, gates * hidden]`` array, at every
step. The derivation is backpropagation through time (Werbos 1990, doi:10.1109/5.58337).
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxrnn.ops.reference import reference_recurrence
from jaxrnn.ops.step import (
    Carry,
    Pointwise,
    Projection,
    Recurrence,
    apply_pointwise,
    by_gate,
    cast,
    hidden_state,
    projected,
    projected_by_gate,
    projection_gradient,
    recurrent_kernel_gradient,
    recurrent_product_gradient,
    recurrent_projection,
    scaled_hidden,
    select,
    widen,
)


@functools.partial(jax.tree_util.register_dataclass, data_fields=("kept",), meta_fields=("treedef", "sources"))
@dataclass(frozen=True)
class _Pullback:
    """The pullback of one step (or, stacked by the scan, of all), each array of it saved once.

    ``jax.vjp`` returns a pullback that is a pytree. Arrays of it that the loop saves anyway (the output,
    the incoming carry) or that do not change from step to step (the parameters) are not saved again:
    ``sources`` says, for every leaf, where to find it.
    """

    kept: list[Array]
    treedef: Any
    sources: tuple[tuple[str, int], ...]

    @staticmethod
    def save(pullback: Any, known: dict[str, list[Array]]) -> "_Pullback":
        where = {id(a): (name, i) for name, arrays in known.items() for i, a in enumerate(arrays)}
        leaves, treedef = jax.tree.flatten(pullback)
        kept, sources = [], []
        for leaf in leaves:
            if id(leaf) not in where:
                where[id(leaf)] = ("kept", len(kept))
                kept.append(leaf)
            sources.append(where[id(leaf)])
        return _Pullback(kept, treedef, tuple(sources))

    def restore(self, known: dict[str, list[Array]]) -> Any:
        known = known | {"kept": self.kept}
        return jax.tree.unflatten(self.treedef, [known[name][i] for name, i in self.sources])

    def uses(self, name: str, index: int) -> bool:
        return (name, index) in self.sources


# fmt: off
CHEAP = frozenset((
    "abs", "add", "add_any", "and", "broadcast_in_dim", "clamp", "concatenate", "convert_element_type", "copy",
    "div", "eq", "ge", "gt", "integer_pow", "le", "lt", "max", "min", "mul", "ne", "neg", "not",
    "one_minus_square", "or", "reshape", "select_n", "sign", "slice", "split", "square", "squeeze",
    "stop_gradient", "sub",
))
# fmt: on
"""Operations that the backward loop computes again, since saving their results at every step would cost more."""


def _is_expensive(operation: Any, *arguments: Any, **options: Any) -> bool:
    """Whether an operation is not cheap; a call, such as that of ``jax.nn.relu``, if one within it is not."""
    within = list(_programs_within(options))
    if not within:
        return operation.name not in CHEAP
    return any(_is_expensive(equation.primitive, **equation.params) for jaxpr in within for equation in jaxpr.eqns)


def _programs_within(options: dict[str, Any]) -> Iterator[Any]:
    """The programs that an operation calls. It holds a program with its constants, or the program alone."""
    for part in jax.tree.leaves(list(options.values()), is_leaf=lambda part: hasattr(part, "eqns")):
        inner = getattr(part, "jaxpr", part)
        if hasattr(inner, "eqns"):
            yield inner


def _saving_little(step: Callable[..., Any], jaxpr: Any) -> Callable[..., Any]:
    """The function of that program; its pullback keeps only results of expensive operations: tanh, sums, products.

    By itself ``jax.vjp`` keeps the factors of every multiplication, and of tanh both y and 1 - y. A function with
    a derivative of its own (``jax.custom_vjp``) decides itself what it keeps. So does one with a maximum over
    units: the derivative looks for the unit that equals the maximum, and finds none where its numbers are computed
    again and rounded in another way.
    """
    if _keeps_what_it_needs(jaxpr):
        return step
    return jax.checkpoint(step, prevent_cse=False, policy=_is_expensive)


def _keeps_what_it_needs(jaxpr: Any) -> bool:
    """Whether it has a derivative of its own, or a maximum with one, also within other calls such as ``jit``."""
    differentiated = {id(result) for result in jaxpr.outvars}
    for equation in reversed(jaxpr.eqns):
        name = equation.primitive.name
        if "custom_vjp" in name:
            return True
        if name == "stop_gradient" or differentiated.isdisjoint(map(id, equation.outvars)):
            continue  # the maximum that softmax subtracts has no derivative
        if name in ("reduce_max", "reduce_min"):
            return True
        differentiated.update(map(id, equation.invars))
        if any(map(_keeps_what_it_needs, _programs_within(equation.params))):
            return True
    return False


def _output_is_hidden_state(jaxpr: Any) -> bool:
    """Whether the last two results of a step, h and the output, are one array, or one array cast to one dtype."""
    h, y = jaxpr.outvars[-2:]
    casts = {
        id(result): equation
        for equation in jaxpr.eqns
        if equation.primitive.name == "convert_element_type"
        for result in equation.outvars
    }
    if id(h) in casts and id(y) in casts:
        return casts[id(h)].invars[0] is casts[id(y)].invars[0] and h.aval.dtype == y.aval.dtype
    return h is y


def _loop(body: Callable[..., Any], carry: Any, inputs: Any, reverse: bool, unroll: int) -> tuple[Any, Any]:
    """``lax.scan``. A single step, as somebody's own loop over an environment takes it, is no loop."""
    if jax.tree.leaves(inputs)[0].shape[0] != 1:
        return lax.scan(body, carry, inputs, reverse=reverse, unroll=unroll)
    carry, outputs = body(carry, jax.tree.map(lambda array: array[0], inputs))
    return carry, jax.tree.map(lambda array: array[None], outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _recurrence(pointwise: Pointwise, reverse: bool, unroll: int, arrays: Recurrence) -> tuple[Carry, Array]:
    return _forward(pointwise, reverse, unroll, arrays, save=False)[0]


def _forward(
    pointwise: Pointwise, reverse: bool, unroll: int, arrays: Recurrence, *, save: bool = True
) -> tuple[tuple[Carry, Array], Any]:
    """The forward loop; with ``save``, also what the backward loop needs of every step."""
    a = arrays
    hidden = hidden_state(a.initial_carry).shape[-1]

    def body(carry, inputs):
        xw_t, valid_t, reset_t = inputs
        if one_feature is not None:
            xw_t = projected_by_gate(replace(one_feature, inputs=xw_t), hidden)
        if reset_t is not None:
            carry = select(reset_t, a.reset_carry, carry)
        rh = recurrent_projection(carry, a.recurrent_kernel, a.recurrent_bias, a.recurrent_scale)
        rh = by_gate(rh, hidden)
        step = functools.partial(apply_pointwise, pointwise)
        saved: Any = None
        if save:
            jaxpr = jax.make_jaxpr(step)(a.params, carry, xw_t, rh).jaxpr
            step = _saving_little(step, jaxpr)
            (new_carry, y), pullback = jax.vjp(step, a.params, carry, xw_t, rh)
            carry_in = jax.tree.leaves(carry)
            known = {"output": [y], "carry": carry_in, "params": jax.tree.leaves(a.params)}
            pullback = _Pullback.save(pullback, known)
            used = [c if pullback.uses("carry", i) else None for i, c in enumerate(carry_in)]
            masked = valid_t is not None or reset_t is not None
            if masked or a.xw.shape[0] < 2 or not _output_is_hidden_state(jaxpr):
                used[-1] = carry_in[-1]
            saved = (pullback, used)
        else:
            new_carry, y = step(a.params, carry, xw_t, rh)
        out = y
        if valid_t is not None:
            new_carry, out = select(valid_t, new_carry, carry), jnp.where(valid_t[..., None], y, 0)
        if save and out is not y and pullback.uses("output", 0):
            saved = (*saved, y)
        return new_carry, (out, saved)

    projection = a.xw if isinstance(a.xw, Projection) else None
    # The projection of one feature is no product but a multiplication, which XLA fuses with the equations: that is
    # faster than to write it for all steps, and to read it.
    one_feature = None if projection is None or projection.inputs.shape[-1] != 1 else projection
    if one_feature is not None:
        xw = one_feature.inputs
    elif a.xw.shape[0] == 1:
        xw = by_gate(projected(a.xw), hidden)
    else:
        # An array for each gate: on a CPU, XLA would cut one for all gates at every step, which is slow.
        xw = projected_by_gate(a.xw, hidden)
    carry, (ys, saved) = _loop(body, a.initial_carry, (xw, a.valid, a.resets), reverse, unroll)
    return (carry, ys), (a._replace(xw=projection), ys, saved)


def _backward(pointwise: Pointwise, reverse: bool, unroll: int, residuals: Any, cotangents: Any) -> Any:
    a, ys, saved = residuals
    dcarry, dys = cotangents
    pullbacks, carries_in, *unmasked = saved
    outputs = unmasked[0] if unmasked else ys
    kernel = a.recurrent_kernel
    kernel_t = jnp.swapaxes(kernel, -2, -1)
    known_params = jax.tree.leaves(a.params)

    def body(state, inputs):
        dcarry, dreset, dparams = state
        dy, y, carry_in, pullback, valid_t, reset_t = inputs
        if valid_t is not None:
            zeros = jax.tree.map(jnp.zeros_like, dcarry)
            dfrozen, dcarry = select(valid_t, zeros, dcarry), select(valid_t, dcarry, zeros)
            dy = jnp.where(valid_t[..., None], dy, 0)
        pull = pullback.restore({"output": [y], "carry": carry_in, "params": known_params})
        dcarry = jax.tree.map(lambda d, c: cast(d, c.dtype), dcarry, a.initial_carry)
        dparams_t, dcarry, dxw, drh = pull((dcarry, dy))
        drh_narrow = cast(jnp.concatenate(drh, -1), kernel.dtype)
        dh = recurrent_product_gradient(drh_narrow, kernel_t)
        if a.recurrent_scale is not None:
            dh = dh * a.recurrent_scale
        leaves, treedef = jax.tree.flatten(widen(dcarry))
        leaves[-1] = leaves[-1] + cast(dh, leaves[-1].dtype)
        dcarry = jax.tree.unflatten(treedef, leaves)
        if valid_t is not None:
            dcarry = jax.tree.map(jnp.add, dcarry, dfrozen)
        if reset_t is not None:
            zeros = jax.tree.map(jnp.zeros_like, dcarry)
            dreset = jax.tree.map(jnp.add, dreset, select(reset_t, dcarry, zeros))
            dcarry = select(reset_t, zeros, dcarry)
        dparams = jax.tree.map(_add, dparams, dparams_t)
        # Most cells add xw and rh: one array then serves as the gradient of both.
        same = drh_narrow.dtype == dxw[0].dtype and [*map(id, dxw)] == [*map(id, drh)]
        out = {"drh": drh_narrow} if same else {"drh": drh_narrow, "dxw": jnp.concatenate(dxw, -1)}
        return (dcarry, dreset, dparams), out

    state = (
        widen(dcarry),
        jax.tree.map(jnp.zeros_like, widen(a.reset_carry)),
        jax.tree.map(_first_sum, a.params),
    )
    inputs = (dys, outputs, carries_in, pullbacks, a.valid, a.resets)
    (dcarry, dreset, dparams), out = _loop(body, state, inputs, not reverse, unroll)
    drh = out["drh"]
    dxw = out.get("dxw", drh)
    h = carries_in[-1]
    if h is None:  # it is the output of the step before
        first = hidden_state(a.initial_carry)[None]
        h = jnp.concatenate([ys[1:], first] if reverse else [first, ys[:-1]])
    h = scaled_hidden(h, kernel, a.recurrent_scale)
    dkernel = recurrent_kernel_gradient(h, drh, kernel)
    dbias = None
    if a.recurrent_bias is not None:
        dbias = cast(widen(drh).sum(range(drh.ndim - 1)), a.recurrent_bias.dtype)

    def like(d, primal):
        return cast(d, primal.dtype)

    # None stands for no gradient: of the masks, and of recurrent_scale, which is one too.
    gradients = Recurrence(
        recurrent_kernel=like(dkernel, kernel),
        xw=dxw if a.xw is None else projection_gradient(a.xw, dxw),
        initial_carry=jax.tree.map(like, dcarry, a.initial_carry),
        params=jax.tree.map(_of_param, dparams, a.params),
        recurrent_bias=dbias,
        reset_carry=jax.tree.map(like, dreset, a.reset_carry),
    )
    return (gradients,)


def _is_floating(param: Array) -> bool:
    return jnp.issubdtype(param.dtype, jnp.floating)


def _first_sum(param: Array) -> Array:
    """Of the gradients of a parameter; what is not floating (a counter, a random key) has none."""
    return jnp.zeros_like(widen(param)) if _is_floating(param) else jnp.zeros(())


def _add(total: Array, gradient: Any) -> Array:
    return total if gradient.dtype == jax.dtypes.float0 else total + widen(gradient)


def _of_param(total: Array, param: Array) -> Any:
    if _is_floating(param):
        return cast(total, param.dtype)
    return np.zeros(param.shape, jax.dtypes.float0)


_recurrence.defvjp(_forward, _backward)


def scan_recurrence(
    pointwise: Pointwise, arrays: Recurrence, *, reverse: bool, unroll: int
) -> tuple[Carry, Array]:
    if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
        # Every step is then traced apart, and JAX cannot stack the pullbacks of different traces.
        computed = arrays._replace(xw=projected(arrays.xw))
        return reference_recurrence(pointwise, computed, reverse=reverse, unroll=unroll)
    return _recurrence(pointwise, reverse, unroll, arrays)
