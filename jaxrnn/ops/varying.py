"""Which axes of a mesh arrays vary over within ``jax.shard_map``, and making them vary alike.

JAX refuses a loop or a hand-written gradient whose arrays do not vary over the same axes.
"""

from typing import Any, TypeVar

import jax
from jax import Array, lax
from jax.core import ShapedArray

Tree = TypeVar("Tree")


def varying_over(array: Any) -> frozenset[str]:
    """The mesh axes over which an array varies. JAX has renamed the attribute."""
    of_array: Any = array if isinstance(array, jax.ShapeDtypeStruct | ShapedArray) else jax.typeof(array)
    manual = getattr(of_array, "manual_axis_type", None)
    return getattr(of_array, "vma", frozenset()) if manual is None else manual.varying


def made_to_vary(array: Array, axes: frozenset[str]) -> Array:
    """The array, varying over these axes too. Its gradient is then the sum over them."""
    missing = tuple(axes - varying_over(array))
    return lax.pcast(array, missing, to="varying") if missing else array


def all_axes(tree: Any) -> frozenset[str]:
    """The mesh axes over which any of these arrays varies."""
    return frozenset().union(*map(varying_over, jax.tree.leaves(tree)))


def varying_alike(tree: Tree) -> Tree:
    """Arrays that all vary over what one of them varies over."""
    axes = all_axes(tree)
    return jax.tree.map(lambda array: made_to_vary(array, axes), tree) if axes else tree


def varying_results(shapes: Tree, arguments: Any) -> Tree:
    """The shapes of the results of a kernel, which vary as its arguments do. Pallas wants to be told."""
    axes, kind = all_axes(arguments), getattr(jax.sharding, "ManualAxisType", None)
    options: Any = {"vma": axes} if kind is None else {"manual_axis_type": kind(varying=axes)}
    return jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape.shape, shape.dtype, **options), shapes)
