"""Saves checkpoints in a thread: the training loop waits only for a copy in memory, not for the disk."""

import copy
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxrnn.training.checkpoint.files import CheckpointError
from jaxrnn.training.checkpoint.store import Restored
from jaxrnn.training.distributed import local

# Training donates its state, so a value that must stay valid has to be a copy.
copied = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


SECONDS_WHEN_STOPPING = 60.0
"""How many seconds to wait for a save after the program has been asked to stop."""

_POLL_SECONDS = 0.5
"""How many seconds may pass before a wait notices that the program has been asked to stop."""


class Saves(Protocol):
    """The one method that :func:`jaxrnn.training.fit` needs to save a run."""

    def save(self, step: int, arrays: Any, record: Mapping[str, Any] | None = None) -> None: ...


@runtime_checkable
class Checkpoints(Saves, Protocol):
    """The methods needed to save and resume a run, as :class:`jaxrnn.training.CheckpointStore` has them."""

    def require_newest(self, step: int) -> None:
        """Raise an error if an earlier run's checkpoints would be restored instead of one saved at this step."""
        ...

    def steps(self) -> list[int]:
        """The steps that have been saved, ascending."""
        ...

    def restore(self, abstract: Any, *, step: int | None = None) -> Restored:
        """Load the newest checkpoint, or that of a step, in the structure of ``abstract``."""
        ...


class BackgroundSaver:
    """Saves one checkpoint at a time in a thread. As a context manager, it waits for the last save at its end.

    If a save fails (a full disk, a folder without write permission), there is only a warning: earlier checkpoints
    are intact, and the next save may succeed. :attr:`error` describes the failure of the last save, or is None.

    If a save takes longer than ``max_wait``, there is a warning too. Training continues, and no other save begins
    until that one has ended.

    Args:
      checkpoints: where to save; None saves nothing.
      max_wait: how many seconds to wait for a save.
      stopping: returns whether the program has been asked to stop. If so, ``max_wait`` is at most
        :data:`SECONDS_WHEN_STOPPING`.
    """

    def __init__(
        self,
        checkpoints: Saves | None,
        *,
        max_wait: float = 600.0,
        stopping: Callable[[], bool] = lambda: False,
    ):
        self.error: str | None = None
        self._checkpoints, self._max_wait, self._stopping = checkpoints, max_wait, stopping
        self._running: _Save | None = None
        self._hangs = False

    def __enter__(self) -> "BackgroundSaver":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.wait()

    def save(self, step: int, arrays: Any, record: Mapping[str, Any]) -> None:
        """Wait for the previous save, copy the arrays and the record, and start to save the copies."""
        self.wait()
        if self._checkpoints is None or self._hangs:
            return
        arguments = step, copied(local(arrays)), copy.deepcopy(dict(record))
        self._running = _Save(self._checkpoints, *arguments)
        self._running.start()

    def wait(self) -> None:
        """Wait until the running save ends or takes too long.

        A failure to write gives a warning. Any other exception of the save, such as a TypeError, is raised.
        """
        save = self._running
        if save is None:
            return
        if not self._ended(save):
            if not self._hangs:
                self._hangs = True
                self.error = (
                    f"step {save.step} is still being saved after {time.monotonic() - save.began:.0f} s: training "
                    f"continues, without other saves until this one ends. Earlier checkpoints are intact"
                )
                warnings.warn(self.error, stacklevel=3)
            return
        self._running, self._hangs, self.error = None, False, None
        if isinstance(save.failure, OSError | CheckpointError):
            self.error = str(save.failure)
            warnings.warn(self.error, stacklevel=3)
        elif save.failure is not None:
            raise save.failure

    def _ended(self, save: "_Save") -> bool:
        began = time.monotonic()
        while save.is_alive():
            limit = min(self._max_wait, SECONDS_WHEN_STOPPING) if self._stopping() else self._max_wait
            left = 0.0 if self._hangs else began + limit - time.monotonic()
            if left <= 0:
                return False
            save.join(min(left, _POLL_SECONDS))
        return True


class _Save(threading.Thread):
    def __init__(self, checkpoints: Saves, step: int, *arguments: Any):
        # A daemon thread, so that a save that hangs does not keep the program from ending.
        super().__init__(name="checkpoint", daemon=True)
        self.step, self.began = step, time.monotonic()
        self.failure: BaseException | None = None
        self._save = partial(checkpoints.save, step, *arguments)

    def run(self) -> None:
        try:
            self._save()
        except BaseException as error:
            self.failure = error
