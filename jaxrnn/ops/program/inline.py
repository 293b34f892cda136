"""The equations of a jaxpr, with the equations of every inner function in place of its call."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal

from jaxrnn.ops.program.graph import Unsupported

CALLS = frozenset(
    (
        "jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
        "remat", "remat2", "checkpoint",
    )
)  # fmt: skip
"""Calls of inner functions. JAX has applied the derivatives of custom_jvp and custom_vjp before."""


class Equation(NamedTuple):
    """``outputs = primitive(*inputs, **params)``. Variables are integers; literals are NumPy arrays.

    ``context`` has the settings of JAX that the equation was traced with.
    """

    primitive: Any
    inputs: list[Any]
    outputs: list[int]
    params: dict[str, Any]
    context: Any = None


class Inlined(NamedTuple):
    """A function as one list of equations.

    Attributes:
      equations: in the order in which they can be computed.
      inputs, outputs: variables; an output may be a literal.
      constants: variables of arrays that the function closes over, and those arrays.
      types: the shape and dtype of every variable.
    """

    equations: list[Equation]
    inputs: list[int]
    outputs: list[Any]
    constants: dict[int, Any]
    types: list[Any]


def inline(closed: Any) -> Inlined:
    """A closed jaxpr as one list of equations."""
    equations: list[Equation] = []
    types: list[Any] = []

    def new(aval: Any) -> int:
        types.append(aval)
        return len(types) - 1

    def run(jaxpr: Any, constants: Any, arguments: Any) -> list[Any]:
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

        def read(variable: Any) -> Any:
            return np.asarray(variable.val) if isinstance(variable, Literal) else values[variable]

        for equation in jaxpr.eqns:
            inputs = [read(v) for v in equation.invars]
            if equation.primitive.name in CALLS:
                outputs = run_call(equation, inputs)
            else:
                outputs = [new(v.aval) for v in equation.outvars]
                equations.append(Equation(equation.primitive, inputs, outputs, equation.params, equation.ctx))
            values.update(zip(equation.outvars, outputs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    constants: dict[int, Any] = {}

    def constant_variable(array: Any) -> int:
        variable = new(np.asarray(array) if isinstance(array, np.ndarray | np.generic) else array.aval)
        constants[variable] = array
        return variable

    def run_call(equation: Any, inputs: list[Any]) -> list[Any]:
        names = ("jaxpr", "call_jaxpr", "fun_jaxpr")
        inner = next((equation.params[name] for name in names if name in equation.params), None)
        if getattr(getattr(inner, "debug_info", None), "func_name", None) == "exp_neg_sq":
            # The derivative of erf in newer versions of JAX takes the bits of a number apart.
            (x,) = equation.invars
            whole = jax.make_jaxpr(lambda x: jax.lax.exp(-x * x))(jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype))
            return run(whole.jaxpr, [], inputs)
        if inner is None:
            raise Unsupported(f"its equations or their derivative have {equation.primitive.name}")
        if hasattr(inner, "consts"):
            return run(inner.jaxpr, [constant_variable(c) for c in inner.consts], inputs)
        return run(inner, [], inputs)

    inputs = [new(v.aval) for v in closed.jaxpr.invars]
    outputs = run(closed.jaxpr, [constant_variable(c) for c in closed.consts], inputs)
    return Inlined(equations, inputs, outputs, constants, types)
