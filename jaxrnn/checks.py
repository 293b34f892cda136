"""Checks of arguments. Every error names the argument, shows its value and says what is expected."""

import numbers
import operator
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.core import Tracer


def shown(value: Any) -> str:
    """A value for an error message: a module by its type, anything else by a ``repr`` that is not too long."""
    if isinstance(value, nnx.Module):
        return f"a {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def flag(name: str, value: Any, default: bool | None = None) -> bool:
    """A bool, NumPy's too; None stands for the default where there is one.

    >>> flag("reverse", "no")
    Traceback (most recent call last):
    ValueError: reverse must be True or False, not 'no'
    """
    if value is None and default is not None:
        return default
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, not {shown(value)}")
    return bool(value)


def positive_integer(name: str, value: Any) -> int:
    """An integer of at least 1, of any integral type but bool.

    >>> positive_integer("unroll", np.int64(2)), positive_integer("unroll", 1.5)
    Traceback (most recent call last):
    ValueError: unroll must be a positive integer, not 1.5
    """
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} must be a positive integer, not {shown(value)}")
    return number


def integer(name: str, value: Any) -> int:
    """An integer of any integral type but bool.

    >>> integer("seed", 0.5)
    Traceback (most recent call last):
    ValueError: seed must be an integer, not 0.5
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise ValueError(f"{name} must be an integer, not {shown(value)}")


def positive_integer_or_none(name: str, value: Any) -> int | None:
    """None, or what :func:`positive_integer` accepts."""
    return None if value is None else positive_integer(name, value)


def positive_number(name: str, value: Any, wanted: str = "a positive number") -> None:
    """Require a number above zero; an array of one number too, traced or not.

    >>> positive_number("learning_rate", "1e-3")
    Traceback (most recent call last):
    ValueError: learning_rate must be a positive number, not '1e-3'
    """
    if isinstance(value, Tracer):
        return
    try:
        positive = not isinstance(value, (str, bytes, bool)) and bool(value > 0)
    except (TypeError, ValueError):
        positive = False
    if not positive:
        raise ValueError(f"{name} must be {wanted}, not {shown(value)}")


def number(name: str, value: Any) -> None:
    """Require a real number; its range is the caller's matter.

    >>> number("min_radius", "a")
    Traceback (most recent call last):
    ValueError: min_radius must be a number, not 'a'
    """
    if isinstance(value, (bool, str)) or not isinstance(value, (numbers.Real, np.ndarray, Array)):
        raise ValueError(f"{name} must be a number, not {shown(value)}")


def dropout_rate(name: str, value: Any) -> float:
    """The share of units to drop: a number of at least 0 and below 1."""
    try:
        rate = float("nan") if isinstance(value, (str, bool)) else float(value)
    except (TypeError, ValueError):
        rate = float("nan")
    if not 0 <= rate < 1:
        raise ValueError(f"{name} must be a number of at least 0 and below 1, not {shown(value)}")
    return rate


def floating_dtype(name: str, value: Any) -> Any:
    """A floating dtype, or what NumPy reads as one.

    >>> floating_dtype("param_dtype", jnp.int32)
    Traceback (most recent call last):
    ValueError: param_dtype must be a floating type, not <class 'jax.numpy.int32'>
    """
    try:
        floating = value is not None and jnp.issubdtype(value, jnp.floating)
    except TypeError:  # not a dtype at all
        floating = False
    if not floating:
        raise ValueError(f"{name} must be a floating type, not {shown(value)}")
    return value


def array(name: str, value: Any) -> Array:
    """Anything that JAX reads as an array of numbers."""
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers, not {shown(value)}") from error


def carry(owner: str, value: Any, expected: Any, input_shape: tuple[int, ...]) -> Any:
    """A carry as arrays with the structure and the shapes of ``expected``, in any floating dtypes.

    Args:
      owner: whose carry it is, for messages.
      value: the carry.
      expected: a carry that fits, or one of ``jax.ShapeDtypeStruct``; where it is complex, the value must be too.
      input_shape: of a step's inputs, for messages.
    """
    found = jax.tree.structure(value)
    if found != jax.tree.structure(expected):
        raise ValueError(
            f"the carry has the structure {found}, but {owner} needs "
            f"{jax.tree.structure(expected)}: see its initialize_carry"
        )
    keystr = jax.tree_util.keystr
    value = jax.tree_util.tree_map_with_path(lambda path, leaf: array(f"the carry{keystr(path)}", leaf), value)
    pairs = zip(jax.tree_util.tree_leaves_with_path(value), jax.tree.leaves(expected), strict=True)
    for (path, leaf), want in pairs:
        is_complex = jnp.issubdtype(want.dtype, jnp.complexfloating)
        kind, name = (jnp.complexfloating, "a complex") if is_complex else (jnp.floating, "a floating")
        if leaf.shape != want.shape or not jnp.issubdtype(leaf.dtype, kind):
            raise ValueError(
                f"the carry{keystr(path)} is {leaf.dtype} {leaf.shape}, but for inputs of shape "
                f"{input_shape} it must be {name} array of shape {want.shape}"
            )
    return value


def function(name: str, value: Any, example: str) -> Callable[..., Any]:
    """Something to call."""
    if not callable(value):
        raise ValueError(f"{name} must be a function such as {example}, not {shown(value)}")
    return value


def initial_rngs(value: Any) -> nnx.Rngs:
    """The source of initial parameters."""
    if not isinstance(value, nnx.Rngs):
        raise ValueError(f"rngs must be nnx.Rngs, such as nnx.Rngs(0), not {shown(value)}")
    return value


class Cell(Protocol):
    """What a layer calls of a cell: one of ours, one of Flax's, or any ``nnx.Module`` with these three."""

    @property
    def num_feature_axes(self) -> int:
        """How many axes of the inputs belong to one step of one sequence: 1 for vectors, 3 for images."""
        ...

    def initialize_carry(self, input_shape: tuple[int, ...], rngs: Any, /) -> Any:
        """The first carry for one step's inputs of this shape."""
        ...

    def __call__(self, carry: Any, inputs: Array, /) -> tuple[Any, Any]:
        """One step: the new carry and the output."""
        ...


def cell(name: str, value: Any) -> Cell:
    """A cell: any ``nnx.RNNCellBase``, or any other ``nnx.Module`` that has what :class:`Cell` lists.

    >>> cell("cell", nnx.Dropout(0.5))
    Traceback (most recent call last):
    ValueError: cell must be a cell, ... not a Dropout, which has no initialize_carry and no num_feature_axes
    """
    if isinstance(value, nnx.RNNCellBase):
        return value
    missing = [part for part in ("__call__", "initialize_carry", "num_feature_axes") if not hasattr(value, part)]
    if isinstance(value, type) and (issubclass(value, nnx.RNNCellBase) or not missing):
        raise ValueError(f"{name} is the class {value.__name__}: make one, {value.__name__}(...)")
    if not isinstance(value, nnx.Module) or missing:
        lacks = f", which has no {' and no '.join(missing)}" if isinstance(value, nnx.Module) else ""
        raise ValueError(
            f"{name} must be a cell, such as jaxrnn.LSTMCell(...), any other nnx.RNNCellBase, or an nnx.Module "
            f"with __call__(carry, inputs), initialize_carry and num_feature_axes, not {shown(value)}{lacks}"
        )
    module: Any = value
    return module
