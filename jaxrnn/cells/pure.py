"""A cell's pointwise method as a function that JAX can compile: pure, hashable, and equal for equal cells."""

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
    return _PurePointwise(graphdef, treedef, tuple(_Applied(a.shape, a.dtype) for a in leaves)), own


def _is_projection(path: tuple[Any, ...], value: Any) -> bool:
    return len(path) == 1 and path[0] in _PROJECTIONS


@dataclass(frozen=True)
class _Applied:
    """Placeholder for a projection's parameter, which the engine has already applied before ``pointwise``."""

    shape: tuple[int, ...]
    dtype: Any

    def __getitem__(self, index: Any) -> Any:
        raise ValueError(
            f"pointwise reads a parameter {self.shape} of the projections, which have already been applied: use "
            "their results, xw and rh, or add an nnx.Param to the cell"
        )

    __array__ = __jax_array__ = __getitem__


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
