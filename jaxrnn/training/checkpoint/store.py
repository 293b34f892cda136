"""Numbered checkpoints in one folder: each holds a pytree of arrays and a small JSON record.

Orbax writes and reads the arrays. This module adds the following guarantees:

- A kill at any time leaves a complete checkpoint or none. A folder is written and synced under a `.tmp` name and
  then renamed, to `step_00000012`; before it is deleted, it is renamed to `.trash`. Every attempt to save has its
  own `.tmp` name, because the threads of a failed attempt may still be writing when the next one begins.
- Nothing is overwritten. If a step is saved again, it becomes `step_00000012.1`, and the older folder is deleted
  after that. With one name for both, there would be a moment without any checkpoint.
- There is one writer. The first `save` (or `claim`) locks the folder until `close`. If the writer dies, the kernel
  releases the lock.
- Every byte is checked (:mod:`jaxrnn.training.checkpoint.files`), because Orbax loads a flipped bit as a wrong
  number without an error. `record.json` holds the SHA-256 of each file, checked before Orbax reads it, of each
  leaf, checked afterwards, and of itself.
- If a checkpoint is damaged, the one before it is loaded, with a warning. If its shapes do not match, that is an
  error: then the code or its settings are wrong, and an older step would only hide the mistake.
- An older run never hides a newer one. `restore` takes the highest step. So a new run in a folder with higher
  steps of an earlier run would get those back, and its first save is an error. `overwrite=True` replaces the old
  checkpoints instead.
- The caller gives the tree structure; the files hold only a flat list of leaves. So None, NamedTuples, dataclasses
  and Optax states need no special code, and no file can name a class to construct.

This process must be able to address all parts of the arrays. If several processes train together, one of them
saves its copy.
"""

import dataclasses
import operator
import os
import re
import secrets
import shutil
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxrnn.training.checkpoint import files
from jaxrnn.training.checkpoint.files import CheckpointError, Damaged

try:
    import fcntl
except ImportError:  # Windows has no fcntl: there, nothing prevents a second writer
    fcntl = None

_NAME = re.compile(r"step_([0-9]{8,})(?:\.([0-9]+))?")
_LEFTOVER = re.compile(_NAME.pattern + r"\.(?:(?:[0-9a-f]+\.)?tmp|trash)")


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint: its step, the arrays in the structure of `abstract`, and the record saved with them."""

    step: int
    arrays: Any
    record: dict[str, Any]


class CheckpointStore:
    """Numbered checkpoints of a pytree of arrays plus a small JSON record, in one folder.

    There is one writer at a time, which holds a lock on the folder. Others may read while it writes; readers never
    change anything. Saving is synchronous: when `save` returns, the checkpoint is on disk.

    To continue the run in a folder, call `restore` and then save higher steps. A new run cannot save to a folder
    with higher steps, because `restore` would return those instead of the new ones. Use another folder for a new
    run, or pass ``overwrite=True``.

    Args:
        directory: the folder; the first `save` makes it, with its parents.
        keep: how many checkpoints to keep: the one saved last, then those with the highest steps.
        overwrite: replace the checkpoints that the folder holds already. This store neither lists nor restores
            them, and its first `save` deletes them when the new checkpoint is on disk.

    Raises:
        ValueError: `keep` is below 1.
        CheckpointError: `directory` is a file.

    Example:
        >>> import tempfile, jax, jax.numpy as jnp
        >>> state = {"kernel": jnp.eye(2), "key": jax.random.key(0)}
        >>> with tempfile.TemporaryDirectory() as folder, CheckpointStore(folder) as store:
        ...     store.save(100, state, {"validation_loss": 0.25})
        ...     restored = store.restore(jax.eval_shape(lambda: state))
        >>> restored.step, restored.record, bool((restored.arrays["kernel"] == state["kernel"]).all())
        (100, {'validation_loss': 0.25}, True)
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int = 2, overwrite: bool = False) -> None:
        if keep < 1:
            raise ValueError(f"{keep=} must be at least 1, otherwise the new checkpoint would be deleted")
        self.directory = Path(os.path.abspath(directory))
        if self.directory.exists() and not self.directory.is_dir():
            raise CheckpointError(f"{self.directory} is not a folder but a file: give another path")
        self.keep, self.overwrite = keep, overwrite
        self._closed = False
        self._refused: set[Path] = set()
        self._saved: set[Path] = set()
        self._lock: weakref.finalize | None = None

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock. A later `save` raises a ValueError; reading still works."""
        self._closed = True
        self._release()

    def claim(self) -> None:
        """Make the folder, and become its only writer until `close`; the first `save` does this too.

        Raises:
            CheckpointError: another store, in this process or another, writes to the folder.
            OSError: the folder cannot be made.
        """
        self._require_open()
        if not self.directory.is_dir():
            self.directory.mkdir(parents=True, exist_ok=True)
            files.fsync(self.directory.parent)
        if fcntl is None or self._holds_lock():
            return
        self._release()
        # Lock the folder itself, so that no lock file is left over. Closing the descriptor releases the lock; this
        # is done by close(), by the garbage collector, or by the kernel when the process ends in any way.
        descriptor = os.open(self.directory, os.O_RDONLY)
        self._lock = weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            raise CheckpointError(
                f"another process writes checkpoints to {self.directory}: wait until it ends, or use another one"
            ) from None
        except OSError:
            pass  # the file system does not support locks

    def _holds_lock(self) -> bool:
        """Whether this store has locked the folder that is now at the path; somebody may have replaced it."""
        held = None if self._lock is None else self._lock.peek()
        return held is not None and os.path.samestat(os.fstat(held[2][0]), os.stat(self.directory))

    def _release(self) -> None:
        if self._lock is not None:
            self._lock()
            self._lock = None

    def _require_open(self) -> None:
        if self._closed:
            raise ValueError(f"the CheckpointStore for {self.directory} is closed: make a new one to save")

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, ascending. Only `restore` checks their content."""
        return sorted({step for step, _, folder in self._found() if files.is_complete(folder)})

    def require_newest(self, step: int) -> None:
        """Check that `restore` would return a checkpoint that is saved now at `step`.

        Raises:
            CheckpointError: the folder holds a higher step that this store has neither saved nor found damaged; at
                step 0, where a run has saved nothing yet, also one that this store saved for an earlier run.
        """
        if step == 0:
            self._saved.clear()
        others = [found for found in self._found() if found[2] not in self._saved | self._refused]
        higher = [number for number, _, folder in others if number > step and files.is_complete(folder)]
        if higher:
            raise CheckpointError(
                f"{self.directory} holds step {max(higher)} of an earlier run: restore would return it instead of "
                f"{step=}. To continue that run, restore it first. To start a new run, use another folder, or "
                f"replace the old checkpoints with CheckpointStore(..., overwrite=True)"
            )

    def save(self, step: int, arrays: Any, record: Mapping[str, Any] | None = None) -> None:
        """Save a checkpoint in place of one of the same step, and delete those beyond `keep`.

        Args:
            step: the number of the checkpoint, at least 0.
            arrays: a pytree of arrays, PRNG keys and numbers. A Python number is stored with the dtype that jit
                gives it (a float as float32, without x64); put numbers that must stay exact into `record`.
            record: plain JSON values with string keys: dict, list, str, int, float, bool, None. NaN and infinity
                are written as Python's json module writes them: NaN, Infinity.

        Raises:
            TypeError: a leaf is not an array or number, or a value of `record` is not plain JSON.
            ValueError: `step` is negative, the store is closed, or two leaves have the same path.
            OSError: the disk is full, the folder is read-only, or similar. Earlier checkpoints are intact.
            CheckpointError: another store writes to the folder, an earlier run has left higher steps there (see
                `require_newest`), or Orbax could not write for another reason. Earlier checkpoints are intact.
        """
        self._require_open()
        step, record = operator.index(step), dict(record or {})
        if step < 0:
            raise ValueError(f"{step=} must be at least 0")
        files.require_plain_json(record, "record")
        leaves, _ = files.flatten(arrays)
        self.require_newest(step)
        temporary = self.directory / f"step_{step:08d}.{secrets.token_hex(4)}.tmp"
        try:
            self._warn_of_deleted()
            self.claim()
            for name in os.listdir(self.directory):
                if _LEFTOVER.fullmatch(name):  # its writer died or failed, because this store holds the lock
                    shutil.rmtree(self.directory / name, ignore_errors=True)
            revisions = [revision for other, revision, _ in self._listed() if other == step]
            final = self.directory / (f"step_{step:08d}" + (f".{revisions[-1] + 1}" if revisions else ""))
            temporary.mkdir()
            files.write(temporary, {"format": files.FORMAT, "step": step, "record": record}, leaves)
            os.rename(temporary, final)
            files.fsync(self.directory)
        except Exception as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise files.could_not_save(error, step, self.directory) from error
        self._refused.discard(final)
        self._saved.add(final)
        self._prune(step)

    def _warn_of_deleted(self) -> None:
        deleted = {folder for folder in self._saved if not os.path.lexists(folder)}
        self._saved -= deleted
        if deleted:
            names = ", ".join(sorted(folder.name for folder in deleted))
            warnings.warn(
                f"another program deleted {names} from {self.directory}: saving a new checkpoint there",
                stacklevel=3,
            )

    def restore(self, abstract: Any, *, step: int | None = None) -> Restored:
        """Load the newest undamaged checkpoint, or that of `step`.

        Args:
            abstract: a pytree of arrays or `jax.ShapeDtypeStruct` with the structure, shapes and dtypes that were
                saved.
            step: the step to load; it is an error if that one is damaged. None loads the highest step; if that
                one is damaged, there is a warning and the next lower one is loaded.

        Returns:
            The step, the arrays and the record. Leaves are jax arrays, with the sharding of `abstract`'s leaf if
            it has one. Leaves that JAX would round (64-bit NumPy arrays, without x64) stay NumPy arrays.

        Raises:
            CheckpointError: there is no checkpoint, all are damaged (with the reason for each), or a leaf is
                missing, unexpected, or of another shape or dtype.
        """
        expected, treedef = files.flatten(abstract, shapes_only=True)
        refused: dict[Path, str] = {}
        # List the folder again each time: the writer may save a newer one and delete this one while we read it.
        while found := [f for f in self._found() if f[2] not in refused and step in (None, f[0])]:
            number, _, folder = found[-1]
            try:
                arrays, record = files.load(folder, number, expected)
            except Damaged as error:
                if step is not None:
                    raise
                refused[folder] = str(error) if os.path.lexists(folder) else ""
                self._refused.add(folder)
                continue
            if any(refused.values()):
                reasons = "\n  ".join(filter(None, refused.values()))
                warnings.warn(f"restored the older step {number}, because:\n  {reasons}", stacklevel=2)
            likes = jax.tree_util.tree_leaves(abstract)
            leaves = [files.place(*arrays[path], like) for path, like in zip(expected, likes, strict=True)]
            return Restored(number, jax.tree_util.tree_unflatten(treedef, leaves), record)
        if refused:
            reasons = "\n  ".join(
                reason or f"{folder} was deleted while it was read" for folder, reason in refused.items()
            )
            raise CheckpointError(f"no checkpoint in {self.directory} can be loaded:\n  {reasons}")
        if not self.directory.is_dir():
            raise CheckpointError(f"{self.directory} is not a folder: check the path, or save a checkpoint first")
        which = "" if step is None else f" of {step=}"
        there = f"the steps there are {self.steps()}" if self.steps() else "the folder holds no checkpoints"
        raise CheckpointError(f"no checkpoint{which} in {self.directory}; {there}")

    def _found(self) -> list[tuple[int, int, Path]]:
        """(step, revision, folder) of each checkpoint, complete or not, lowest first.

        With `overwrite`, only those that this store has saved.
        """
        return [found for found in self._listed() if not self.overwrite or found[2] in self._saved]

    def _listed(self) -> list[tuple[int, int, Path]]:
        try:
            names = os.listdir(self.directory)
        except (FileNotFoundError, NotADirectoryError):
            return []
        matches = [match for name in names if (match := _NAME.fullmatch(name))]
        return sorted((int(match[1]), int(match[2] or 0), self.directory / match[0]) for match in matches)

    def _prune(self, saved: int) -> None:
        # Damaged checkpoints do not count towards `keep`, or they would replace intact ones. They stay, so that a
        # user can examine them, until a newer step is saved.
        found = [(step, folder) for step, _, folder in self._listed() if not folder.is_symlink()]
        if self.overwrite:
            loadable = [(step, folder) for step, folder in found if folder in self._saved]
        else:
            found = [(step, folder) for step, folder in found if folder not in self._refused or step <= saved]
            loadable = [(step, folder) for step, folder in found if folder not in self._refused]
        newest = {step: folder for step, folder in loadable if files.is_complete(folder)}
        # Keep the step just saved in any case: it is below others if this run continues from an earlier step.
        kept = sorted(newest, key=lambda step: (step == saved, step))[-self.keep :]
        deleted = {folder for _, folder in found} - {newest[step] for step in kept}
        trash = {folder: folder.with_name(f"{folder.name}.trash") for folder in sorted(deleted, reverse=True)}
        self._saved -= deleted
        # All are renamed before the first is deleted, which may take long: a process that is killed meanwhile must
        # not leave a higher step of a run that this one replaces.
        for act in (os.rename, lambda _, renamed: shutil.rmtree(renamed)):
            for folder in list(trash):
                try:
                    act(folder, trash[folder])
                except OSError as error:
                    warnings.warn(
                        f"step {saved} is saved, but {folder} could not be deleted: {error}", stacklevel=3
                    )
                    del trash[folder]
