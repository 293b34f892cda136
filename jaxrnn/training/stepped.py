"""The parts that all stepped epochs share: the epoch itself, its batches, and its totals.

An epoch is one compiled program that loops from ``state.position`` to a given batch. So one compilation serves a
whole epoch and any part of it, and an interrupted epoch gives the same bits as one that was not interrupted.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrnn.training.state import StepMetrics, Totals, TrainState

Epoch = Callable[[TrainState], tuple[TrainState, StepMetrics]]
"""From a train state, which it may donate, to the state an epoch later and the epoch's mean metrics."""


class Program(Protocol):
    """Trains on the batches from ``state.position`` to ``stop``, exclusive.

    With ``fresh=True`` the call does not block: it computes the order of the windows again. With ``fresh=False``
    it waits for the state to read the number of the epoch, and reuses that epoch's order.
    """

    def __call__(self, state: TrainState, stop: int, fresh: bool = True) -> tuple[TrainState, StepMetrics]: ...


class SteppedEpoch:
    """An epoch that can be run in parts: call it for the rest of an epoch, or :meth:`advance` it by some steps.

    Attributes:
      steps: batches in an epoch.
      mesh: the devices over which each batch is spread; None for one device.
      data: a function that returns what must be equal in all processes that train together, by name: arrays and
        plain JSON. None if that is not known.
    """

    def __init__(
        self,
        steps: int,
        program: Program,
        mesh: Mesh | None,
        make: Callable[[Mesh | None], "SteppedEpoch"],
        data: Callable[[], dict[str, Any]] | None = None,
    ):
        self.steps, self.mesh, self.data = steps, mesh, data
        self._program, self._make = program, make

    def __call__(self, state: TrainState) -> tuple[TrainState, StepMetrics]:
        """Run from ``state.position`` (usually 0) to the end of the epoch. Does not wait for the result."""
        return self._program(state, self.steps)

    def advance(self, state: TrainState, steps: int) -> tuple[TrainState, StepMetrics]:
        """Run the next ``steps`` batches, or those that are left of the epoch if they are fewer.

        Raises:
          ValueError: ``steps`` is below 1, or the state comes from an epoch with more batches than this one.
        """
        if steps < 1:
            raise ValueError(f"{steps=} must be at least 1")
        position = int(state.position)
        if position >= self.steps:
            raise ValueError(
                f"the state is at batch {position}, but this epoch has only {self.steps} batches: the state was "
                f"saved with other data or another batch size"
            )
        return self._program(state, min(position + steps, self.steps), fresh=False)

    def over(self, mesh: Mesh | None) -> "SteppedEpoch":
        """The same epoch, with each batch spread over the devices of another mesh."""
        return self if mesh == self.mesh else self._make(mesh)

    def with_targets(self, targets: Array) -> "SteppedEpoch":
        """The same compiled epoch with other targets of the same shape and dtype.

        Only epochs of :func:`jaxrnn.training.make_windowed_epoch` can do this. Networks that learn from different
        parts of a series, as in cross-validation, are compiled once.
        """
        program: Any = self._program
        known = self.data
        return SteppedEpoch(
            self.steps,
            program.with_targets(targets),
            self.mesh,
            lambda mesh: self._make(mesh).with_targets(targets),
            None if known is None else lambda: known() | {"targets": targets},
        )


class BatchPlan(NamedTuple):
    """Divides the windows of an epoch into batches of one size.

    >>> plan = BatchPlan.of(windows=5, batch_size=3)
    >>> plan.steps, plan.rows(1, np.arange(3))
    (2, (array([3, 4, 4]), array([ True,  True, False])))
    """

    windows: int
    batch_size: int

    @classmethod
    def of(cls, windows: int, batch_size: int) -> "BatchPlan":
        return cls(windows, min(batch_size, windows))

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return -(-self.windows // self.batch_size)

    def rows(self, batch: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The position of each row's window in the epoch's order, and whether the row has a window at all.

        Rows without one fill up the last batch, or a batch that does not divide over the devices. They repeat the
        last window of their own batch, so that they hold nothing which that batch does not hold, and need the
        weight zero.
        """
        filled = (rows < self.batch_size) & (batch * self.batch_size + rows < self.windows)
        place = batch * self.batch_size + np.minimum(rows, self.batch_size - 1)
        return np.minimum(place, self.windows - 1), filled


def begin(state: TrainState, initial_carry: Any = None, new_pass: Array | bool = True) -> TrainState:
    """Reset the totals if the state is at the start of an epoch, and the carry if a new pass begins with it."""
    if initial_carry is None and state.carry is not None:
        raise ValueError(
            "the state has a carry, but this epoch passes none on: make the state without one, "
            "TrainState.create(params, optimizer)"
        )
    if initial_carry is not None and state.carry is None:
        raise ValueError(
            "the state has no carry, which this epoch passes on: make it with one, "
            "TrainState.create(params, optimizer, carry=initial_carry)"
        )
    first = state.position == 0
    totals = jax.tree.map(lambda new, old: jnp.where(first, new, old), Totals.zero(), state.totals)
    from_here = first & new_pass
    carry = jax.tree.map(lambda new, old: jnp.where(from_here, new, old), initial_carry, state.carry)
    return state.replace(totals=totals, carry=carry)


def count(state: TrainState, metrics: StepMetrics, weight: Array) -> TrainState:
    """Add a step with these rows' total weight to the epoch's totals, and move on to the next batch."""
    taken = state.skipped_in_a_row == 0
    totals = state.totals

    def add(total: Array, value: Array) -> Array:
        return total + jnp.where(taken, value, 0).astype(total.dtype)  # losses and weights may be float64

    return state.replace(
        position=state.position + 1,
        totals=Totals(
            loss=add(totals.loss, metrics.loss * weight),
            weight=add(totals.weight, weight),
            grad_norm=add(totals.grad_norm, metrics.grad_norm),
            taken=totals.taken + taken,
            skipped=totals.skipped + ~taken,
        ),
    )


def finish(state: TrainState, steps: int) -> tuple[TrainState, StepMetrics]:
    """Count the epoch if all its batches are done. Returns the mean metrics so far; NaN if no step was taken."""
    done = state.position == steps
    totals = state.totals
    state = state.replace(epoch=state.epoch + done, position=jnp.where(done, 0, state.position))
    return state, StepMetrics(totals.loss / totals.weight, totals.grad_norm / totals.taken)


def checked_starts(starts: Any, axes: int, features: Array, targets: Array, window: int) -> Array:
    """``starts`` as an array. Raises a ValueError if a window that starts there does not fit into the series."""
    known = np.asarray(starts)
    if known.ndim != axes or not known.size or not np.issubdtype(known.dtype, np.integer):
        raise ValueError(
            f"starts must be a non-empty array of integers with {axes} axes, not {known.dtype} {known.shape}"
        )
    if not isinstance(window, (int, np.integer)) or window < 1:
        raise ValueError(f"{window=} must be an integer, at least 1")
    for name, array in (("features", features), ("targets", targets)):
        if np.ndim(array) < 2:
            raise ValueError(
                f"{name} have the shape {np.shape(array)}, not [time, dims]: pass a series x as x[:, None]"
            )
    least, most = int(known.min()), int(known.max())
    if least < 0 or most + window > min(len(features), len(targets)):
        raise ValueError(
            f"windows of {window} steps that start at {least} to {most} do not fit into the series: features have "
            f"{len(features)} steps, targets {len(targets)}"
        )
    # A step of the series may not fit into a small dtype, even if the first step of every window does.
    if known.dtype.itemsize < 4:
        starts = known.astype(np.int32)
    return starts if isinstance(starts, Array) else jax.device_put(np.asarray(starts))
