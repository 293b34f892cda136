"""The files of one checkpoint: writing them, and reading them only where every byte is what was written.

Orbax writes and reads the arrays (:mod:`jaxrnn.training.checkpoint.orbax_io`). `record.json` beside them holds
what the user gave, the path, shape, dtype and SHA-256 of each leaf, the SHA-256 of each file, and of itself.
"""

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.training.checkpoint import orbax_io

FORMAT = 1
RECORD = "record.json"
_ARRAYS = "arrays"
_OVERHEAD = 8192
"""Bytes that Orbax needs for an array beside its data, and for the folder; rather too many."""


class CheckpointError(ValueError):
    """A checkpoint could not be loaded or written: none there, damaged, or not what was asked for."""


class Damaged(CheckpointError):
    """This checkpoint is of no use to anyone; an older one may be fine."""


class Leaf(NamedTuple):
    data: Any  # plain array or its ShapeDtypeStruct; of a PRNG key, its key data
    dtype: str  # of the leaf itself: for a PRNG key something like key<fry>
    key_impl: str | None


def is_complete(folder: Path) -> bool:
    return not folder.is_symlink() and (folder / RECORD).is_file()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def flatten(tree: Any, *, shapes_only: bool = False) -> tuple[dict[str, Leaf], Any]:
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
        leaves[path] = Leaf(leaf, str(dtype), key_impl)
    return leaves, treedef


def place(array: np.ndarray, key_impl: str | None, like: Any) -> Any:
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        return array
    leaf = array if key_impl is None else jax.random.wrap_key_data(jnp.asarray(array), impl=key_impl)
    # An uncommitted array may follow others to their device; putting it on its own would tie it there.
    uncommitted = isinstance(like, jax.Array) and not like.committed
    return jax.device_put(leaf, None if uncommitted else getattr(like, "sharding", None))


def require_plain_json(value: Any, where: str) -> None:
    # Exact types: json would take a tuple, an IntEnum or np.float64, and give back something else.
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(f"{where} has the key {key!r} of {type(key)}: JSON keys are strings")
            require_plain_json(item, f"{where}[{key!r}]")
    elif type(value) is list:
        for i, item in enumerate(value):
            require_plain_json(item, f"{where}[{i}]")
    elif type(value) not in (str, int, float, bool, type(None)):
        raise TypeError(f"{where} is {value!r} of {type(value)}: convert it to plain JSON, as with float()")


def _numbered(arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    # Not by path, which may hold any character; and without the arrays of no elements, which Orbax refuses.
    return {f"leaf_{i:05d}": array for i, array in enumerate(arrays) if array.size}


def write(folder: Path, content: dict[str, Any], leaves: dict[str, Leaf]) -> None:
    arrays = [np.asarray(leaf.data) for leaf in leaves.values()]
    _require_space(folder, sum(array.nbytes for array in arrays) + _OVERHEAD * (1 + len(arrays)))
    if tree := _numbered(arrays):
        orbax_io.save(folder / _ARRAYS, tree)
    content["leaves"] = {
        path: {
            "shape": list(array.shape),
            "dtype": leaf.dtype,
            "key_impl": leaf.key_impl,
            "sha256": sha256(array.tobytes()),
        }
        for (path, leaf), array in zip(leaves.items(), arrays, strict=True)
    }
    content["files"] = {name: sha256(path.read_bytes()) for name, path in _files(folder).items()}
    checked = {"sha256": sha256(json.dumps(content).encode()), "content": content}
    (folder / RECORD).write_text(json.dumps(checked, indent=1))
    # Older checkpoints are deleted on the strength of this one: it must be on disk, not in the page cache.
    for root, _, names in os.walk(folder, topdown=False):
        for path in (*(os.path.join(root, name) for name in names), root):
            fsync(path)


def _require_space(folder: Path, size: int) -> None:
    """Have that many bytes allocated and freed again: an OSError where disk or quota has no room for them.

    On a full disk Orbax fails too, but goes on writing for a while to where it has failed.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    path = folder / "space"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):  # this file system cannot tell
            raise
    finally:
        os.close(descriptor)
        path.unlink()


def fsync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def could_not_save(error: Exception, step: int, directory: Path) -> Exception:
    """The error as a user should see it: an OSError where the file system refused, and what became of the rest."""
    number = getattr(error, "errno", None)
    # TensorStore raises a ValueError with the errno in its text.
    if match := re.search(r"os_error_code='([0-9]+)'", str(error)):
        number = int(match[1])
    elif "RESOURCE_EXHAUSTED" in str(error):
        number = errno.ENOSPC
    # And with a page of its own settings around it, which __cause__ keeps.
    where = getattr(error, "filename", None)
    reason = os.strerror(number) + (f": {where}" if where else "") if number else str(error)
    message = f"could not save {step=} in {directory}: {reason}; the checkpoints saved before are intact"
    return OSError(number, message) if number else CheckpointError(message)


def _files(folder: Path) -> dict[str, Path]:
    """Every file below, by relative name. Refuses links, which can lead out, and pipes, which would block."""
    files = {}
    for path in [folder, *(Path(root, n) for root, dirs, names in os.walk(folder) for n in dirs + names)]:
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode):
            files[path.relative_to(folder).as_posix()] = path
        elif not stat.S_ISDIR(mode):
            raise Damaged(f"{path} is a link or special file: a checkpoint may read only its own files")
    return files


def load(folder: Path, step: int, expected: Mapping[str, Leaf]) -> tuple[dict[str, tuple[Any, Any]], Any]:
    """(array, key_impl) by path, and the user's record."""
    try:
        files = _files(folder)
        if RECORD not in files:
            raise Damaged(f"{folder} is incomplete: it has no {RECORD}")
        checked = json.loads(files[RECORD].read_bytes())
        content = checked["content"]
        if sha256(json.dumps(content).encode()) != checked["sha256"]:
            raise Damaged(f"{files[RECORD]} is damaged: its checksum does not fit")
        if content["format"] != FORMAT:
            raise CheckpointError(f"{folder} has format {content['format']}, but this jaxrnn reads {FORMAT}")
        if content["step"] != step:
            raise Damaged(f"{folder} holds step {content['step']}: it was renamed")
        saved = content["leaves"]
        _require_same(folder, saved, expected)
        _require_key_impls(folder, saved, expected)
        for name, digest in content["files"].items():
            if name not in files or sha256(files[name].read_bytes()) != digest:
                raise Damaged(f"{folder / name} is {'damaged' if name in files else 'missing'}")
        arrays = [np.empty(expected[path].data.shape, expected[path].data.dtype) for path in saved]
        if tree := _numbered(arrays):
            tree = orbax_io.load(folder / _ARRAYS, tree)
        loaded = {}
        for i, (path, leaf) in enumerate(saved.items()):
            loaded[path] = tree.get(f"leaf_{i:05d}", arrays[i]), leaf["key_impl"]
            if sha256(loaded[path][0].tobytes()) != leaf["sha256"]:
                raise Damaged(f"{folder}: leaf {path} is not what was saved: its checksum does not fit")
        return loaded, content["record"]
    except CheckpointError:
        raise
    except Exception as error:  # from json, Orbax or the file system: whichever, this one cannot be used
        raise Damaged(f"{folder} cannot be read: {type(error).__name__}: {error}") from error


def _require_key_impls(folder: Path, saved: Mapping[str, Any], expected: Mapping[str, Leaf]) -> None:
    """`place` will make keys of the kind that is named in the record: it must be the kind that was saved."""
    for path, leaf in saved.items():
        data, key_impl = expected[path].data, leaf["key_impl"]
        dtype = data.dtype
        if key_impl is not None:
            shape = jax.ShapeDtypeStruct(data.shape, data.dtype)
            dtype = jax.eval_shape(partial(jax.random.wrap_key_data, impl=key_impl), shape).dtype
        if str(dtype) != leaf["dtype"]:
            raise Damaged(f"{folder}: leaf {path} is of {leaf['dtype']}, but its record names {key_impl=}")


def _require_same(folder: Path, saved: Mapping[str, Any], expected: Mapping[str, Leaf]) -> None:
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
