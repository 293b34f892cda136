"""A function whose arithmetic on arrays runs in the C++ library, such as an optimiser's step.

XLA compiles a loop for every result of every array: three for a parameter under Adam. Each of them also reads all
that it depends on again.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer, eval_jaxpr
from jax.sharding import AxisType

from jaxrnn.ops.dispatch import exported_programs, platform_of
from jaxrnn.ops.native.encoding import encode
from jaxrnn.ops.native.library import available
from jaxrnn.ops.program import Equation, Group, Inlined, Part, Program, divide, inline
from jaxrnn.ops.varying import made_to_vary, varying_alike, varying_over

Tree = TypeVar("Tree")

one_device = jax.make_user_context(False)
"""``with one_device(True):`` what is traced runs on one device, although there are several."""


def replace(function: Callable[..., Tree], old: Tree, *others: Any) -> Tree:
    """``function(old, *others)``, which returns what replaces ``old``, with few calls.

    Arithmetic on arrays of float32 and float64, element by element, runs in the library, if this is traced for a
    CPU. All else, and everything elsewhere, is as the function says. Where nothing else needs an old array, the
    new one is written over it. Derivatives are those of the function.
    """
    leaves, structure = jax.tree.flatten((old, others))
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tracer)]
    traced = [leaves[place] for place in places]
    if not _in_library(traced):
        return function(old, *others)
    returned: Any = None

    def flat(*arrays: Any) -> list[Any]:
        nonlocal returned
        given = list(leaves)  # what is not traced keeps its value, on which the function may decide
        for place, array in zip(places, arrays):
            given[place] = array
        old, others = jax.tree.unflatten(structure, given)
        found, returned = jax.tree.flatten(function(old, *others))
        return found

    closed = jax.make_jaxpr(flat)(*traced)
    if closed.effects:
        return function(old, *others)
    old_count = jax.tree.structure(old).num_leaves
    replaced = {place: index for index, place in enumerate(places) if place < old_count}
    call = jax.custom_jvp(_Divided(closed, replaced))

    @call.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return jax.jvp(lambda held, arrays: eval_jaxpr(closed.jaxpr, held, *arrays), primals, tangents)

    # What the function holds may be traced by another transformation, so it is an argument.
    return jax.tree.unflatten(returned, call(list(closed.consts), traced))


def _in_library(traced: list[Any]) -> bool:
    if not traced or platform_of(traced) != "cpu" or exported_programs.value or not available():
        return False
    # XLA would gather on every device what is divided over several, and the results would stay whole. Within
    # jax.shard_map it divides nothing.
    meshes = [jax.typeof(leaf).sharding.mesh for leaf in traced]
    kinds = {kind for mesh in meshes for kind in mesh.axis_types}
    return kinds == {AxisType.Manual} or (not kinds and (one_device.value or jax.device_count() == 1))


class _Divided:
    """A traced function whose arithmetic on arrays is in programs.

    Args:
      closed: the function.
      replaced: by the place of a result, the argument whose new value it is.
    """

    def __init__(self, closed: Any, replaced: dict[int, int]):
        self._traced: Inlined = inline(closed)
        self._steps = divide(self._traced)
        results = [(self._traced.outputs[new], self._traced.inputs[old]) for new, old in replaced.items()]
        self._old = {new: old for new, old in results if not isinstance(new, np.ndarray)}

    def __call__(self, held: list[Any], arrays: list[Any]) -> list[Array]:
        traced = self._traced
        values = dict(zip(traced.inputs, arrays, strict=True)) | traced.constants
        values |= zip(traced.constants, held)  # those that the function itself holds come first
        for step in self._steps:
            self._call(step, values) if isinstance(step, Part) else self._run(step, values)
        return [jnp.asarray(v if isinstance(v, np.ndarray) else values[v]) for v in traced.outputs]

    def _run(self, equation: Equation, values: dict[int, Any]) -> None:
        inputs = [v if isinstance(v, np.ndarray) else values[v] for v in equation.inputs]
        with equation.context.manager:
            found = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(equation.params))
        values |= zip(equation.outputs, found if equation.primitive.multiple_results else [found], strict=True)

    def _call(self, part: Part, values: dict[int, Any]) -> None:
        shapes, types = [], self._traced.types
        numbers = [jnp.asarray(values[v], part.dtype) for v in part.numbers]
        arguments = [jnp.stack(varying_alike(numbers)) if numbers else jnp.zeros(1, part.dtype)]
        aliases: dict[int, int] = {}
        for group in part.groups:
            aliases |= self._written_over(part, group, len(arguments), len(shapes))
            arguments += [jnp.asarray(values[v], part.dtype) for v in group.arrays]
            shapes += [jax.ShapeDtypeStruct(types[v].shape, part.dtype) for v in group.results]
        call = jax.ffi.ffi_call(
            "jaxrnn_elementwise", shapes, vmap_method="broadcast_all", input_output_aliases=aliases
        )
        found = call(
            *arguments,
            **encode(part.program)._asdict(),
            sizes=np.array([np.prod(types[group.arrays[0]].shape) for group in part.groups], np.int64),
            registers=part.program.registers,
            condition=-1 if part.condition is None else part.condition,
            otherwise=np.array(part.otherwise or [0], np.int64),
        )
        results = [v for group in part.groups for v in group.results]
        for variable, array in zip(results, found, strict=True):
            array = array != 0 if types[variable].dtype == np.bool_ else array
            values[variable] = made_to_vary(array, varying_over(types[variable]))

    def _written_over(self, part: Part, group: Group, first: int, result: int) -> dict[int, int]:
        """Which arguments of a call are given up for which results."""
        found = {}
        for index, variable in enumerate(group.results):
            old = self._old.get(variable)
            if old in group.arrays and self._traced.types[old].dtype == self._traced.types[variable].dtype:
                place = group.arrays.index(old)
                copied = part.otherwise[index] if part.otherwise else place
                if copied == place and _is_read_before(part.program, place, index):
                    found[first + place] = result + index
        return found


def _is_read_before(program: Program, array: int, result: int) -> bool:
    """Whether nothing reads this array after this result is written."""
    instructions = list(enumerate(program.instructions))
    reads = [place for place, one in instructions if ("in", ("array", array)) in one.arguments]
    writes = [place for place, one in instructions if one.result == ("out", ("result", result))]
    return max(reads, default=0) <= min(writes)
