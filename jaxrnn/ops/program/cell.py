"""The programs of a cell: forward, backward, and what the one saves for the other."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.ops.program.cut import saved_nodes
from jaxrnn.ops.program.equations import Equations, Sizes, equations_of
from jaxrnn.ops.program.graph import REDUCTIONS, Unsupported
from jaxrnn.ops.program.instructions import Instruction, Program, make_program
from jaxrnn.ops.step import (
    Pointwise,
    Recurrence,
    cast,
    checked_pointwise,
    dtype_of,
    hidden_state,
    recurrent_gates_of,
    units_of,
)


@dataclass(frozen=True, eq=False)
class CellProgram:
    """The programs of a cell, and what is around them.

    The places ``("in", name)`` and ``("out", name)`` of the programs have these names, with an index each:

    - forward: in ``carry``, ``xw``, ``rh`` and ``sum`` (xw + rh of a gate in :attr:`summed`); out ``carry``, ``y``
      and ``saved``;
    - backward: in ``dcarry``, ``dy``, ``carry`` (before the step), ``new_carry`` (after it), ``y`` and ``saved``;
      out ``dcarry``, ``dxw``, ``drh`` (of gates that are not in :attr:`shared`) and ``sums``.

    Attributes:
      carries, gates, recurrent_gates: how many arrays carry, xw and rh have.
      forward: the program that saves what the backward program needs.
      forward_only: the program that saves nothing.
      backward: the program of the derivative.
      saved: how many arrays ``[*batch, hidden]`` are saved at every step.
      carry_slots: for every part of the carry, where the new one is in ``saved``, or None. The hidden state is not
        saved if it is the output.
      summed: the gates whose xw and rh are only ever added.
      shared: the gates whose gradients of xw and rh are the same array.
      derived: how many arrays ``[hidden]`` the programs need that follow from the parameters.
      sums: how many arrays are added up over rows and steps for the gradients of the parameters.
      equations: the graph, which makes the derived arrays and the gradients of the parameters.
    """

    carries: int
    gates: int
    recurrent_gates: int
    forward: Program
    forward_only: Program
    backward: Program
    saved: int
    carry_slots: tuple[int | None, ...]
    summed: tuple[int, ...]
    shared: tuple[int, ...]
    derived: int
    sums: int
    equations: Equations

    @property
    def reduces(self) -> bool:
        """Whether the equations or their derivative have a sum or maximum over the units of a row."""
        programs = (self.forward, self.backward)
        return any(i.operation in REDUCTIONS.values() for program in programs for i in program.instructions)

    def derive(self, params: Any) -> Array:
        """The derived parameters, ``[derived, hidden]``."""
        return self.equations.derive(params)

    def params_gradient(self, params: Any, sums: Array) -> Any:
        """The gradient of ``params`` from the sums over all rows and steps, ``[sums, hidden]``."""
        return self.equations.params_gradient(params, sums)


def cell_program(pointwise: Pointwise, arrays: Recurrence) -> CellProgram | str:
    """The programs of a cell, or the reason why there are none.

    Args:
      pointwise: the equations of the cell.
      arrays: of which only shapes and dtypes are used; all floating arrays must have the same dtype.

    Raises:
      ValueError: ``pointwise`` returns something of the wrong structure or shape.
    """
    hidden = units_of(arrays.recurrent_kernel)
    dtype = jnp.dtype(arrays.recurrent_kernel.dtype)
    batch = hidden_state(arrays.initial_carry).shape[:-1]
    for leaf in jax.tree.leaves(arrays.initial_carry):
        if leaf.shape[-1] != hidden:
            return f"a part of its carry has {leaf.shape[-1]} units, and not {hidden} as the hidden state"
    for leaf in jax.tree.leaves(arrays.params):
        if dtype_of(leaf) != dtype:
            return f"its parameters include {dtype_of(leaf)}, not only {dtype}"
    leaves, params = jax.tree.flatten(arrays.params)
    sizes = Sizes(
        carries=len(jax.tree.leaves(arrays.initial_carry)),
        gates=arrays.xw.shape[-1] // hidden,
        recurrent_gates=recurrent_gates_of(arrays.recurrent_kernel),
        batch_axes=max(len(batch), 1),
        hidden=hidden,
        dtype=dtype,
    )
    shapes = tuple(jnp.shape(leaf) for leaf in leaves)
    wide = bool(jax.config.read("jax_enable_x64"))
    found = _cell_program(pointwise, jax.tree.structure(arrays.initial_carry), params, shapes, sizes, wide)
    if isinstance(found, ValueError):
        # What pointwise returns is for its author to mend, whatever runs it: the error shows the real shapes.
        _check_shapes(pointwise, arrays, hidden)
        return _untraceable(found)
    return found


def _check_shapes(pointwise: Pointwise, arrays: Recurrence, hidden: int) -> None:
    h = hidden_state(arrays.initial_carry)
    xw, rh = (
        tuple(jax.ShapeDtypeStruct(h.shape, h.dtype) for _ in range(gates))
        for gates in (arrays.xw.shape[-1] // hidden, recurrent_gates_of(arrays.recurrent_kernel))
    )
    step = functools.partial(checked_pointwise, pointwise)
    jax.eval_shape(step, arrays.params, arrays.initial_carry, xw, rh)


@functools.lru_cache(maxsize=256)
def _cell_program(
    pointwise: Pointwise, carry: Any, params: Any, shapes: tuple[tuple[int, ...], ...], sizes: Sizes, wide: bool
) -> CellProgram | str | ValueError:
    def step(params: Any, carry_leaves: list[Array], xw: list[Array], rh: list[Array]) -> Any:
        old = jax.tree.unflatten(carry, carry_leaves)
        new_carry, y = checked_pointwise(pointwise, params, old, tuple(xw), tuple(rh))
        if y.shape[-1] != sizes.hidden:
            raise Unsupported(f"its output has {y.shape[-1]} features, and not {sizes.hidden} as the hidden state")
        return [cast(leaf, sizes.dtype) for leaf in jax.tree.leaves(new_carry)], cast(y, sizes.dtype)

    given = jax.tree.unflatten(params, [jax.ShapeDtypeStruct(shape, sizes.dtype) for shape in shapes])
    try:
        return _programs(equations_of(step, given, sizes), sizes)
    except Unsupported as reason:
        return str(reason)
    except ValueError as error:
        return error if str(error).startswith("pointwise ") else _untraceable(error)
    except (TypeError, NotImplementedError, jax.errors.JAXTypeError) as error:
        return _untraceable(error)


def _untraceable(error: Exception) -> str:
    reason = str(error).strip().splitlines()[0][:160]
    return f"its equations could not be traced for a batch of unknown size: {reason}"


def _programs(equations: Equations, sizes: Sizes) -> CellProgram:
    graph, last = equations.graph, sizes.carries - 1
    gradients = [*equations.dcarry, *equations.dxw, *equations.drh, *equations.sums]
    names: dict[int, tuple[str, int]] = {}
    kept: list[int] = []
    read = saved_nodes(graph, equations.carry, equations.y, gradients)
    old_carry = {graph.name_of(n)[1] for n in read if graph.is_input(n) and graph.name_of(n)[0] == "carry"}
    y_is_h = equations.y == equations.carry[last]
    carries_saved = old_carry - {last} | ({last} - {last if y_is_h else -1})
    for node in read:
        if graph.is_input(node) and graph.name_of(node)[0] in ("carry", "derived"):
            names[node] = graph.name_of(node)
        elif node == equations.y:
            names[node] = ("y", 0)
        elif any(node == equations.carry[i] for i in carries_saved):
            names[node] = ("new_carry", next(i for i in carries_saved if node == equations.carry[i]))
        else:
            names[node] = ("saved", len(kept))
            kept.append(node)
    slots = {i: len(kept) + position for position, i in enumerate(sorted(carries_saved))}

    results = {("carry", i): node for i, node in enumerate(equations.carry)}
    if not y_is_h:
        results["y", 0] = equations.y
    inputs, summed = _summed(equations, sizes, [*results.values(), *kept])
    forward_only = make_program(graph, results, inputs)
    forward = make_program(graph, results | {("saved", i): node for i, node in enumerate(kept)}, inputs)
    copies = [Instruction("copy", ("out", ("saved", slot)), (("out", ("carry", i)),)) for i, slot in slots.items()]
    forward = forward._replace(instructions=forward.instructions + copies)

    both = range(min(sizes.gates, sizes.recurrent_gates))
    shared = tuple(i for i in both if equations.dxw[i] == equations.drh[i])
    results = {("dcarry", i): node for i, node in enumerate(equations.dcarry)}
    results |= {("dxw", i): node for i, node in enumerate(equations.dxw)}
    results |= {("drh", i): node for i, node in enumerate(equations.drh) if i not in shared}
    results |= {("sums", i): node for i, node in enumerate(equations.sums)}
    backward = make_program(graph, results, {n: name for n, name in names.items() if name[0] != "derived"})
    return CellProgram(
        carries=sizes.carries,
        gates=sizes.gates,
        recurrent_gates=sizes.recurrent_gates,
        forward=forward,
        forward_only=forward_only,
        backward=backward,
        saved=len(kept) + len(slots),
        carry_slots=tuple(slots.get(i) for i in range(sizes.carries)),
        summed=summed,
        shared=shared,
        derived=equations.derived,
        sums=len(equations.sums),
        equations=equations,
    )


def _summed(
    equations: Equations, sizes: Sizes, results: list[Any]
) -> tuple[dict[int, tuple[str, int]], tuple[int, ...]]:
    """The gates whose xw and rh the forward program only adds, and the nodes of those sums."""
    graph = equations.graph
    live = graph.needed(results)
    inputs: dict[int, tuple[str, int]] = {}
    for i in range(min(sizes.gates, sizes.recurrent_gates)):
        x, r = graph.find_input("xw", i), graph.find_input("rh", i)
        if x is None or r is None or x in results or r in results:
            continue
        total = graph.find_sum(x, r)
        users = {node for node in live if {x, r} & set(graph.arguments(node))}
        if total is not None and users == {total}:
            inputs[total] = ("sum", i)
    return inputs, tuple(index for _, index in inputs.values())
