"""What arguments must be, said in one way: an error names the argument, shows it and says what is wanted."""

import operator
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array


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
    """An integer of at least 1 of any integral type; a bool is none.

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


def dropout_rate(name: str, value: Any) -> float:
    """The share of units to drop: a number of at least 0 and below 1."""
    try:
        rate = float("nan") if isinstance(value, (str, bool)) else float(value)
    except (TypeError, ValueError):
        rate = float("nan")
    if not 0 <= rate < 1:
        raise ValueError(f"{name} must be a number of at least 0 and below 1, not {shown(value)}")
    return rate


def array(name: str, value: Any) -> Array:
    """Anything that JAX reads as an array of numbers."""
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers, not {shown(value)}") from error


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


def cell(name: str, value: Any) -> nnx.RNNCellBase:
    """One of our cells, of Flax's or of the user's own."""
    if isinstance(value, type) and issubclass(value, nnx.RNNCellBase):
        raise ValueError(f"{name} is the class {value.__name__}: make one, {value.__name__}(...)")
    if not isinstance(value, nnx.RNNCellBase):
        raise ValueError(
            f"{name} must be a cell, such as jaxrnn.LSTMCell(...) or any other nnx.RNNCellBase, not {shown(value)}"
        )
    return value
