"""The equations of a cell that do not depend on the step: JAX computes them once per call, outside of the loop.

Before the loop that is what follows from the parameters alone, as a gate ``sigmoid(leak)``. After the loop it is
what turns sums over all rows and steps into the gradients of the parameters.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrnn.ops.program.graph import Unsupported
from jaxrnn.ops.program.inline import Equation, Inlined
from jaxrnn.ops.varying import varying_alike

# fmt: off
LINEAR = frozenset((
    "neg", "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "transpose", "reduce_sum", "copy",
    "convert_element_type", "slice", "concatenate", "rev", "cumsum", "stop_gradient", "sub", "add", "add_any",
))
"""Operations that commute with adding up over the steps, if all their arguments are sums over rows."""
# fmt: on

COMBINED = {"neg": "neg", "sub": "sub", "add": "add", "add_any": "add"}
"""Operations on sums that the loop does before adding up, and what a graph calls them. A difference of two sums
over many steps would have fewer correct digits than the sum of differences, and take two sums instead of one."""

LARGEST_KNOWN = 1 << 20
"""Arrays up to this size are computed when the program is made, if they depend on nothing."""


class Total(NamedTuple):
    """A sum over rows: of which node, and what its shape is made from."""

    argument: Any
    over_units: bool
    per_row: bool


class Sum(NamedTuple):
    """A variable that is a sum over rows, and the index of the sum."""

    variable: int
    index: int
    total: Total


class Outside:
    """The equations before and after the loop.

    Attributes:
      known: variables that depend on nothing, not even the parameters, and their values.
      sums: variables that follow from sums over rows.
      derived: variables that the loop needs; the program has them as ``("derived", index)``.
    """

    def __init__(self, traced: Inlined, params: Any):
        self.structure = jax.tree.structure(params)
        self.traced = traced
        self.parameters = traced.inputs[: self.structure.num_leaves]
        self.known: dict[int, Any] = {}
        self.sums: set[int] = set()
        self.derived: list[int] = []
        self._before: list[Equation] = []
        self._after: list[Equation | Sum] = []

    def take_before(self, equation: Equation) -> None:
        self._before.append(equation)
        sizes = [np.prod(self.traced.types[v].shape) for v in equation.outputs]
        if (
            all(isinstance(v, np.ndarray) or v in self.known for v in equation.inputs)
            and max(sizes) <= LARGEST_KNOWN
        ):
            with jax.ensure_compile_time_eval():
                self.known |= zip(equation.outputs, _bind(equation, self.known), strict=True)

    def take_sum(self, taken: Sum) -> None:
        self.sums.add(taken.variable)
        self._after.append(taken)

    def take_after(self, equation: Equation) -> None:
        """An equation on sums over rows. Raises Unsupported if it cannot wait until the loop is over."""
        name, inputs = equation.primitive.name, equation.inputs
        is_sum = [self.is_sum(v) for v in inputs]
        linear = (
            (name in LINEAR and all(is_sum))
            or (name in ("mul", "dot_general") and is_sum.count(True) == 1)
            or (name in ("div", "dynamic_slice", "pad", "gather") and is_sum[0] and not any(is_sum[1:]))
            or (name == "select_n" and not is_sum[0] and all(map(self._is_sum_or_zero, inputs[1:])))
        )
        if not linear:
            raise Unsupported(
                f"the gradient of its parameters has {name}, which cannot wait for the end of the loop"
            )
        self.sums |= set(equation.outputs)
        self._after.append(equation)

    def is_sum(self, variable: Any) -> bool:
        return not isinstance(variable, np.ndarray) and variable in self.sums

    def value(self, variable: Any) -> np.ndarray | None:
        """The value of a literal, or of a variable that depends on nothing."""
        if isinstance(variable, np.ndarray):
            return variable
        return np.asarray(self.known[variable]) if variable in self.known else None

    def _is_sum_or_zero(self, variable: Any) -> bool:
        value = self.value(variable)
        return self.is_sum(variable) if value is None else not value.any()

    def check_gradients(self, dparams: list[Any]) -> None:
        if not all(map(self._is_sum_or_zero, dparams)):
            raise Unsupported("the gradient of its parameters is not a sum over the batch")

    def _parameters(self, params: Any) -> dict[int, Any]:
        """The variables before the loop."""
        values = dict(zip(self.parameters, jax.tree.leaves(params), strict=True)) | self.traced.constants
        for equation in self._before:
            values |= zip(equation.outputs, _bind(equation, values), strict=True)
        return values

    def derive(self, params: Any, hidden: int, dtype: Any) -> Array:
        """The derived parameters, ``[derived, hidden]``."""
        if not self.derived:
            return jnp.zeros((0, hidden), dtype)
        values = self._parameters(params)
        rows = [jnp.asarray(values[v], dtype) for v in self.derived]
        return jnp.stack([jnp.broadcast_to(row.reshape(row.shape[-1:]), (hidden,)) for row in rows])

    def params_gradient(self, dparams: list[Any], params: Any, sums: Array) -> Any:
        """The gradients of the parameters from the sums over all rows and steps, ``[sums, hidden]``."""
        if not dparams:
            return params
        values = self._parameters(params)
        for step in self._after:
            if isinstance(step, Equation):
                values |= zip(step.outputs, _bind(step, values), strict=True)
                continue
            total = sums[step.index]
            if step.total.per_row:
                total = total[0]  # the same number for every unit
            elif step.total.over_units:
                total = total.sum()
            values[step.variable] = total.reshape(self.traced.types[step.variable].shape)
        leaves = [
            values[d].reshape(p.shape) if self.is_sum(d) else jnp.zeros_like(p)
            for p, d in zip(jax.tree.leaves(params), dparams, strict=True)
        ]
        return jax.tree.unflatten(self.structure, leaves)


def _bind(equation: Equation, values: dict[int, Any]) -> list[Any]:
    inputs = [jnp.asarray(v if isinstance(v, np.ndarray) else values[v]) for v in equation.inputs]
    found = equation.primitive.bind(*varying_alike(inputs), **equation.params)
    return list(found) if equation.primitive.multiple_results else [found]
