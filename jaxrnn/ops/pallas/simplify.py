"""A function in other operations: those that a compiler has, or that are faster in half precision."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


def _sqrt(x: Array, **_: Any) -> Array:
    return jnp.where((x == 0) | (x == jnp.inf), x, x * lax.rsqrt(x))


def _log1p(x: Array, **_: Any) -> Array:
    # What 1 + x rounds off is put right by the quotient. (Kahan; Goldberg 1991, theorem 4,
    # doi:10.1145/103162.103163.)
    one_more = 1 + x
    near = one_more == 1
    quotient = x / jnp.where(near, 1, one_more - 1)
    return jnp.where(near | (x == jnp.inf), x, lax.log(one_more) * quotient)


def _integer_pow(x: Array, *, y: int) -> Array:
    result, power, left = jnp.ones_like(x), x, abs(y)
    while left:
        if left % 2:
            result = result * power
        left //= 2
        power = power * power if left else power
    return result if y >= 0 else 1 / result


def _itself(x: Array, **_: Any) -> Array:
    return x


REPLACEMENTS: dict[str, Callable[..., Array]] = {
    "add_any": lambda x, y: x + y,
    "copy": _itself,
    "integer_pow": _integer_pow,
    "is_finite": lambda x: x - x == 0,
    "log1p": _log1p,
    "mul_any": lambda x, y: x * y,
    "one_minus_square": lambda x, **_: 1 - x * x,
    "sqrt": _sqrt,
    "stop_gradient": _itself,
    "tan": lambda x, **_: lax.sin(x) / lax.cos(x),
    "zeros_like": jnp.zeros_like,
}


def _quick_logistic(x: Array, **_: Any) -> Array:
    # One division and its special cases less. The argument of rsqrt is at least 1; infinity gives 0, as it should.
    root = lax.rsqrt(1 + lax.exp(-x))
    return root * root


IN_HALF_PRECISION: dict[str, Callable[..., Array]] = {"logistic": _quick_logistic}
"""Right to some 20 bits, where a number has 11 at most."""


CALLS = ("jit", "pjit", "custom_jvp_call")
"""Of functions, whose operations can stand in place of the call."""


def simplify(
    function: Callable[..., Any], replacements: Mapping[str, Callable[..., Array]] = REPLACEMENTS
) -> Callable[..., Any]:
    """The same function of pytrees of arrays, without any of the replaced operations or of :data:`CALLS`.

    >>> jax.make_jaxpr(simplify(jnp.log1p))(1.0).eqns[0].primitive.name
    'add'
    """

    def run(*arguments):
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = _evaluate(traced.jaxpr, traced.consts, jax.tree.leaves(arguments), replacements)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return run


def _evaluate(jaxpr: Any, constants: Any, arguments: Any, replacements: Any) -> list[Any]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))

    def value(variable):
        return variable.val if hasattr(variable, "val") else values[variable]

    for equation in jaxpr.eqns:
        inputs = [value(variable) for variable in equation.invars]
        if equation.primitive.name in replacements:
            outputs = [replacements[equation.primitive.name](*inputs, **equation.params)]
        elif equation.primitive.name in CALLS:
            inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
            outputs = _evaluate(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs, replacements)
        else:
            outputs = equation.primitive.bind(*inputs, **equation.params)
            outputs = outputs if equation.primitive.multiple_results else [outputs]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [value(variable) for variable in jaxpr.outvars]
