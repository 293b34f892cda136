"""What the forward loop saves for the backward loop: an exact minimum cut through the graph of a cell."""

from collections import defaultdict, deque
from typing import Any

from jaxrnn.ops.program.graph import Argument, Graph

SAVE = 1.0
"""The cost of saving a number: a write to memory and a read."""

CHEAP = 0.06
"""The cost of computing a cheap operation again, for one number."""

EXPENSIVE = {
    "exp": 0.6, "log": 0.6, "log1p": 0.7, "expm1": 0.7, "tanh": 0.6, "logistic": 0.6, "erf": 1.5, "erfc": 1.5,
    "pow": 2.0, "sin": 1.5, "cos": 1.5, "row_sum": 0.1, "row_max": 0.1, "row_min": 0.1, "div": 0.12,
    "sqrt": 0.15, "rsqrt": 0.15,
}  # fmt: skip
"""The cost of the others."""

MAXIMA = frozenset(("max", "min", "row_max", "row_min"))
"""Operations whose derivative may look for the argument that equals the result. Then the result is not saved: an
argument that is computed again by other instructions may be rounded in another way, and equal it no longer."""

NEVER, INFINITE = 1e3, 1e9
"""Costs that no plan pays. The smaller one is added to others, whose last digits must count."""


def saved_nodes(graph: Graph, carry: list[Argument], y: Argument, gradients: list[Argument]) -> list[int]:
    """The nodes that the backward loop reads; it computes everything else again.

    Args:
      carry, y: the nodes of the new carry and of the output.
      gradients: the nodes of everything that the backward loop computes.

    Some values are there in any case and cost nothing: the output, the hidden state and the derived parameters. If
    a part of the old carry is saved, the part of the new carry is the one saved a step later.
    """
    late = _after_cotangents(graph)
    wanted = graph.needed(gradients)
    needed = {a for node in wanted & late for a in graph.arguments(node)} - late
    needed |= {node for node in gradients if isinstance(node, int) and node not in late}
    free = {node for node in [*carry, y] if isinstance(node, int)}
    equals = (a for node in wanted if graph.nodes[node][0] == "eq" for a in graph.arguments(node))
    compared = {node for node in equals if graph.nodes[node][0] in MAXIMA}

    def save_cost(node: int) -> float:
        if node in compared:
            return NEVER
        if node in free:
            return 0.0
        if graph.is_input(node):
            kind, index = graph.name_of(node)
            if kind == "derived" or (kind == "carry" and index == len(carry) - 1):
                return 0.0
        return SAVE

    # Node v is needed (n_v) or computed again (c_v); c_v requires n_v and n_u of its arguments u. The cost is
    # the sum of save_v (n_v - c_v) + again_v c_v: a closure problem. The source's side is what is true.
    edges: dict[tuple[Any, Any], float] = {}
    early = graph.needed(needed)
    for node in early:
        need, again = ("needed", node), ("again", node)
        cost = save_cost(node)
        edges[need, "false"] = cost + 1e-6  # of two plans with the same cost, the one that reads fewer arrays
        gain = cost - EXPENSIVE.get(graph.nodes[node][0], CHEAP)
        if graph.is_input(node) or gain <= 0:
            continue
        edges["true", again] = gain
        edges[again, need] = INFINITE
        for argument in graph.arguments(node):
            edges[again, ("needed", argument)] = INFINITE
    for node in needed:
        edges["true", ("needed", node)] = INFINITE
    side = _minimum_cut(edges, "true", "false")
    return [node for node in sorted(early) if ("needed", node) in side and ("again", node) not in side]


def _after_cotangents(graph: Graph) -> set[int]:
    """The nodes that depend on the gradients of the loss, and so can be computed in the backward loop only."""
    late = set()
    for node in range(len(graph.nodes)):
        if graph.is_input(node):
            if graph.name_of(node)[0] in ("dcarry", "dy"):
                late.add(node)
        elif any(a in late for a in graph.arguments(node)):
            late.add(node)
    return late


def _minimum_cut(edges: dict[tuple[Any, Any], float], source: Any, sink: Any) -> set[Any]:
    """The nodes on the source's side of a minimum cut. Edges: ``{(from, to): capacity}``.

    Augments along shortest paths (Edmonds and Karp 1972, doi:10.1145/321694.321699); the graphs are small.
    """
    residual: dict[Any, dict[Any, float]] = defaultdict(dict)
    for (start, end), capacity in edges.items():
        residual[start][end] = residual[start].get(end, 0) + capacity
        residual[end].setdefault(start, 0)
    while True:
        came_from, queue = {source: None}, deque([source])
        while queue and sink not in came_from:
            node = queue.popleft()
            for following, capacity in residual[node].items():
                if capacity > 1e-9 and following not in came_from:
                    came_from[following] = node
                    queue.append(following)
        if sink not in came_from:
            return set(came_from)
        path, node = [], sink
        while came_from[node] is not None:
            path.append((came_from[node], node))
            node = came_from[node]
        least = min(residual[start][end] for start, end in path)
        for start, end in path:
            residual[start][end] -= least
            residual[end][start] += least
