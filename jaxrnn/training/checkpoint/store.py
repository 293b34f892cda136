"""Numbered checkpoints: a pytree of arrays and a small JSON record, in one folder that outlives crashes.

Orbax writes and reads the arrays. What is added, and why:

- A folder is a checkpoint by its name alone. It is written and synced under a `.tmp` name and renamed once,
  to `step_00000012`; deletion first renames to `.trash`. So a kill leaves a whole checkpoint or none. No two
  attempts share a `.tmp` name: of one that failed Orbax may still be writing when the next has begun.
- Nothing is overwritten. A step saved again becomes `step_00000012.1`, and only then does the older folder
  go: with one name for both there would be an instant with neither.
- One writes. The first `save` (or `claim`) locks the folder until `close`; the kernel frees a dead writer's lock.
- Every byte is checked (:mod:`jaxrnn.training.checkpoint.files`). Orbax loads a flipped bit as a wrong number
  without a word. So `record.json` holds the SHA-256 of each file, checked before Orbax reads it, of each leaf,
  checked after, and of itself.
- Damage falls back, a mismatch does not. The checkpoint before a damaged one is as good, only older. A shape
  that does not fit means that the code or its settings are wrong; an older step would only hide it.
- An older run never hides a newer one. `restore` takes the highest step, so a run that begins anew in a folder
  with higher steps of an earlier run would get those back. Its first save is an error; `overwrite=True` replaces
  what is there.
- The structure comes from the caller. Stored is a flat list of leaves, so None, NamedTuples, dataclasses and
  optax states need no code of their own, and no file can name a class to build.

For arrays of which this process can address all. Of several processes that train together, one saves its copy.
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
except ImportError:  # not on Windows: there, that only one writes is up to the user
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

    One writer at a time, which holds a lock on the folder. Readers may come and go while it writes; they never
    change anything. Saving is synchronous: when `save` returns, the checkpoint is on disk.

    A folder that is used again: to go on with the run in it, call `restore` and save higher steps. A run that
    begins anew there is refused as long as the folder holds higher steps, since `restore` would return those
    instead of what was saved last. Choose another folder then, or pass ``overwrite=True``.

    Args:
        directory: the folder; made by the first `save`, with its parents.
        keep: how many checkpoints stay: the one saved last, then those with the highest steps.
        overwrite: replace whatever the folder holds from before. This store neither lists nor restores it, and the
            first `save` deletes it as soon as the new checkpoint is on disk.

    Raises:
        ValueError: `keep` is below 1.

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
            raise ValueError(f"{keep=} must be at least 1, else the checkpoint just saved would be deleted")
        self.directory = Path(os.path.abspath(directory))
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
        """Ends writing: a later `save` raises ValueError. Nothing is pending, since saving is synchronous."""
        self._closed = True
        self._release()

    def claim(self) -> None:
        """Makes the folder, and makes this store its only writer until `close`; `save` does so too.

        Raises:
            CheckpointError: another store, of this process or another, writes there.
            OSError: the folder cannot be made.
        """
        self._require_open()
        if not self.directory.is_dir():
            self.directory.mkdir(parents=True, exist_ok=True)
            files.fsync(self.directory.parent)
        if fcntl is None or self._holds_lock():
            return
        self._release()
        # On the folder itself, so that nothing is left over. It is freed with its file descriptor: by close(), by
        # the garbage collector, or by the kernel when the process is gone, however it ended.
        descriptor = os.open(self.directory, os.O_RDONLY)
        self._lock = weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            raise CheckpointError(
                f"another process writes checkpoints to {self.directory}: wait for its end, or use another folder"
            ) from None
        except OSError:
            pass  # this file system has no locks

    def _holds_lock(self) -> bool:
        """Whether the folder that is locked is still the one at that path; it may have been deleted meanwhile."""
        held = None if self._lock is None else self._lock.peek()
        return held is not None and os.path.samestat(os.fstat(held[2][0]), os.stat(self.directory))

    def _release(self) -> None:
        if self._lock is not None:
            self._lock()
            self._lock = None

    def _require_open(self) -> None:
        if self._closed:
            raise ValueError(f"the store of {self.directory} is closed: open a new one to save to it")

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, ascending. `restore` checks their content, this does not."""
        return sorted({step for step, _, folder in self._found() if files.is_complete(folder)})

    def require_newest(self, step: int) -> None:
        """Checks that a checkpoint saved now at `step` would be the one that `restore` returns.

        Raises:
            CheckpointError: the folder holds a higher step that another store has saved. Those that this store has
                found to be damaged do not count.
        """
        others = [found for found in self._found() if found[2] not in self._saved | self._refused]
        higher = [number for number, _, folder in others if number > step and files.is_complete(folder)]
        if higher:
            raise CheckpointError(
                f"{self.directory} holds step {max(higher)} of an earlier run: restore would return it instead of "
                f"{step=}. Restore that step first to go on with the run, use another folder, or delete what is "
                f"there with CheckpointStore(..., overwrite=True)"
            )

    def save(self, step: int, arrays: Any, record: Mapping[str, Any] | None = None) -> None:
        """Saves a checkpoint, replacing one of the same step, and deletes those that `keep` does not cover.

        Args:
            step: its number, at least 0.
            arrays: a pytree of arrays, PRNG keys and numbers. A Python number is stored with the dtype jit
                gives it (a float as float32, without x64): what must stay exact belongs in `record`.
            record: plain JSON values with string keys: dict, list, str, int, float, bool, None. NaN and the
                infinities are written as Python's json does: NaN, Infinity.

        Raises:
            TypeError: a leaf is not an array or number, or a value of `record` is not plain JSON.
            OSError: full disk, read-only folder, ...; the checkpoints saved before are intact.
            CheckpointError: another store writes there, an earlier run has left higher steps there (see
                `require_newest`), or Orbax could not write for another reason; the earlier checkpoints are intact
                as well.
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
                if _LEFTOVER.fullmatch(name):  # its writer is dead, or has failed: there is only one, here
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
            what = names if self.directory.is_dir() else f"the folder, with {names} in it,"
            warnings.warn(
                f"{what} was deleted from {self.directory} by somebody else: a new one is written there",
                stacklevel=3,
            )

    def restore(self, abstract: Any, *, step: int | None = None) -> Restored:
        """Loads the newest undamaged checkpoint, or the one of `step`.

        Args:
            abstract: a pytree of arrays or `jax.ShapeDtypeStruct`: the structure, shapes and dtypes saved.
            step: load this one or raise. None: the highest; if it is damaged, warn and take the one before.

        Returns:
            The step, the arrays and the record. Leaves are jax arrays, with the sharding of `abstract`'s leaf
            if it has one; only what JAX would round (64-bit NumPy leaves, without x64) stays a NumPy array.

        Raises:
            CheckpointError: none there, none undamaged (with the reason for each), or a leaf is missing,
                unexpected, or of another shape or dtype.
        """
        expected, treedef = files.flatten(abstract, shapes_only=True)
        refused: dict[Path, str] = {}
        # Listed anew each time: the writer may delete this one, and save a newer one, while it is being read.
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
                reason or f"{folder} was deleted meanwhile" for folder, reason in refused.items()
            )
            raise CheckpointError(f"no checkpoint in {self.directory} can be loaded:\n  {reasons}")
        if not self.directory.is_dir():
            raise CheckpointError(f"{self.directory} is not a folder: check the path, or save a checkpoint first")
        which = "" if step is None else f" of {step=}"
        raise CheckpointError(f"no checkpoint{which} in {self.directory}; the steps there are {self.steps()}")

    def _found(self) -> list[tuple[int, int, Path]]:
        """(step, revision, folder) of all that is named like a checkpoint, complete or not, oldest first; with
        `overwrite` only of what this store has saved."""
        return [found for found in self._listed() if not self.overwrite or found[2] in self._saved]

    def _listed(self) -> list[tuple[int, int, Path]]:
        try:
            names = os.listdir(self.directory)
        except (FileNotFoundError, NotADirectoryError):
            return []
        matches = [match for name in names if (match := _NAME.fullmatch(name))]
        return sorted((int(match[1]), int(match[2] or 0), self.directory / match[0]) for match in matches)

    def _prune(self, saved: int) -> None:
        # What this store could not load must not push out what can be loaded. It stays, for another look at it,
        # until it is not the newest any more.
        found = [(step, folder) for step, _, folder in self._listed() if not folder.is_symlink()]
        if self.overwrite:
            loadable = [(step, folder) for step, folder in found if folder in self._saved]
        else:
            found = [(step, folder) for step, folder in found if folder not in self._refused or step <= saved]
            loadable = [(step, folder) for step, folder in found if folder not in self._refused]
        newest = {step: folder for step, folder in loadable if files.is_complete(folder)}
        # The saved step first: it may be below others, if this run goes on from an earlier step than they.
        kept = sorted(newest, key=lambda step: (step == saved, step))[-self.keep :]
        for folder in {folder for _, folder in found} - {newest[step] for step in kept}:
            trash = folder.with_name(f"{folder.name}.trash")
            self._saved.discard(folder)
            try:
                os.rename(folder, trash)
                shutil.rmtree(trash)
            except OSError as error:
                warnings.warn(f"step {saved} is saved, but {folder} could not be deleted: {error}", stacklevel=3)
