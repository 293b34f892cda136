"""Numbered checkpoints: a pytree of arrays and a small JSON record, in one folder that outlives crashes.

Orbax writes and reads the arrays; no other module touches it. What is added, and why:

- A folder is a checkpoint by its name alone. It is written and synced under a `.tmp` name and renamed once,
  to `step_00000012`; deletion first renames to `.trash`. So a kill leaves a whole checkpoint or none.
- Nothing is overwritten. A step saved again becomes `step_00000012.1`, and only then does the older folder
  go: with one name for both there would be an instant with neither.
- Every byte is checked. Orbax loads a flipped bit as a wrong number without a word. So `record.json` holds
  the SHA-256 of each file, checked before Orbax reads it, of each leaf, checked after, and of itself.
- Damage falls back, a mismatch does not. The checkpoint before a damaged one is as good, only older. A shape
  that does not fit means that the code or its settings are wrong; an older step would only hide it.
- The structure comes from the caller. Stored is a flat list of leaves, so None, NamedTuples, dataclasses and
  optax states need no code of their own, and no file can name a class to build.

For one process, which can address all of every array.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import operator
import os
import re
import shutil
import stat
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_FORMAT = 1
_RECORD = "record.json"
_ARRAYS = "arrays"
_NAME = re.compile(r"step_([0-9]{8,})(?:\.([0-9]+))?")
_LEFTOVER = re.compile(_NAME.pattern + r"\.(?:tmp|trash)")


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint: its step, the arrays in the structure of `abstract`, and the record saved with them."""

    step: int
    arrays: Any
    record: dict[str, Any]


class CheckpointError(ValueError):
    """A checkpoint could not be loaded or written: none there, damaged, or not what was asked for."""


class _Damaged(CheckpointError):
    """This checkpoint is of no use to anyone; an older one may be fine."""


class _Leaf(NamedTuple):
    data: Any  # plain array or its ShapeDtypeStruct; of a PRNG key, its key data
    dtype: str  # of the leaf itself: for a PRNG key something like key<fry>
    key_impl: str | None


class CheckpointStore:
    """Numbered checkpoints of a pytree of arrays plus a small JSON record, in one folder.

    One writer at a time. Readers may come and go while it writes; they never change anything. Saving is
    synchronous: when `save` returns, the checkpoint is on disk.

    Args:
        directory: the folder; made by the first `save`, with its parents.
        keep: how many checkpoints stay: the one saved last, then those with the highest steps.

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

    def __init__(self, directory: str | os.PathLike[str], *, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"{keep=} must be at least 1, else the checkpoint just saved would be deleted")
        self.directory = Path(os.path.abspath(directory))
        self.keep = keep
        self._closed = False

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends writing: a later `save` raises ValueError. Nothing is pending, since saving is synchronous."""
        self._closed = True

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, ascending. `restore` checks their content, this does not."""
        return sorted({step for step, _, folder in self._found() if _is_complete(folder)})

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
            CheckpointError: Orbax could not write for another reason; the earlier ones are intact as well.
        """
        if self._closed:
            raise ValueError(f"the store of {self.directory} is closed: open a new one to save {step=}")
        step, record = operator.index(step), dict(record or {})
        if step < 0:
            raise ValueError(f"{step=} must be at least 0")
        _require_plain_json(record, "record")
        leaves, _ = _flatten(arrays)
        revisions = [revision for other, revision, _ in self._found() if other == step]
        final = self.directory / (f"step_{step:08d}" + (f".{revisions[-1] + 1}" if revisions else ""))
        temporary = final.with_name(f"{final.name}.tmp")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for name in os.listdir(self.directory):
                if _LEFTOVER.fullmatch(name):  # its writer is dead: there is only one, and it is here
                    shutil.rmtree(self.directory / name, ignore_errors=True)
            temporary.mkdir()
            _write(temporary, {"format": _FORMAT, "step": step, "record": record}, leaves)
            os.rename(temporary, final)
            _fsync(self.directory)
        except Exception as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise _could_not_save(error, step, self.directory) from error
        self._prune(step)

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
        expected, treedef = _flatten(abstract, shapes_only=True)
        refused: dict[Path, str] = {}
        # Listed anew each time: the writer may delete this one, and save a newer one, while it is being read.
        while found := [f for f in self._found() if f[2] not in refused and step in (None, f[0])]:
            number, _, folder = found[-1]
            try:
                arrays, record = _load(folder, number, expected)
            except _Damaged as error:
                if step is not None:
                    raise
                refused[folder] = str(error) if os.path.lexists(folder) else ""
                continue
            if any(refused.values()):
                reasons = "\n  ".join(filter(None, refused.values()))
                warnings.warn(f"restored the older step {number}, because:\n  {reasons}", stacklevel=2)
            likes = jax.tree_util.tree_leaves(abstract)
            leaves = [_place(*arrays[path], like) for path, like in zip(expected, likes, strict=True)]
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
        """(step, revision, folder) of all that is named like a checkpoint, complete or not, oldest first."""
        try:
            names = os.listdir(self.directory)
        except (FileNotFoundError, NotADirectoryError):
            return []
        matches = [match for name in names if (match := _NAME.fullmatch(name))]
        return sorted((int(match[1]), int(match[2] or 0), self.directory / match[0]) for match in matches)

    def _prune(self, saved: int) -> None:
        found = [entry for entry in self._found() if not entry[2].is_symlink()]
        newest = {step: folder for step, _, folder in found if _is_complete(folder)}
        # The saved step first: after a fallback it may be below a damaged one, which must not push it out.
        kept = sorted(newest, key=lambda step: (step == saved, step))[-self.keep :]
        for folder in {folder for _, _, folder in found} - {newest[step] for step in kept}:
            trash = folder.with_name(f"{folder.name}.trash")
            try:
                os.rename(folder, trash)
                shutil.rmtree(trash)
            except OSError as error:
                warnings.warn(f"step {saved} is saved, but {folder} could not be deleted: {error}", stacklevel=3)


def _is_complete(folder: Path) -> bool:
    return not folder.is_symlink() and (folder / _RECORD).is_file()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _flatten(tree: Any, *, shapes_only: bool = False) -> tuple[dict[str, _Leaf], Any]:
    """The leaves by their path, and the structure. With `shapes_only` they may be abstract, or donated."""
    with_path, treedef = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {}
    for key_path, leaf in with_path:
        path = jax.tree_util.keystr(key_path)
        if path in leaves:
            raise ValueError(f"two leaves have the path {path}: give each its own key")
        if isinstance(leaf, bool | int | float | complex) and not isinstance(leaf, np.generic):
            # As jit sees it, so that a state saved before the first step fits one after it.
            leaf = np.asarray(leaf, jnp.result_type(leaf))
        dtype, key_impl = getattr(leaf, "dtype", np.dtype(object)), None
        if jnp.issubdtype(dtype, jax.dtypes.prng_key) and shapes_only:
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        elif jnp.issubdtype(dtype, jax.dtypes.prng_key):
            leaf, key_impl = jax.random.key_data(leaf), str(jax.random.key_impl(leaf))
        elif not ((jnp.issubdtype(dtype, np.number) or dtype == np.bool_) and np.dtype(dtype).isnative):
            raise TypeError(f"leaf {path} is of {type(leaf)}, {dtype=}: only arrays of numbers can be saved")
        leaves[path] = _Leaf(leaf, str(dtype), key_impl)
    return leaves, treedef


def _place(array: np.ndarray, key_impl: str | None, like: Any) -> Any:
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        return array
    leaf = array if key_impl is None else jax.random.wrap_key_data(jnp.asarray(array), impl=key_impl)
    # An uncommitted array may follow others to their device; putting it on its own would tie it there.
    uncommitted = isinstance(like, jax.Array) and not like.committed
    return jax.device_put(leaf, None if uncommitted else getattr(like, "sharding", None))


def _require_plain_json(value: Any, where: str) -> None:
    # Exact types: json would take a tuple, an IntEnum or np.float64, and give back something else.
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(f"{where} has the key {key!r} of {type(key)}: JSON keys are strings")
            _require_plain_json(item, f"{where}[{key!r}]")
    elif type(value) is list:
        for i, item in enumerate(value):
            _require_plain_json(item, f"{where}[{i}]")
    elif type(value) not in (str, int, float, bool, type(None)):
        raise TypeError(f"{where} is {value!r} of {type(value)}: convert it to plain JSON, as with float()")


@contextlib.contextmanager
def _orbax() -> Iterator[Any]:
    """Orbax, without its log: twenty lines per call at INFO, and two hundred when the disk is full."""
    from orbax.checkpoint import v1

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what fails is raised as well: no need of its tracebacks
    try:
        yield v1
    finally:
        logger.setLevel(level)


def _numbered(arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    # Not by path, which may hold any character; and without the arrays of no elements, which Orbax refuses.
    return {f"leaf_{i:05d}": array for i, array in enumerate(arrays) if array.size}


def _write(folder: Path, content: dict[str, Any], leaves: dict[str, _Leaf]) -> None:
    arrays = [np.asarray(leaf.data) for leaf in leaves.values()]
    if tree := _numbered(arrays):
        with _orbax() as ocp:
            ocp.save(os.fspath(folder / _ARRAYS), tree)
    content["leaves"] = {
        path: {
            "shape": list(array.shape),
            "dtype": leaf.dtype,
            "key_impl": leaf.key_impl,
            "sha256": _sha256(array.tobytes()),
        }
        for (path, leaf), array in zip(leaves.items(), arrays, strict=True)
    }
    content["files"] = {name: _sha256(path.read_bytes()) for name, path in _files(folder).items()}
    checked = {"sha256": _sha256(json.dumps(content).encode()), "content": content}
    (folder / _RECORD).write_text(json.dumps(checked, indent=1))
    # Older checkpoints are deleted on the strength of this one: it must be on disk, not in the page cache.
    for root, _, names in os.walk(folder, topdown=False):
        for path in (*(os.path.join(root, name) for name in names), root):
            _fsync(path)


def _fsync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _could_not_save(error: Exception, step: int, directory: Path) -> Exception:
    message = f"could not save {step=} in {directory}: {error}; the checkpoints saved before are intact"
    number = getattr(error, "errno", None)
    # TensorStore raises a ValueError with the errno in its text.
    if match := re.search(r"os_error_code='([0-9]+)'", str(error)):
        number = int(match[1])
    elif "RESOURCE_EXHAUSTED" in str(error):
        number = errno.ENOSPC
    return OSError(number, message) if number else CheckpointError(message)


def _files(folder: Path) -> dict[str, Path]:
    """Every file below, by relative name. Refuses links, which can lead out, and pipes, which would block."""
    files = {}
    for path in [folder, *(Path(root, n) for root, dirs, names in os.walk(folder) for n in dirs + names)]:
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode):
            files[path.relative_to(folder).as_posix()] = path
        elif not stat.S_ISDIR(mode):
            raise _Damaged(f"{path} is a link or special file: a checkpoint may read only its own files")
    return files


def _load(folder: Path, step: int, expected: Mapping[str, _Leaf]) -> tuple[dict[str, tuple[Any, Any]], Any]:
    """(array, key_impl) by path, and the user's record."""
    try:
        files = _files(folder)
        if _RECORD not in files:
            raise _Damaged(f"{folder} is incomplete: it has no {_RECORD}")
        checked = json.loads(files[_RECORD].read_bytes())
        content = checked["content"]
        if _sha256(json.dumps(content).encode()) != checked["sha256"]:
            raise _Damaged(f"{files[_RECORD]} is damaged: its checksum does not fit")
        if content["format"] != _FORMAT:
            raise CheckpointError(f"{folder} has format {content['format']}, but this jaxrnn reads {_FORMAT}")
        if content["step"] != step:
            raise _Damaged(f"{folder} holds step {content['step']}: it was renamed")
        saved = content["leaves"]
        _require_same(folder, saved, expected)
        for name, digest in content["files"].items():
            if name not in files or _sha256(files[name].read_bytes()) != digest:
                raise _Damaged(f"{folder / name} is {'damaged' if name in files else 'missing'}")
        arrays = [np.empty(expected[path].data.shape, expected[path].data.dtype) for path in saved]
        if tree := _numbered(arrays):
            with _orbax() as ocp:
                tree = ocp.load(os.fspath(folder / _ARRAYS), tree)
        loaded = {}
        for i, (path, leaf) in enumerate(saved.items()):
            loaded[path] = tree.get(f"leaf_{i:05d}", arrays[i]), leaf["key_impl"]
            if _sha256(loaded[path][0].tobytes()) != leaf["sha256"]:
                raise _Damaged(f"{folder}: leaf {path} is not what was saved: its checksum does not fit")
        return loaded, content["record"]
    except CheckpointError:
        raise
    except Exception as error:  # from json, Orbax or the file system: whichever, this one cannot be used
        raise _Damaged(f"{folder} cannot be read: {type(error).__name__}: {error}") from error


def _require_same(folder: Path, saved: Mapping[str, Any], expected: Mapping[str, _Leaf]) -> None:
    have = {path: f"{leaf['dtype']}{leaf['shape']}" for path, leaf in saved.items()}
    want = {path: f"{leaf.dtype}{list(leaf.data.shape)}" for path, leaf in expected.items()}
    problems = [
        f"leaf {path}: saved {have.get(path, 'nothing')}, asked for {want.get(path, 'nothing')}"
        for path in {**want, **have}
        if have.get(path) != want.get(path)
    ]
    if problems:
        listing = "\n  ".join(problems[:10] + [f"and {len(problems) - 10} more"] * (len(problems) > 10))
        raise CheckpointError(f"{folder} does not fit; use the code and settings it is from:\n  {listing}")
