"""A cell's pointwise function and its derivative as one graph.

``jax.vjp`` of the pointwise function is traced once. Every variable of the trace is one of four kinds:

- it follows from the parameters alone: JAX computes it once per call, before the loop;
- it is ``[*batch, hidden]``: a part of the graph;
- it is one number a row, ``[*batch]`` or ``[*batch, 1]``, from a reduction over units: a part of the graph;
- it follows from a sum over rows, as the gradients of parameters do. Those are linear in the sums, so the loop
  adds up the sums over all steps, and JAX computes the rest once per call, after the loop.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from jaxrnn.ops.program import operations
from jaxrnn.ops.program.graph import REDUCTIONS, Argument, Constant, Graph, Unsupported, constant
from jaxrnn.ops.program.inline import Equation, inline
from jaxrnn.ops.program.outside import COMBINED, Outside, Sum, Total

DESCRIPTIONS = {
    "dot_general": " (a matrix product)",
    "concatenate": " (a join of arrays)",
    "slice": " (a part of the units)",
    "split": " (a part of the units)",
    "random_bits": " (random numbers)",
    "transpose": " (exchanged axes)",
}
"""What operations do whose name does not say it."""

BATCH_SIZES = (1000003, 1000033, 1000037, 1000039, 1000081)
"""The batch is traced with sizes that no parameter has: what has them belongs to rows. It is not computed."""


class Equations(NamedTuple):
    """The graph of a cell and its derivative.

    Attributes:
      graph: its inputs are ``carry``, ``xw``, ``rh``, ``dcarry``, each with an index, ``("dy", 0)``, and
        ``derived`` with the index of an array that :attr:`derive` computes.
      carry, y: the new carry and the output.
      dcarry, dxw, drh: the gradients of the old carry, without the part through ``rh``, and of ``xw`` and ``rh``.
      sums: what must be added up over rows and steps for the gradients of the parameters.
      derive: ``params -> [derived, hidden]``.
      params_gradient: ``(params, [sums, hidden]) -> the gradient of params``.
      derived: how many derived arrays there are.
    """

    graph: Graph
    carry: list[Argument]
    y: Argument
    dcarry: list[Argument]
    dxw: list[Argument]
    drh: list[Argument]
    sums: list[Argument]
    derive: Callable[[Any], Array]
    params_gradient: Callable[[Any, Array], Any]
    derived: int


Step = Callable[[Any, list[Any], list[Any], list[Any]], tuple[list[Any], Any]]
"""``(params, carry, xw, rh) -> (carry, y)``, where all but the parameters are lists of arrays."""


class Sizes(NamedTuple):
    """How many arrays carry, xw and rh have; the number of batch axes, the last axis and the dtype of all."""

    carries: int
    gates: int
    recurrent_gates: int
    batch_axes: int
    hidden: int
    dtype: Any


def equations_of(step: Step, params: Any, sizes: Sizes) -> Equations:
    """Trace a step and its derivative. Of ``params``, only shapes and dtypes are used.

    Raises:
      Unsupported: a program cannot express the equations.
    """
    if sizes.batch_axes > len(BATCH_SIZES):
        raise Unsupported(f"there are {sizes.batch_axes} batch axes, and programs take {len(BATCH_SIZES)}")
    block = jax.ShapeDtypeStruct((*BATCH_SIZES[: sizes.batch_axes], sizes.hidden), sizes.dtype)

    def whole(params: Any, carry: Any, xw: Any, rh: Any, cotangents: Any) -> Any:
        out, pull = jax.vjp(step, params, carry, xw, rh)
        return out, pull(cotangents)

    carry, xw, rh = [block] * sizes.carries, [block] * sizes.gates, [block] * sizes.recurrent_gates
    closed = jax.make_jaxpr(whole)(params, carry, xw, rh, (carry, block))
    names = [(name, i) for name, part in (("carry", carry), ("xw", xw), ("rh", rh)) for i in range(len(part))]
    names += [("dcarry", i) for i in range(sizes.carries)] + [("dy", 0)]
    builder = _Builder(closed, params, names, block)
    outputs = iter(builder.traced.outputs)

    def take(count: int) -> list[Any]:
        return [next(outputs) for _ in range(count)]

    new_carry, (y,), dparams = take(sizes.carries), take(1), take(builder.outside.structure.num_leaves)
    dcarry, dxw, drh = take(sizes.carries), take(sizes.gates), take(sizes.recurrent_gates)
    for variable in dparams:
        builder.add_up(variable)
    builder.outside.check_gradients(dparams)
    in_graph = [[builder.argument(v) for v in part] for part in (new_carry, [y], dcarry, dxw, drh)]
    return Equations(
        graph=builder.graph,
        carry=in_graph[0],
        y=in_graph[1][0],
        dcarry=in_graph[2],
        dxw=in_graph[3],
        drh=in_graph[4],
        sums=builder.sums,
        derive=functools.partial(builder.outside.derive, hidden=sizes.hidden, dtype=sizes.dtype),
        params_gradient=functools.partial(builder.outside.params_gradient, dparams),
        derived=len(builder.outside.derived),
    )


class _Builder:
    """Sorts the equations of a trace into those of the graph and those outside of the loop."""

    def __init__(self, closed: Any, params: Any, names: list[tuple[Any, ...]], block: Any):
        self.traced = inline(closed)
        self.outside = Outside(self.traced, params)
        self.graph = Graph()
        self.block, self.batch = block, block.shape[:-1]
        self.sums: list[Argument] = []
        self._totals: dict[int, Total] = {}
        inputs = self.traced.inputs[len(self.outside.parameters) :]
        self.values: dict[Any, Argument] = {}
        self.values |= {v: self.graph.input(*name) for v, name in zip(inputs, names, strict=True)}
        """The node of every variable in the graph."""
        for equation in self.traced.equations:
            self._take(equation)

    def argument(self, variable: Any) -> Argument:
        """A variable as an argument of a node."""
        if not isinstance(variable, np.ndarray) and variable in self.values:
            return self.values[variable]
        value = self.outside.value(variable)
        if value is not None and value.size and (value.size == 1 or (value == value.flat[0]).all()):
            return constant(value.flat[0])
        if self.outside.is_sum(variable):
            raise Unsupported("its equations or their derivative use a sum over the batch within the step")
        hidden, shape = self.block.shape[-1], self._shape(variable)
        if shape[-1:] not in ((), (1,), (hidden,)) or any(size != 1 for size in shape[:-1]):
            raise Unsupported(f"an array of parameters of shape {shape} meets the state")
        derived: list[Any] = self.outside.derived
        if variable not in derived:
            derived.append(variable)
        return self.graph.input("derived", derived.index(variable))

    def _shape(self, variable: Any) -> tuple[int, ...]:
        return variable.shape if isinstance(variable, np.ndarray) else self.traced.types[variable].shape

    def _dtype(self, variable: Any) -> Any:
        return variable.dtype if isinstance(variable, np.ndarray) else self.traced.types[variable].dtype

    def _is_of_rows(self, variable: int) -> bool:
        return self._shape(variable)[: len(self.batch)] == self.batch

    def _take(self, equation: Equation) -> None:
        in_graph = any(not isinstance(v, np.ndarray) and v in self.values for v in equation.inputs)
        in_graph = in_graph or any(map(self._is_of_rows, equation.outputs))
        if any(map(self.outside.is_sum, equation.inputs)):
            if in_graph:
                raise Unsupported("its equations or their derivative use a sum over the batch within the step")
            self._take_after(equation)
        elif not in_graph:
            self.outside.take_before(equation)
        elif equation.primitive.name == "reduce_sum" and min(equation.params["axes"]) < len(self.batch):
            self._take_sum(equation)
        else:
            self._take_into_graph(equation)

    def _take_sum(self, equation: Equation) -> None:
        (variable,), axes = equation.inputs, set(equation.params["axes"])
        if not axes >= set(range(len(self.batch))):
            raise Unsupported("its equations or their derivative have a sum over a part of the batch")
        per_row = self._shape(variable) != self.block.shape
        self._note(equation.outputs[0], Total(self.argument(variable), len(axes) > len(self.batch), per_row))

    def _note(self, variable: int, total: Total) -> None:
        self._totals[variable] = total
        self.outside.sums.add(variable)

    def add_up(self, variable: Any) -> None:
        """Let the loop add up a variable, if that is the sum of a node."""
        if isinstance(variable, np.ndarray):
            return
        if total := self._totals.pop(variable, None):
            self.outside.take_sum(Sum(variable, len(self.sums), total))
            self.sums.append(total.argument)

    def _take_after(self, equation: Equation) -> None:
        totals = [None if isinstance(v, np.ndarray) else self._totals.get(v) for v in equation.inputs]
        name, found = COMBINED.get(equation.primitive.name), [t for t in totals if t is not None]
        if len(found) == len(totals) == 1 and self._only_reshapes(equation):
            return self._note(equation.outputs[0], found[0])
        if name and len(found) == len(totals) and len({t[1:] for t in found}) == 1:
            node = self.graph.add(name, *[t.argument for t in found])
            return self._note(equation.outputs[0], found[0]._replace(argument=node))
        for variable in equation.inputs:
            self.add_up(variable)
        return self.outside.take_after(equation)

    def _only_reshapes(self, equation: Equation) -> bool:
        name, shape = equation.primitive.name, self._shape(equation.inputs[0])
        return name in ("reshape", "squeeze", "expand_dims") or (
            name == "reduce_sum" and all(shape[axis] == 1 for axis in equation.params["axes"])
        )

    def _take_into_graph(self, equation: Equation) -> None:
        name, variable = equation.primitive.name, equation.outputs[0]
        value = self._node(equation)
        shape, dtype = self._shape(variable), self._dtype(variable)
        if shape not in (self.block.shape, self.batch, (*self.batch, 1)):
            if self._is_of_rows(variable):
                shape = ("*batch", *shape[len(self.batch) :])
            raise Unsupported(f"its equations or their derivative have {name} with a result of shape {shape}")
        if dtype not in (self.block.dtype, np.bool_):
            raise Unsupported(f"its equations or their derivative compute in {dtype}, not only {self.block.dtype}")
        self.values[variable] = value

    def _node(self, equation: Equation) -> Argument:
        name = equation.primitive.name
        if name in REDUCTIONS:
            return self._reduced(equation)
        if name == "broadcast_in_dim":
            self._check_broadcast(equation)
        arguments = [self.argument(v) for v in equation.inputs] if operations.is_known(name) else []
        given = self._dtype(equation.inputs[0]) if equation.inputs else None
        types = operations.Types(self.block.dtype, given, self._dtype(equation.outputs[0]))
        found = operations.node_of(self.graph, name, equation.params, arguments, types)
        if found is None:
            raise Unsupported(f"its equations or their derivative have {name}{DESCRIPTIONS.get(name, '')}")
        return found

    def _reduced(self, equation: Equation) -> Argument:
        name, (variable,) = equation.primitive.name, equation.inputs
        if tuple(equation.params["axes"]) != (len(self.batch),):
            raise Unsupported(
                f"its equations or their derivative have {name} over other axes than that of the units"
            )
        argument, hidden = self.argument(variable), self._shape(variable)[-1]
        if hidden == 1:
            return argument
        if isinstance(argument, Constant) or self.graph.per_row[argument]:  # the same number in every unit
            return self.graph.add("mul", argument, constant(hidden)) if name == "reduce_sum" else argument
        return self.graph.reduce(REDUCTIONS[name], argument)

    def _check_broadcast(self, equation: Equation) -> None:
        """A row must stay a row, and units must stay units."""
        (variable,), axes = equation.inputs, equation.params["broadcast_dimensions"]
        given = self._shape(variable)
        if isinstance(variable, np.ndarray) or variable not in self.values:
            good = all(size == 1 for size in given) or axes[-1] == len(self.batch)
        else:
            good = axes == tuple(range(len(given)))
        if not good:
            raise Unsupported(f"its equations or their derivative have a broadcast of {given} along other axes")
