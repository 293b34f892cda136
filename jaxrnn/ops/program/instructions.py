"""Puts the nodes of a graph in order, joins pairs of them, and gives each a register."""

from collections import defaultdict
from typing import Any, NamedTuple

from jaxrnn.ops.program.graph import Argument, Constant, Graph

Place = tuple[str, Any]
"""Where a value is: ``("constant", Constant)``, ``("derived", index)``, ``("in", name)``, ``("out", name)``,
``("register", index)`` or ``("row", index)``, a register of one number a row."""


class Instruction(NamedTuple):
    operation: str
    result: Place
    arguments: tuple[Place, ...]


class Program(NamedTuple):
    """Instructions, and how many registers of each kind they use."""

    instructions: list[Instruction]
    registers: int
    row_registers: int


def make_program(graph: Graph, outputs: dict[Any, Argument], inputs: dict[int, Any]) -> Program:
    """The program that computes the outputs.

    Args:
      outputs: name to node.
      inputs: node to name, for the nodes whose values exist already. The inputs of the graph need not be here.
    """
    live = graph.needed(outputs.values(), stop=inputs)
    order = [n for n in sorted(live) if n not in inputs and not graph.is_input(n)]
    code = _joined(graph, order, {n for n in outputs.values() if isinstance(n, int)})
    return _with_registers(graph, code, outputs, inputs)


def _joined(graph: Graph, order: list[int], kept: set[int]) -> dict[int, tuple[Any, ...]]:
    """Node to operation and arguments. A product or difference with a single use becomes a part of that use."""
    uses: dict[Any, int] = defaultdict(int)
    for node in order:
        for argument in graph.nodes[node][1:]:
            uses[argument] += 1
    code: dict[int, tuple[Any, ...]] = {}

    def joinable(argument: Argument, operation: str) -> bool:
        if not isinstance(argument, int) or argument not in code or argument in kept:
            return False
        return uses[argument] == 1 and code[argument][0] == operation and not graph.per_row[argument]

    for node in order:
        operation, *arguments = graph.nodes[node]
        code[node] = (operation, *arguments)
        if graph.per_row[node]:
            continue
        for joined, outer, position, inner in JOINS:
            if operation == outer and joinable(arguments[position], inner):
                part, other = code.pop(arguments[position])[1:], arguments[1 - position]
                code[node] = (joined, other, *part) if joined == "mul_sub" else (joined, *part, other)
                break
    return code


JOINS = [
    ("fma", "add", 0, "mul"),
    ("fma", "add", 1, "mul"),
    ("fms", "sub", 0, "mul"),
    ("fnma", "sub", 1, "mul"),
    ("mul_sub", "mul", 0, "sub"),
    ("mul_sub", "mul", 1, "sub"),
    ("mul3", "mul", 0, "mul"),
    ("mul3", "mul", 1, "mul"),
]
"""Joined operations: fma = a b + c, fms = a b - c, fnma = c - a b, mul_sub = a (b - c), mul3 = a b c; then the
outer operation, which of its arguments is joined, and the operation of that argument."""


def _with_registers(
    graph: Graph, code: dict[int, tuple[Any, ...]], outputs: dict[Any, Argument], inputs: dict[int, Any]
) -> Program:
    names: dict[Argument, list[Any]] = defaultdict(list)
    for name, node in outputs.items():
        names[node].append(name)
    last_use = {a: node for node in code for a in code[node][1:] if isinstance(a, int) and a not in names}
    place: dict[int, Place] = {}
    free: dict[str, list[int]] = {"register": [], "row": []}
    used = {"register": 0, "row": 0}
    instructions = []

    def find(argument: Argument) -> Place:
        if isinstance(argument, Constant):
            return "constant", argument
        if argument in inputs:
            return "in", inputs[argument]
        if graph.is_input(argument):
            name = graph.name_of(argument)
            return ("derived", name[1]) if name[0] == "derived" else ("in", name)
        return place[argument]

    def take(kind: str) -> Place:
        if free[kind]:
            return kind, free[kind].pop()
        used[kind] += 1
        return kind, used[kind] - 1

    for node, (operation, *arguments) in code.items():
        places = tuple(find(a) for a in arguments)
        # An operation reads its arguments before it writes, so a register may be both.
        for kind, index in {place[a] for a in arguments if last_use.get(a) == node and a in place}:
            free[kind].append(index)
        if graph.per_row[node]:
            place[node] = take("row")
        elif node in names:
            place[node] = ("out", names[node][0])
        else:
            place[node] = take("register")
        instructions.append(Instruction(operation, place[node], places))
    for node, of_node in names.items():
        where = find(node)
        instructions += [Instruction("copy", ("out", n), (where,)) for n in of_node if where != ("out", n)]
    return Program(instructions, used["register"], used["row"])
