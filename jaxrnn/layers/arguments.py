"""Checks the arguments that the calls of all layers share, and moves the time axis to the front."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn import checks
from jaxrnn.cells.base import check_inputs
from jaxrnn.checks import Cell
from jaxrnn.layers.flax_cells import is_known
from jaxrnn.ops.dispatch import IMPLEMENTATIONS, check_name
from jaxrnn.ops.linear import LINEAR_IMPLEMENTATIONS
from jaxrnn.ops.masks import checked_lengths
from jaxrnn.ops.step import Carry


def checked_implementation(implementation: str | None) -> str | None:
    """The name of an implementation of any recurrence, or None to choose one; a ValueError for any other."""
    check_name(implementation, IMPLEMENTATIONS | LINEAR_IMPLEMENTATIONS)
    return implementation


class TimeFirst(NamedTuple):
    """A layer's inputs in the order of axes that the engine needs.

    Attributes:
      inputs: ``[time, *batch, *features]``.
      seq_lengths: int32 ``[*batch]``, at most the number of steps, or None.
      resets: bool ``[time, *batch]``, or None.
      time_axis: the time axis of the caller's inputs, and of the outputs to return.
    """

    inputs: Array
    seq_lengths: Array | None
    resets: Array | None
    time_axis: int


def time_first(cell: Cell, inputs: Any, seq_lengths: Any, resets: Any, time_major: bool) -> TimeFirst:
    """Check the arguments of a layer with this first cell, and move the time axis to the front.

    Raises:
      ValueError: they do not fit the cell or each other. The message shows the shapes that the caller passed.
    """
    inputs, axes = checks.array("inputs", inputs), cell.num_feature_axes
    if inputs.ndim < axes + 1:
        raise ValueError(
            f"{inputs.shape=} has {inputs.ndim} axes, but needs time and {axes} feature axes: "
            "[*batch, time, features]. A univariate series x needs x[..., None]."
        )
    if is_known(cell):
        check_inputs(cell, inputs)
    time_axis = 0 if time_major else inputs.ndim - axes - 1
    steps = inputs.shape[: inputs.ndim - axes]
    if seq_lengths is not None:
        seq_lengths = checks.array("seq_lengths", seq_lengths)
        batch = steps[:time_axis] + steps[time_axis + 1 :]
        seq_lengths = checked_lengths(seq_lengths, steps[time_axis], batch)
    if resets is not None:
        resets = checks.array("resets", resets)
        if resets.shape != steps or resets.dtype != jnp.bool_:
            raise ValueError(
                f"resets must be bool of shape {steps}, one for every step, not {resets.dtype} {resets.shape}"
            )
        resets = jnp.moveaxis(resets, time_axis, 0)
    return TimeFirst(jnp.moveaxis(inputs, time_axis, 0), seq_lengths, resets, time_axis)


def pair_of_carries(carries: Any, name: str = "initial_carry") -> tuple[Carry, Carry]:
    """The carries of both directions. Raises a ValueError unless they are a pair or None."""
    if carries is None:
        return None, None
    # A NamedTuple is the carry of one layer, such as an LSTM.
    is_pair = isinstance(carries, (tuple, list)) and not hasattr(carries, "_fields")
    if not is_pair or len(carries) != 2:
        structure = jax.tree.structure(carries)
        raise ValueError(
            f"{name} must be a pair of carries, for the forward and the backward layer, not {structure}"
        )
    forward, backward = carries
    return forward, backward


def pair_of_reset_carries(reset_carry: Any) -> tuple[Any, Any]:
    """The reset carries of both directions; a name such as ``"zeros"`` holds for both."""
    if isinstance(reset_carry, str):
        return reset_carry, reset_carry
    return pair_of_carries(reset_carry, "reset_carry")


def carries_of_layers(name: str, carries: Any, layers: int) -> tuple[Any, ...]:
    """One carry for every layer of a stack, or None for each. Raises a ValueError if they are not as many."""
    if carries is None:
        return (None,) * layers
    is_sequence = isinstance(carries, (tuple, list))
    if not is_sequence or len(carries) != layers:
        found = len(carries) if is_sequence else checks.shown(carries)
        raise ValueError(f"{name} must be a tuple of {layers} carries, not {found}")
    return tuple(carries)


@contextlib.contextmanager
def errors_of(part: str) -> Iterator[None]:
    """Prefix the errors of this block with the name of the layer or part."""
    try:
        yield
    except ValueError as error:
        if type(error) is ValueError:
            error.args = (f"{part}: {error}",)
        raise
