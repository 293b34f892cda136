"""Saving beside the training: the loop pays for a copy in memory, a thread of its own for the disk."""

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

# Training donates its state, so what is to be kept must be a copy.
copied = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


SECONDS_WHEN_STOPPING = 60.0
"""For how long to wait for a save once the program has been asked to stop."""

_SECONDS_BETWEEN_LOOKS = 0.5


class Saves(Protocol):
    """The least that :func:`jaxrnn.training.fit` needs to save a run."""

    def save(self, step: int, arrays: Any, record: Mapping[str, Any] | None = None) -> None: ...


@runtime_checkable
class Checkpoints(Saves, Protocol):
    """All that a training needs to be saved and resumed; :class:`jaxrnn.training.CheckpointStore` has it."""

    def require_newest(self, step: int) -> None:
        """Raise an error if an earlier run's checkpoints would be restored instead of one saved at this step."""
        ...

    def steps(self) -> list[int]:
        """The steps that have been saved, ascending."""
        ...

    def restore(self, abstract: Any, *, step: int | None = None) -> Restored:
        """The newest checkpoint, or that of a step, in the structure of ``abstract``."""
        ...


class BackgroundSaver:
    """Saves one checkpoint at a time in a thread; a context, which waits for the last one at its end.

    A save that fails (a full disk, a folder that may not be written) is a warning and not an end: what was saved
    before is intact, the next save may succeed, and :attr:`error` says what happened to the last.

    A save that takes longer than ``max_wait`` is a warning too: training goes on, and no other save begins until
    that one has ended.

    Args:
      checkpoints: where to save to; None saves nothing.
      max_wait: for how many seconds to wait for a save before it is left alone.
      stopping: whether the program has been asked to stop. If so, ``max_wait`` is at most
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
        """Copy the arrays and the record as they are now, and begin to save them; waits for the save before."""
        self.wait()
        if self._checkpoints is None or self._hangs:
            return
        arguments = step, copied(local(arrays)), copy.deepcopy(dict(record))
        self._running = _Save(self._checkpoints, *arguments)
        self._running.start()

    def wait(self) -> None:
        """Until nothing is being saved, or it takes too long; warns of a failure, and raises what is a mistake in
        the program."""
        save = self._running
        if save is None:
            return
        if not self._ended(save):
            if not self._hangs:
                self._hangs = True
                self.error = (
                    f"step {save.step} is still being saved after {time.monotonic() - save.began:.0f} s: going on "
                    f"without it, and without other saves until it ends. The checkpoints saved before are intact"
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
            save.join(min(left, _SECONDS_BETWEEN_LOOKS))
        return True


class _Save(threading.Thread):
    def __init__(self, checkpoints: Saves, step: int, *arguments: Any):
        # A daemon: a save that hangs must not keep the program from ending. Others have been waited for.
        super().__init__(name="checkpoint", daemon=True)
        self.step, self.began = step, time.monotonic()
        self.failure: BaseException | None = None
        self._save = partial(checkpoints.save, step, *arguments)

    def run(self) -> None:
        try:
            self._save()
        except BaseException as error:
            self.failure = error
