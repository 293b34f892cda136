"""What JAX's operations on single numbers are in a program."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.ops.program.graph import Argument, Graph, constant

# fmt: off
SAME = frozenset((
    "copy", "copy_p", "stop_gradient", "reshape", "squeeze", "expand_dims", "optimization_barrier",
    "broadcast_in_dim",
))
"""Operations that do not change the numbers of a row; the shapes of their results are checked."""

OPERATIONS = {name: name for name in (
    "neg", "abs", "sign", "exp", "log", "log1p", "expm1", "tanh", "logistic", "sqrt", "rsqrt", "erf", "erfc",
    "is_finite", "floor", "ceil", "sin", "cos", "add", "sub", "mul", "div", "max", "min", "pow", "eq", "ne",
    "lt", "le", "gt",
    "ge",
)} | {"add_any": "add", "mul_any": "mul", "and": "logical_and", "or": "logical_or", "xor": "logical_xor"}
"""JAX's names of the operations that a program has, and its own names."""

OTHERS = frozenset((
    "convert_element_type", "reduce_precision", "integer_pow", "square", "one_minus_square", "select_n", "clamp",
    "not", "exp2", "tan", "round",
))
"""Operations that a program has in another form."""
# fmt: on


class Types(NamedTuple):
    """The dtypes of an operation: that of the program, of its first argument (None without one), of its result."""

    program: Any
    given: Any
    result: Any


def is_known(name: str) -> bool:
    """Whether a program may have the operation of JAX with this name."""
    return name in SAME or name in OPERATIONS or name in OTHERS


def node_of(
    graph: Graph, name: str, params: Mapping[str, Any], arguments: Sequence[Argument], types: Types
) -> Argument | None:
    """The node of an operation of JAX, or None if a program does not have it."""
    add = graph.add
    if name in SAME:
        return arguments[0]
    if name in OPERATIONS:
        return add(OPERATIONS[name], *arguments)
    if name == "convert_element_type":
        to_bool = types.result == np.bool_ != types.given
        return add("ne", arguments[0], constant(0)) if to_bool else arguments[0]
    if name == "reduce_precision":
        # jax.checkpoint has it, with the precision that the numbers have anyway.
        info = jnp.finfo(types.program)
        same = (params["exponent_bits"], params["mantissa_bits"]) == (info.nexp, info.nmant)
        return arguments[0] if same else None
    if name == "integer_pow":
        return graph.power(arguments[0], params["y"])
    if name == "square":
        return add("mul", arguments[0], arguments[0])
    if name == "one_minus_square":
        return add("sub", constant(1), add("mul", arguments[0], arguments[0]))
    if name == "tan":
        return add("div", add("sin", arguments[0]), add("cos", arguments[0]))
    if name == "select_n" and len(arguments) == 3:
        return add("select", *arguments)
    if name == "clamp":
        low, x, high = arguments
        return add("min", add("max", x, low), high)
    if name == "not":
        return add("sub", constant(1), arguments[0])
    if name == "exp2":
        return add("pow", constant(2), arguments[0])
    if name == "round":
        even = params["rounding_method"] == jax.lax.RoundingMethod.TO_NEAREST_EVEN
        return add("round_to_even" if even else "round", *arguments)
    return None
