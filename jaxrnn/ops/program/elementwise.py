"""The arithmetic of a function on its arrays, element by element, as a few programs.

An optimiser computes the same for every array of parameters. Here the equations of its trace are sorted: those on
arrays of one shape that depend on each other become a program, and arrays of other shapes for which the equations
are the same share it. All else stays as it is: scalars, and operations that are not element by element.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn.ops.program.graph import Argument, Graph, constant
from jaxrnn.ops.program.inline import Equation, Inlined
from jaxrnn.ops.program.instructions import Program, make_program
from jaxrnn.ops.program.operations import Types, is_known, node_of

_DTYPES = frozenset(("float32", "float64"))


class Group(NamedTuple):
    """The variables of arrays of one shape: what a program reads, and what it writes."""

    arrays: list[int]
    results: list[int]


class Part(NamedTuple):
    """A program for some groups of arrays.

    Its places are ``("in", ("number", index))``, ``("in", ("array", index))`` and ``("out", ("result", index))``.
    Truth values are 1 and 0.

    Attributes:
      program: what is computed of every element.
      dtype: in which it is computed.
      numbers: variables of shape (), which all elements share.
      groups: each with as many arrays and results as the others.
      condition: the place of a number; where that is 0, a result is a copy of the array whose place is in
        ``otherwise``. None: everything is always computed.
    """

    program: Program
    dtype: str
    numbers: list[int]
    groups: list[Group]
    condition: int | None
    otherwise: list[int]


def divide(traced: Inlined) -> list[Equation | Part]:
    """What computes the outputs of a function, in an order in which it can be computed.

    The function must have no effects: equations that no output depends on are left out.
    """
    return _Divider(traced).steps()


class _Divider:
    def __init__(self, traced: Inlined):
        self._traced, self._types = traced, traced.types
        self._numbers: dict[int, Any] = {}
        """For variables of arrays that repeat a number, that number; for numbers that are computed again, the
        first of them."""
        self._computed: dict[Any, int] = {}
        self._dtype_of: dict[int, str | None] = {}
        """For each equation, by its place, the dtype of its arithmetic on arrays, or None if it has none."""
        for place, equation in enumerate(traced.equations):
            self._note_number(equation)
            self._dtype_of[place] = self._arithmetic(equation)
        self._needed = self._find_needed()
        self._outputs = {v for v in traced.outputs if not isinstance(v, np.ndarray)}
        self._readers: dict[int, list[int]] = defaultdict(list)
        for place in self._needed:
            for variable in self._read(place):
                self._readers[variable].append(place)

    def steps(self) -> list[Equation | Part]:
        """Level by level: what needs a result of a program waits for all programs of that level."""
        others: dict[int, list[Equation]] = defaultdict(list)
        arithmetic: dict[tuple[int, str], list[int]] = defaultdict(list)
        level: dict[int, int] = defaultdict(int)
        of_program: dict[int, str] = {}
        for place in self._needed:
            equation, dtype = self._traced.equations[place], self._dtype_of[place]
            # A program may read what another equation of its own level and dtype has computed.
            at = max(
                (level[v] + (of_program.get(v, dtype) != dtype) for v in self._read(place)),
                default=0,
            )
            level |= dict.fromkeys(equation.outputs, at)
            if dtype is None:
                others[at].append(equation)
            else:
                of_program |= dict.fromkeys(equation.outputs, dtype)
                arithmetic[at, dtype].append(place)
        steps: list[Equation | Part] = []
        for at in range(1 + max(level.values(), default=0)):
            steps += others[at]
            for (where, dtype), places in arithmetic.items():
                steps += self._parts(places, dtype) if where == at else ()
        return steps

    def _shape(self, variable: Any) -> tuple[int, ...]:
        return variable.shape if isinstance(variable, np.ndarray) else self._types[variable].shape

    def _dtype(self, variable: Any) -> Any:
        return variable.dtype if isinstance(variable, np.ndarray) else self._types[variable].dtype

    def _note_number(self, equation: Equation) -> None:
        """Functions compute the same number for every array, as a learning rate in the dtype of each."""
        name, outputs = equation.primitive.name, equation.outputs
        numbers = [self._number(variable) for variable in equation.inputs]
        if any(number is None for number in numbers) or len(outputs) != 1:
            return
        if name == "broadcast_in_dim":
            self._numbers[outputs[0]] = numbers[0]
        elif name == "convert_element_type" and isinstance(numbers[0], np.ndarray):
            self._numbers[outputs[0]] = numbers[0].astype(self._dtype(outputs[0]))
        elif self._shape(outputs[0]) == () and is_known(name):
            given = [(n.item(), n.dtype) if isinstance(n, np.ndarray) else n for n in numbers]
            what = name, str(equation.params), str(given)
            self._numbers[outputs[0]] = self._computed.setdefault(what, outputs[0])

    def _number(self, variable: Any) -> Any:
        """The literal or variable of shape () that all elements share, or None for an array."""
        if not isinstance(variable, np.ndarray):
            variable = self._numbers.get(variable, variable)
        return variable if self._shape(variable) == () else None

    def _arithmetic(self, equation: Equation) -> str | None:
        if not is_known(equation.primitive.name) or len(equation.outputs) != 1:
            return None
        shape = self._shape(equation.outputs[0])
        arrays = [v for v in equation.inputs if self._number(v) is None]
        if not arrays or 0 in shape or any(self._shape(v) != shape for v in arrays):
            return None
        floats = {self._dtype(v).name for v in (*equation.inputs, *equation.outputs)} - {"bool"}
        if len(floats) != 1 or not floats <= _DTYPES:
            return None
        (dtype,), graph = floats, Graph()
        if dtype == "float64" and not jax.config.read("jax_enable_x64"):  # it was allowed for a while
            return None
        inputs = [graph.input("array", index) for index in range(len(equation.inputs))]
        return None if self._node(graph, equation, inputs, dtype) is None else dtype

    def _node(
        self, graph: Graph, equation: Equation, arguments: Iterable[Argument], dtype: str
    ) -> Argument | None:
        types = Types(dtype, self._dtype(equation.inputs[0]), self._dtype(equation.outputs[0]))
        return node_of(graph, equation.primitive.name, equation.params, [*arguments], types)

    def _read(self, place: int) -> list[int]:
        """The variables that an equation reads; in a program, a number in place of an array that repeats it."""
        inputs = self._traced.equations[place].inputs
        if self._dtype_of[place] is not None:
            inputs = [v if (number := self._number(v)) is None else number for v in inputs]
        return [v for v in inputs if not isinstance(v, np.ndarray)]

    def _find_needed(self) -> list[int]:
        wanted, needed = {v for v in self._traced.outputs if not isinstance(v, np.ndarray)}, list[int]()
        for place in reversed(range(len(self._traced.equations))):
            if wanted.intersection(self._traced.equations[place].outputs):
                wanted |= set(self._read(place))
                needed.append(place)
        return needed[::-1]

    def _parts(self, places: list[int], dtype: str) -> list[Part]:
        """The programs of one level."""
        found: dict[Any, list[tuple[list[int], _Names]]] = defaultdict(list)
        for connected in self._connected(places):
            names = _Names()
            form = [self._form(place, names) for place in connected]
            names.results = [v for v in names.made if self._is_read_outside(v, connected)]
            found[tuple(form), tuple(names.arrays.index(v) for v in names.results)].append((connected, names))
        parts = []
        for same in found.values():
            connected, names = same[0]
            groups = [Group([v for v in n.arrays if v not in n.made], n.results) for _, n in same]
            graph, outputs = self._graph(connected, names, dtype)
            condition, otherwise, outputs = _with_condition(graph, outputs)
            program = make_program(graph, {("result", index): node for index, node in enumerate(outputs)}, {})
            parts.append(Part(program, dtype, names.numbers, groups, condition, otherwise))
        return parts

    def _connected(self, places: list[int]) -> list[list[int]]:
        """Equations that share an array, directly or through others, in their order."""
        parent: dict[int, int] = {}

        def root(variable: int) -> int:
            while parent.setdefault(variable, variable) != variable:
                variable = parent[variable]
            return variable

        for place in places:
            first, *others = self._arrays(place)
            for other in others:
                parent[root(other)] = root(first)
        together: dict[int, list[int]] = defaultdict(list)
        for place in places:
            together[root(self._arrays(place)[0])].append(place)
        return list(together.values())

    def _arrays(self, place: int) -> list[int]:
        equation = self._traced.equations[place]
        return [*(v for v in self._read(place) if self._shape(v) != ()), *equation.outputs]

    def _form(self, place: int, names: "_Names") -> tuple[Any, ...]:
        """What an equation does, with places in ``names`` for its variables."""
        equation = self._traced.equations[place]
        arguments = [self._argument(variable, names) for variable in equation.inputs]
        (result,) = equation.outputs
        names.arrays.append(result)
        names.made[result] = place
        params = {k: str(v) for k, v in equation.params.items() if k in ("y", "rounding_method")}
        types = self._dtype(equation.inputs[0]).name, self._dtype(result).name
        return equation.primitive.name, *arguments, *types, *params.items()

    def _argument(self, variable: Any, names: "_Names") -> tuple[str, Any]:
        number = self._number(variable)
        if number is None:
            if variable not in names.arrays:
                names.arrays.append(variable)
            return "array", names.arrays.index(variable)
        if isinstance(number, np.ndarray):
            return "constant", constant(number)
        if number not in names.numbers:
            names.numbers.append(number)
        return "number", number  # groups with other numbers are other parts

    def _is_read_outside(self, variable: int, connected: list[int]) -> bool:
        inside = set(connected)
        return variable in self._outputs or any(place not in inside for place in self._readers[variable])

    def _graph(self, connected: list[int], names: "_Names", dtype: str) -> tuple[Graph, list[Argument]]:
        graph = Graph()
        given = [v for v in names.arrays if v not in names.made]
        values: dict[int, Argument] = {v: graph.input("array", index) for index, v in enumerate(given)}
        values |= {v: graph.input("number", index) for index, v in enumerate(names.numbers)}
        for place in connected:
            equation = self._traced.equations[place]
            numbers = [v if (number := self._number(v)) is None else number for v in equation.inputs]
            arguments = [constant(v) if isinstance(v, np.ndarray) else values[v] for v in numbers]
            node = self._node(graph, equation, arguments, dtype)
            assert node is not None
            values[equation.outputs[0]] = node
        return graph, [values[v] for v in names.results]


def _with_condition(graph: Graph, outputs: list[Argument]) -> tuple[int | None, list[int], list[Argument]]:
    """The condition under which outputs are computed, the array that each is otherwise, and what is computed."""
    conditions, otherwise, computed = set(), [], []
    for node in outputs:
        operation, *arguments = graph.nodes[node] if isinstance(node, int) else ("constant",)
        if operation != "select":
            return None, [], outputs
        inputs = [graph.name_of(a) if isinstance(a, int) and graph.is_input(a) else ("", 0) for a in arguments]
        if [name for name, _ in inputs[:2]] != ["number", "array"]:
            return None, [], outputs
        conditions.add(inputs[0][1])
        otherwise.append(inputs[1][1])
        computed.append(arguments[2])
    return (conditions.pop(), otherwise, computed) if len(conditions) == 1 else (None, [], outputs)


class _Names:
    """The variables of connected equations, in the order in which they appear.

    Attributes:
      arrays: given and made.
      made: those that an equation makes, with its place.
      numbers: variables of shape ().
      results: those of ``made`` that others read.
    """

    def __init__(self) -> None:
        self.arrays: list[int] = []
        self.made: dict[int, int] = {}
        self.numbers: list[int] = []
        self.results: list[int] = []
