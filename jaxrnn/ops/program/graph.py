"""A graph of vector operations in which every value exists once, with the simplifications that are exact."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np


class Unsupported(Exception):
    """The equations of a cell cannot be turned into a program. The message says why."""


@dataclass(frozen=True)
class Constant:
    """A number that is known when the program is made. The sign tells 0.0 from -0.0."""

    value: float
    negative: bool


Argument = int | Constant
"""An argument of a node: the number of another node, or a constant."""


def constant(value: Any) -> Constant:
    return Constant(float(value), math.copysign(1.0, float(value)) < 0)


COMMUTATIVE = frozenset(("add", "mul", "max", "min", "eq", "ne", "logical_and", "logical_or", "logical_xor"))

REDUCTIONS = {"reduce_sum": "row_sum", "reduce_max": "row_max", "reduce_min": "row_min"}
"""JAX's reductions over units, and the operations of a program. Their result is one number a row."""

FOLDED = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative,
    "max": np.maximum, "min": np.minimum, "abs": np.abs, "sign": np.sign, "exp": np.exp, "log": np.log,
    "log1p": np.log1p, "expm1": np.expm1, "tanh": np.tanh, "sqrt": np.sqrt, "pow": np.power, "floor": np.floor,
    "ceil": np.ceil, "sin": np.sin, "cos": np.cos, "eq": np.equal, "ne": np.not_equal, "lt": np.less,
    "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "logical_and": np.logical_and,
    "logical_or": np.logical_or, "logical_xor": np.logical_xor, "is_finite": np.isfinite,
}  # fmt: skip
"""What is computed when the program is made, if all arguments are constants. True is 1.0, false is 0.0."""


class Graph:
    """Nodes ``(operation, *arguments)``. Equal nodes have the same number.

    An input is the node ``("input", name)`` with a name such as ``("carry", 0)``. Nodes are in an order in which
    they can be computed.
    """

    def __init__(self) -> None:
        self.nodes: list[tuple[Any, ...]] = []
        self.per_row: list[bool] = []
        """For every node, whether it is one number a row, and not one number a unit."""
        self._numbers: dict[tuple[Any, ...], int] = {}

    def input(self, *name: Any) -> int:
        return self._node(("input", name), per_row=False)

    def find_input(self, *name: Any) -> int | None:
        return self._numbers.get(("input", name))

    def find_sum(self, a: int, b: int) -> int | None:
        return self._numbers.get(("add", *sorted((a, b))))

    def is_input(self, node: int) -> bool:
        return self.nodes[node][0] == "input"

    def name_of(self, node: int) -> tuple[Any, ...]:
        """The name of an input."""
        return self.nodes[node][1]

    def arguments(self, node: int) -> list[int]:
        """The nodes among the arguments of a node."""
        return [] if self.is_input(node) else [a for a in self.nodes[node][1:] if isinstance(a, int)]

    def needed(self, roots: Iterable[Argument], stop: Iterable[int] = ()) -> set[int]:
        """All nodes that the roots are computed from, but nothing behind the nodes of ``stop``."""
        todo, found, stop = [r for r in roots if isinstance(r, int)], set(), set(stop)
        while todo:
            node = todo.pop()
            if node not in found:
                found.add(node)
                todo += [] if node in stop else self.arguments(node)
        return found

    def reduce(self, operation: str, argument: int) -> int:
        return self._node((operation, argument), per_row=True)

    def add(self, operation: str, *arguments: Argument) -> Argument:
        """The node of an operation, or what it can be simplified to."""
        numbers = [np.float64(a.value) for a in arguments if isinstance(a, Constant)]
        if operation in FOLDED and len(numbers) == len(arguments):
            with np.errstate(all="ignore"):
                return constant(FOLDED[operation](*numbers))
        if operation in COMMUTATIVE:
            arguments = tuple(sorted(arguments, key=_order))
        simpler = self._simplified(operation, *arguments)
        if simpler is not None:
            return simpler
        per_row = all(self.per_row[a] for a in arguments if isinstance(a, int))
        return self._node((operation, *arguments), per_row)

    def power(self, x: Argument, exponent: int) -> Argument:
        """x to an integer power, by repeated squaring."""
        if exponent < 0:
            return self.add("div", constant(1), self.power(x, -exponent))
        if exponent == 0:
            return constant(1)
        half = self.power(x, exponent // 2)
        square = self.add("mul", half, half)
        return self.add("mul", square, x) if exponent % 2 else square

    def _node(self, key: tuple[Any, ...], per_row: bool) -> int:
        if key not in self._numbers:
            self._numbers[key] = len(self.nodes)
            self.nodes.append(key)
            self.per_row.append(per_row)
        return self._numbers[key]

    def _simplified(self, operation: str, *arguments: Argument) -> Argument | None:
        a: Any = arguments[0]
        b: Any = arguments[1] if len(arguments) > 1 else None
        if operation == "select":
            yes: Any = [*arguments][-1]
            if isinstance(a, Constant):
                return yes if a.value else b
            return b if b == yes else None
        if operation == "neg" and self._is_negated(a):
            return self.nodes[a][1]
        if operation == "add":
            if _is(b, 0):
                return a
            if self._is_negated(b):
                return self.add("sub", a, self.nodes[b][1])
            if self._is_negated(a):
                return self.add("sub", b, self.nodes[a][1])
        if operation == "sub":
            if _is(b, 0):
                return a
            if self._is_negated(b):
                return self.add("add", a, self.nodes[b][1])
        if operation == "mul":
            if _is(b, 1):
                return a
            if _is(b, -1):
                return self.add("neg", a)
        if operation == "div" and _is_power_of_two(b):  # whose reciprocal is exact
            return self.add("mul", a, constant(1 / b.value))
        return None

    def _is_negated(self, argument: Any) -> bool:
        return isinstance(argument, int) and self.nodes[argument][0] == "neg"


def _is(argument: Any, value: float) -> bool:
    return isinstance(argument, Constant) and argument.value == value


def _is_power_of_two(argument: Any) -> bool:
    if not isinstance(argument, Constant):
        return False
    fraction, exponent = math.frexp(argument.value)
    return abs(fraction) == 0.5 and abs(exponent) < 100


def _order(argument: Argument) -> tuple[bool, float, bool]:
    """Nodes come first, constants last."""
    if isinstance(argument, Constant):
        return True, argument.value, argument.negative
    return False, argument, False
