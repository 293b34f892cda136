"""A cell as the kernels see it: its equations on a tile, and which arrays its derivative needs.

Inside a kernel every array has the shape of a tile ``[rows, hidden]``: parts of the carry, gates, and parameters
too, which are repeated over the rows. That is right for elementwise functions only, so every operation of the
equations and of their derivative is looked at first (:func:`not_elementwise`).
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.ops.step import (
    Pointwise,
    Recurrence,
    accumulation_dtype,
    checked_pointwise,
    dtype_of,
    hidden_state,
    recurrent_gates_of,
)

ELEMENTWISE = frozenset(
    (
        "abs",
        "add",
        "add_any",
        "and",
        "broadcast_in_dim",
        "ceil",
        "clamp",
        "convert_element_type",
        "copy",
        "cos",
        "custom_jvp_call",
        "div",
        "eq",
        "exp",
        "exp2",
        "floor",
        "ge",
        "gt",
        "integer_pow",
        "is_finite",
        "jit",
        "le",
        "log",
        "log1p",
        "logistic",
        "lt",
        "max",
        "min",
        "mul",
        "mul_any",
        "ne",
        "neg",
        "not",
        "one_minus_square",
        "or",
        "pjit",
        "pow",
        "rsqrt",
        "select_n",
        "sign",
        "sin",
        "sqrt",
        "square",
        "stop_gradient",
        "sub",
        "tan",
        "tanh",
        "xor",
        "zeros_like",
    )
)
"""Names of JAX's operations that Triton's and the TPU's compiler both have (tests lower each of them)."""

_TILE = (2, 3)  # any two different numbers: a transposed or reduced tile has another shape


class Plan(NamedTuple):
    """What the forward kernel saves of every step, and where the backward kernel finds what it needs.

    Attributes:
      sources: for every residual of ``jax.vjp``: ``("carry" | "xw", index)`` or ``("output", 0)`` for arrays that
        exist anyway, ``("params", 0)`` for what follows from the parameters alone and is computed again once,
        ``("kept", index)`` for the others.
      kept: dtypes of the others, each once.
      carries: leaves of the incoming carry that are saved; h, the last, always, for the weight gradient.
      shared: whether the gradients of xw and rh are one array, as in cells that add the two.
    """

    sources: tuple[tuple[str, int], ...]
    kept: tuple[Any, ...]
    carries: tuple[int, ...]
    shared: bool


@dataclass(frozen=True)
class Cell:
    """The equations of a cell on tiles, with the structure of its carry and parameters.

    Attributes:
      pointwise: elementwise.
      carry, params: structures of the pytrees.
      carry_dtypes, params_dtypes: of their leaves.
      gates, recurrent_gates: how many arrays xw and rh have.
      hidden: size of h, of one head.
      dtype, kernel_dtype: of xw and outputs; of the recurrent kernel.
    """

    pointwise: Pointwise
    carry: Any
    params: Any
    carry_dtypes: tuple[jnp.dtype, ...]
    params_dtypes: tuple[jnp.dtype, ...]
    gates: int
    recurrent_gates: int
    hidden: int
    dtype: jnp.dtype
    kernel_dtype: jnp.dtype

    @staticmethod
    def of(pointwise: Pointwise, a: Recurrence) -> "Cell":
        def dtypes(tree):
            return tuple(jnp.dtype(dtype_of(leaf)) for leaf in jax.tree.leaves(tree))

        return Cell(
            pointwise,
            jax.tree.structure(a.initial_carry),
            jax.tree.structure(a.params),
            dtypes(a.initial_carry),
            dtypes(a.params),
            a.xw.shape[-1] // hidden_state(a.initial_carry).shape[-1],
            recurrent_gates_of(a.recurrent_kernel),
            a.recurrent_kernel.shape[-2],
            jnp.dtype(a.xw.dtype),
            jnp.dtype(a.recurrent_kernel.dtype),
        )

    def vjp(self, params: list[Array], carry: list[Array], xw: list[Array], rh: list[Array]):
        """``((new carry, y), pullback)`` of tiles in their accumulation dtypes; the pullback is a pytree.

        Also where no gradient is wanted, since it leaves no custom derivative rule, which kernels cannot have;
        what nobody uses of it, the compiler drops.
        """

        def equations(params, carry, xw, rh):
            params, carry = jax.tree.unflatten(self.params, params), jax.tree.unflatten(self.carry, carry)
            new_carry, y = checked_pointwise(self.pointwise, params, carry, tuple(xw), tuple(rh))
            wide = [accumulation_dtype(dtype) for dtype in self.carry_dtypes]
            leaves = [leaf.astype(dtype) for leaf, dtype in zip(jax.tree.leaves(new_carry), wide)]
            return leaves, y.astype(accumulation_dtype(self.dtype))

        return jax.vjp(equations, params, carry, xw, rh)

    def tiles(self, shape: tuple[int, int], make: Any) -> tuple[list[Any], ...]:
        """``(params, carry, xw, rh)`` of ``make(shape, dtype)``, as :meth:`vjp` takes them."""

        def wide(dtypes):
            return [make(shape, accumulation_dtype(dtype)) for dtype in dtypes]

        return (
            wide(self.params_dtypes),
            wide(self.carry_dtypes),
            wide([self.dtype] * self.gates),
            wide([self.kernel_dtype] * self.recurrent_gates),
        )


@functools.lru_cache(maxsize=256)
def plan(cell: Cell) -> Plan:
    """What the derivative of the cell needs, found by tracing it once."""
    inputs, forward, backward = _traced(cell)
    names = ("params", "carry", "xw", "rh")
    known: dict[Any, tuple[str, int]] = {}
    variables = iter(forward.jaxpr.invars)
    for name, leaves in zip(names, inputs):
        known |= {next(variables): (name, i) for i in range(len(leaves))}
    after = len(cell.carry_dtypes)
    y = forward.jaxpr.outvars[after]
    if not hasattr(y, "val"):  # as a constant has
        known.setdefault(y, ("output", 0))
    varying = _depending_on(forward.jaxpr, forward.jaxpr.invars[len(inputs[0]) :])
    sources, kept = [], []
    for variable in forward.jaxpr.outvars[after + 1 :]:
        if hasattr(variable, "val") or variable not in varying:
            source = ("params", 0)
        elif variable in known and known[variable][0] != "rh":
            source = known[variable]
        else:
            source = known[variable] = ("kept", len(kept))
            kept.append(_kept_dtype(variable.aval.dtype, cell.dtype))
        sources.append(source)
    carries = {i for name, i in sources if name == "carry"} | {after - 1}
    first = len(cell.params_dtypes) + after
    gradients = backward.jaxpr.outvars[first:]
    shared = cell.gates == cell.recurrent_gates and cell.dtype == cell.kernel_dtype
    shared = shared and all(a is b for a, b in zip(gradients[: cell.gates], gradients[cell.gates :]))
    return Plan(tuple(sources), tuple(kept), tuple(sorted(carries)), shared)


def _kept_dtype(dtype: jnp.dtype, output: jnp.dtype) -> jnp.dtype:
    # bfloat16 has float32's range; what float16 has not is not to be risked.
    if dtype == jnp.bool_ or (jnp.issubdtype(dtype, jnp.floating) and output == jnp.bfloat16):
        return output
    return dtype


@functools.lru_cache(maxsize=256)
def not_elementwise(cell: Cell, lacks: frozenset[str] = frozenset()) -> str | None:
    """Why tiles are not enough for this cell, on a device that lacks some of the operations, or None."""
    try:
        _, *traced = _traced(cell)
    except (TypeError, ValueError, IndexError, NotImplementedError) as error:
        raise_if_carry_is_wrong(error)
        reason = str(error).strip().splitlines()[0][:160]
        return f"the pointwise function does not take tiles [rows, hidden] for its parameters: {reason}"
    for closed in traced:
        if closed.consts:
            return "the pointwise function closes over an array: pass it through params"
        for operation, shapes in _operations(closed.jaxpr):
            if any(shape not in ((), _TILE) for shape in shapes):
                return f"the pointwise function is not elementwise: it or its derivative has {operation}"
            if operation not in ELEMENTWISE:
                return f"the pointwise function or its derivative has {operation}, which kernels lack"
            if operation in lacks:
                return f"the pointwise function or its derivative has {operation}, which kernels of this size lack"
    return None


def raise_if_carry_is_wrong(error: Exception) -> None:
    """Errors about what pointwise returns are the caller's to see, whatever runs it."""
    if str(error).startswith("pointwise must "):
        raise error


@functools.lru_cache(maxsize=256)
def _traced(cell: Cell) -> tuple[Any, Any, Any]:
    """The inputs' shapes, and the equations with their residuals and the pullback as jaxprs, on a small tile."""
    inputs = cell.tiles(_TILE, jax.ShapeDtypeStruct)

    def forward(*tiles):
        (new_carry, y), pull = cell.vjp(*tiles)
        return new_carry, y, jax.tree.leaves(pull)

    def backward(cotangents, *tiles):
        return cell.vjp(*tiles)[1](cotangents)

    cotangents = jax.eval_shape(lambda *tiles: cell.vjp(*tiles)[0], *inputs)
    return inputs, jax.make_jaxpr(forward)(*inputs), jax.make_jaxpr(backward)(cotangents, *inputs)


def _operations(jaxpr: Any):
    """Names and shapes of everything that a jaxpr does, inner functions included."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name, [v.aval.shape for v in (*equation.invars, *equation.outvars)]
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _operations(inner)


def _depending_on(jaxpr: Any, variables: Any) -> set[Any]:
    """All variables of a jaxpr that follow from these."""
    found = set(variables)
    for equation in jaxpr.eqns:
        if any(not hasattr(v, "val") and v in found for v in equation.invars):
            found |= set(equation.outvars)
    return found
