"""The equations of any cell as ONNX operators: its pointwise function is traced and translated.

Every value that depends on the carry or on the inputs has the batch as its first axis. No translated operation may
touch that axis, so that the operators work for a batch of any size, although the function is traced for one: its
number is a prime that no other axis is likely to have. What depends on the cell's parameters alone is computed
here and becomes a constant.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.export.onnx_graph import Graph

ELEMENTWISE = {
    "abs": "Abs",
    "acos": "Acos",
    "acosh": "Acosh",
    "add": "Add",
    "add_any": "Add",
    "and": "And",
    "asin": "Asin",
    "asinh": "Asinh",
    "atan": "Atan",
    "atanh": "Atanh",
    "ceil": "Ceil",
    "cos": "Cos",
    "cosh": "Cosh",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "not": "Not",
    "or": "Or",
    "pow": "Pow",
    "sign": "Sign",
    "sin": "Sin",
    "sinh": "Sinh",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tan": "Tan",
    "tanh": "Tanh",
}
"""JAX's operations that one ONNX operator computes element by element."""

_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint")
_UNCHANGED = ("copy", "optimization_barrier", "reduce_precision", "stop_gradient")
_REDUCTIONS = {"reduce_max": "ReduceMax", "reduce_min": "ReduceMin", "reduce_sum": "ReduceSum"}

_NARROW_INTEGERS = (jnp.int8, jnp.int16, jnp.uint8, jnp.uint16, jnp.uint32)
"""Types that are int32 in the graph, because ONNX has few operators for them."""

_ARITHMETIC = ("abs", "add", "add_any", "div", "integer_pow", "mul", "neg", "pow", "reduce_sum", "square", "sub")
"""What may leave the range of a narrow integer, where JAX goes on at the other end of the range."""

Value = str | np.ndarray
"""The name of a value in the graph, or an array that is known already."""


class UntranslatableError(ValueError):
    """An operation that has no translation; the message is its name, and what it does where that matters."""


def translate(function: Callable[..., Any], body: Graph, arguments: Any, hidden: int) -> list[str]:
    """Append a function of arrays ``[batch, hidden]`` to a graph.

    Args:
      function: what to trace.
      body: what to append to.
      arguments: of the function, with the name of a value in place of every array.
      hidden: size of the last axis.

    Returns:
      The names of the leaves of what the function returns.

    Raises:
      UntranslatableError: an operation cannot be translated.
    """
    batch = 1009 if hidden != 1009 else 1013
    shape = jax.ShapeDtypeStruct((batch, hidden), jnp.float32)
    leaves = jax.tree.leaves(arguments)
    traced = jax.make_jaxpr(function)(*jax.tree.map(lambda _: shape, arguments))
    translation = _Translation(body, batch)
    results = translation.run(traced.jaxpr, traced.consts, leaves)
    names = []
    for value, variable in zip(results, traced.jaxpr.outvars):
        if variable.aval.shape != (batch, hidden) or not jnp.issubdtype(variable.aval.dtype, jnp.floating):
            raise UntranslatableError(f"a result that is {variable.aval.str_short()}")
        if not isinstance(value, str):  # it depends on no input: the same for every row
            value = body.add("Expand", translation.constant(value), body.add("Shape", leaves[0]))
        names.append(value)
    return names


class _Translation:
    def __init__(self, body: Graph, batch: int):
        self.body, self.batch = body, batch

    def run(self, jaxpr: Any, constants: Any, arguments: Any) -> list[Value]:
        values: dict[Any, Value] = dict(zip(jaxpr.constvars, map(np.asarray, constants)))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))

        def value(variable: Any) -> Value:
            return np.asarray(variable.val) if hasattr(variable, "val") else values[variable]

        for equation in jaxpr.eqns:
            results = self._equation(equation, [value(variable) for variable in equation.invars])
            values |= dict(zip(equation.outvars, results, strict=True))
        return [value(variable) for variable in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[Value]) -> list[Value]:
        name, params = equation.primitive.name, equation.params
        if name in _CALLS:
            inner = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
            closed = hasattr(inner, "consts")
            return self.run(inner.jaxpr if closed else inner, inner.consts if closed else (), inputs)
        if not any(isinstance(value, str) for value in inputs):
            results = equation.primitive.bind(*map(jnp.asarray, inputs), **params)
            return [np.asarray(r) for r in (results if equation.primitive.multiple_results else [results])]
        if name in _UNCHANGED:
            return inputs
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        shapes = [variable.aval.shape for variable in equation.invars]
        if name == "split" and params["axis"] != 0:
            sizes = params["sizes"]
            return list(
                self.body.add_many(
                    "Split", [names[0], self.body.integers(*sizes)], len(sizes), axis=params["axis"]
                )
            )
        dtype, result_dtype = equation.invars[0].aval.dtype, equation.outvars[0].aval.dtype
        if name in _ARITHMETIC and result_dtype in _NARROW_INTEGERS:
            raise UntranslatableError(f"{name} in {result_dtype}")
        if name in ELEMENTWISE and (name == "eq" or (dtype == jnp.bool_) == (name in ("and", "not", "or"))):
            return [self.body.add(ELEMENTWISE[name], *names)]
        if name == "select_n" and dtype != jnp.bool_:
            raise UntranslatableError(f"select_n with {dtype} to select by")
        result = self._elementwise(name, names, params)
        if result is None:
            known = [not isinstance(value, str) for value in inputs]
            result = self._within_rows(name, names, params, shapes, known, equation.outvars[0].aval.shape)
        if result is None:
            over_batch = name in _REDUCTIONS and 0 in params["axes"]
            raise UntranslatableError(f"{name} over the batch" if over_batch else name)
        return [result]

    def _elementwise(self, name: str, names: list[str], params: dict[str, Any]) -> str | None:
        """Operations that take more than one operator."""
        add, constant = self.body.add, self.body.constant
        match name, names:
            case "square", [x]:
                return add("Mul", x, x)
            case "integer_pow", [x]:
                return add("Pow", x, constant(params["y"]))
            case "rsqrt", [x]:
                return add("Reciprocal", add("Sqrt", x))
            case "exp2", [x]:
                return add("Pow", constant(2), x)
            case "log1p", [x]:
                # Near 0 the sum is rounded to few digits of x. The rest is added to first order.
                u = add("Add", x, constant(1))
                rounded, log = add("Sub", u, constant(1)), add("Log", u)
                corrected = add("Sub", log, add("Div", add("Sub", rounded, x), u))
                return add("Where", add("Equal", rounded, x), log, corrected)
            case "expm1", [x]:
                # exp(x) - 1 would keep few digits near 0; tanh(x / 2) keeps them all.
                tanh = add("Tanh", add("Mul", x, constant(0.5)))
                return add("Mul", tanh, add("Add", add("Exp", x), constant(1)))
            case "erfc", [x]:
                return add("Sub", constant(1), add("Erf", x))
            case "cbrt", [x]:
                return add("Mul", add("Sign", x), add("Pow", add("Abs", x), constant(1 / 3)))
            case "rem", [x, y]:
                return add("Mod", x, y, fmod=1)  # the sign is that of x
            case "round", [x] if params["rounding_method"] == jax.lax.RoundingMethod.TO_NEAREST_EVEN:
                return add("Round", x)
            case "round", [x]:
                return add("Mul", add("Sign", x), add("Floor", add("Add", add("Abs", x), constant(0.5))))
            case "is_finite", [x]:
                return add("Not", add("Or", add("IsInf", x), add("IsNaN", x)))
            case "ne", [x, y]:
                return add("Not", add("Equal", x, y))
            case "clamp", [low, x, high]:
                return add("Min", add("Max", x, low), high)
            case "select_n", [condition, no, yes]:
                return add("Where", condition, yes, no)
            case "convert_element_type", [x]:
                return add("Cast", x, to=_tensor_type(params["new_dtype"]))
        return None

    def _within_rows(
        self,
        name: str,
        names: list[str],
        params: dict[str, Any],
        shapes: list[Any],
        known: list[bool],
        result: tuple[int, ...],
    ) -> str | None:
        """Operations that mix the units of a row, or change its shape, and leave the batch alone."""
        body, x, shape = self.body, names[0], shapes[0]
        if shape[:1] != (self.batch,) or result[:1] != (self.batch,):
            return None
        if name in _REDUCTIONS and 0 not in params["axes"]:
            return body.reduced(_REDUCTIONS[name], x, *params["axes"])
        if name in ("reshape", "squeeze", "expand_dims"):
            return body.add("Reshape", x, body.integers(0, *result[1:]))  # 0: as it is
        if name == "broadcast_in_dim" and params["broadcast_dimensions"][0] == 0:
            middle = [1] * len(result)
            for size, place in zip(shape, params["broadcast_dimensions"]):
                middle[place] = size
            if len(shape) < len(result):
                x = body.add("Reshape", x, body.integers(0, *middle[1:]))
            return x if tuple(middle) == result else body.add("Expand", x, body.integers(1, *result[1:]))
        if name == "concatenate" and params["dimension"] != 0 and not any(known):
            return body.add("Concat", *names, axis=params["dimension"])
        if name == "slice":
            bounds = [body.integers(*params[bound][1:]) for bound in ("start_indices", "limit_indices")]
            steps = [] if params["strides"] is None else [body.integers(*params["strides"][1:])]
            return body.add("Slice", x, *bounds, body.integers(*range(1, len(shape))), *steps)
        if name == "rev" and 0 not in params["dimensions"]:
            axes, lowest = params["dimensions"], np.iinfo(np.int64).min
            minus = body.integers(*[-1] * len(axes))
            return body.add("Slice", x, minus, body.integers(*[lowest] * len(axes)), body.integers(*axes), minus)
        plain = name == "dot_general" and params["dimension_numbers"] == (((1,), (0,)), ((), ()))
        if plain and known == [False, True] and len(shape) == len(shapes[1]) == 2:
            return body.add("MatMul", *names)
        return None

    def constant(self, value: np.ndarray) -> str:
        if value.ndim and len(value) == self.batch:
            if not np.array_equal(value, np.broadcast_to(value[:1], value.shape), equal_nan=True):
                raise UntranslatableError("an array that differs from row to row of the batch")
            value = value[:1]
        floating = jnp.issubdtype(value.dtype, jnp.floating)
        if value.dtype in _NARROW_INTEGERS:
            return self.body.constant(value, np.int32)
        return self.body.constant(value, np.float32 if floating else value.dtype)


def _tensor_type(dtype: Any) -> int:
    """ONNX's number of a type: half precision is not rounded to."""
    if dtype == jnp.bool_:
        return 9
    if jnp.issubdtype(dtype, jnp.floating):
        return 1
    if jnp.issubdtype(dtype, jnp.integer):
        return 7 if jnp.dtype(dtype).itemsize == 8 else 6
    raise UntranslatableError(f"convert_element_type to {dtype}")
