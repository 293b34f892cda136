"""A cell's pointwise method as a function that JAX can compile: pure, hashable, and equal for equal cells."""

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from jaxrnn.ops.step import Params, Pointwise

_PROJECTIONS = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")


def pure_pointwise(cell: nnx.Module) -> tuple[Pointwise, Params]:
    """``cell.pointwise`` as a pure function of the parameters that a subclass added, and these parameters."""
    graphdef, projections, own = nnx.split(cell, _is_projection, ...)
    leaves, treedef = jax.tree.flatten(projections)
    return _PurePointwise(_as_it_is(graphdef), treedef, tuple(_Applied(a.shape, a.dtype) for a in leaves)), own


def _as_it_is(value: Any) -> Any:
    """The value, with copies of what can be changed in place, such as an attribute of the cell that is a dict.

    It is what compiled programs are found by: after a change, the old program must not be found for the new value.
    """
    try:
        hash(value)
        return value
    except TypeError:
        pass
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, tuple):
        parts = map(_as_it_is, value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    value = copy.copy(value)
    if isinstance(value, dict):
        value.update({key: _as_it_is(part) for key, part in value.items()})
    elif isinstance(value, list):
        value[:] = map(_as_it_is, value)
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
    for name in [field.name for field in fields] or getattr(value, "__dict__", ()):
        object.__setattr__(value, name, _as_it_is(getattr(value, name)))
    return value


def _is_projection(path: tuple[Any, ...], value: Any) -> bool:
    return len(path) == 1 and path[0] in _PROJECTIONS


@dataclass(frozen=True)
class _Applied:
    """Placeholder for a projection's parameter, which the engine has already applied before ``pointwise``."""

    shape: tuple[int, ...]
    dtype: Any

    def _read(self, *arguments: Any, **options: Any) -> Any:
        raise ValueError(
            f"pointwise reads a parameter {self.shape} of the projections, which have already been applied: use "
            "their results, xw and rh, or add an nnx.Param to the cell"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # Python, JAX and Flax look for methods that an object need not have
            raise AttributeError(name)
        return self._read()

    __array__ = __jax_array__ = __getitem__ = __iter__ = __neg__ = __abs__ = _read
    __add__ = __sub__ = __mul__ = __matmul__ = __truediv__ = __pow__ = _read
    __radd__ = __rsub__ = __rmul__ = __rmatmul__ = __rtruediv__ = __rpow__ = _read


@dataclass(frozen=True)
class _PurePointwise:
    """A cell's pointwise method as a function of the parameters that the subclass added.

    It is hashable and equal for equal cells, so that JAX reuses compiled programs.
    """

    graphdef: Any
    treedef: Any
    shapes: tuple[Any, ...]

    def __hash__(self) -> int:
        try:
            return hash((self.graphdef, self.treedef, self.shapes))
        except TypeError:  # the cell has an attribute such as a dict, which can be compared but has no hash
            return hash((self.treedef, self.shapes))

    def __call__(self, params, carry, xw, rh):
        projections = jax.tree.unflatten(self.treedef, self.shapes)
        return nnx.merge(self.graphdef, projections, params).pointwise(carry, xw, rh)
