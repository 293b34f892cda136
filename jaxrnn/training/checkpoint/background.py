"""Saving beside the training: the loop pays for a copy in memory, a thread of its own for the disk."""

import copy
import threading
import warnings
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxrnn.training.checkpoint.files import CheckpointError
from jaxrnn.training.checkpoint.store import Restored
from jaxrnn.training.distributed import local

# Training donates its state, so what is to be kept must be a copy.
copied = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


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

    Args:
      checkpoints: where to save to; None saves nothing.
    """

    def __init__(self, checkpoints: Saves | None):
        self.error: str | None = None
        self._checkpoints = checkpoints
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None

    def __enter__(self) -> "BackgroundSaver":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.wait()

    def save(self, step: int, arrays: Any, record: Mapping[str, Any]) -> None:
        """Copy the arrays and the record as they are now, and begin to save them; waits for the save before."""
        self.wait()
        if self._checkpoints is None:
            return
        arguments = self._checkpoints, step, copied(local(arrays)), copy.deepcopy(dict(record))
        self._thread = threading.Thread(target=self._save, args=arguments, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is being saved; warns of a failure, and raises what is a mistake in the program."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread, failed, self._failed = None, self._failed, None
        self.error = None
        if isinstance(failed, OSError | CheckpointError):
            self.error = str(failed)
            warnings.warn(self.error, stacklevel=3)
        elif failed is not None:
            raise failed

    def _save(self, checkpoints: Saves, *arguments: Any) -> None:
        try:
            checkpoints.save(*arguments)
        except BaseException as error:
            self._failed = error
