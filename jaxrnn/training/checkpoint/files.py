"""Writes the files of one checkpoint, and reads them only if their checksums are right.

Orbax writes and reads the arrays (:mod:`jaxrnn.training.checkpoint.orbax_io`). `record.json` beside them holds
the user's record, the path, shape, dtype and SHA-256 of each leaf, the SHA-256 of each file, and of itself.
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
"""An upper bound of the bytes that Orbax writes for each array besides its data, and once for the folder."""


class CheckpointError(ValueError):
    """A checkpoint could not be loaded or written: it is missing, damaged, or does not match the request."""


class Damaged(CheckpointError):
    """This checkpoint cannot be loaded at all, whatever the caller expects; an older one may be intact."""


class Leaf(NamedTuple):
    data: Any  # a plain array or its ShapeDtypeStruct; for a PRNG key, its key data
    dtype: str  # of the leaf itself: for a PRNG key, a name like key<fry>
    key_impl: str | None  # None for plain arrays


def is_complete(folder: Path) -> bool:
    return not folder.is_symlink() and (folder / RECORD).is_file()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def flatten(tree: Any, *, shapes_only: bool = False) -> tuple[dict[str, Leaf], Any]:
    """The leaves by their path, and the tree structure. With `shapes_only`, leaves may be abstract or donated.

    Raises:
        TypeError: a leaf is not an array of numbers or booleans, nor a number.
        ValueError: two leaves have the same path.
    """
    with_path, treedef = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {}
    for key_path, leaf in with_path:
        path = jax.tree_util.keystr(key_path)
        if path in leaves:
            raise ValueError(f"two leaves have the path {path}: give each a key that prints differently")
        if isinstance(leaf, bool | int | float | complex) and not isinstance(leaf, np.generic):
            # The dtype that jit gives it, so that a state has one dtype before and after its first step.
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
    """The array as a jax array or PRNG key, with the sharding of `like` if it has one."""
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        return array  # JAX would round it
    leaf = array if key_impl is None else jax.random.wrap_key_data(jnp.asarray(array), impl=key_impl)
    # JAX moves uncommitted arrays to the device of the arrays they are used with. A sharding would commit it.
    uncommitted = isinstance(like, jax.Array) and not like.committed
    return jax.device_put(leaf, None if uncommitted else getattr(like, "sharding", None))


def require_plain_json(value: Any, where: str) -> None:
    """Raise a TypeError unless JSON gives this value back unchanged; `where` names it in the message."""
    # Compare exact types: json accepts tuples, IntEnums and np.float64, but reads them back as other types.
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(f"{where} has the key {key!r} of {type(key)}: JSON keys must be strings")
            require_plain_json(item, f"{where}[{key!r}]")
    elif type(value) is list:
        for i, item in enumerate(value):
            require_plain_json(item, f"{where}[{i}]")
    elif type(value) not in (str, int, float, bool, type(None)):
        raise TypeError(f"{where} is {value!r} of {type(value)}: convert it to plain JSON, as with float()")


def _numbered(arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    # Paths may hold any character, so number the arrays. Orbax refuses arrays without elements.
    return {f"leaf_{i:05d}": array for i, array in enumerate(arrays) if array.size}


def write(folder: Path, content: dict[str, Any], leaves: dict[str, Leaf]) -> None:
    """Write the leaves and `record.json` into an empty folder, and sync everything to disk."""
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
    # Older checkpoints are deleted after this one is saved, so it must be on disk, not only in the page cache.
    for root, _, names in os.walk(folder, topdown=False):
        for path in (*(os.path.join(root, name) for name in names), root):
            fsync(path)


def _require_space(folder: Path, size: int) -> None:
    """Raise an OSError if the disk or the quota has no room for that many bytes; allocates and frees them.

    Orbax also fails on a full disk, but then its threads keep writing to the folder for a while.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    path = folder / "space"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):  # not supported by the file system
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
    """The error to show to a user: an OSError if the file system refused to write, else a CheckpointError."""
    number = getattr(error, "errno", None)
    # TensorStore raises a ValueError with the errno in its text.
    if match := re.search(r"os_error_code='([0-9]+)'", str(error)):
        number = int(match[1])
    elif "RESOURCE_EXHAUSTED" in str(error):
        number = errno.ENOSPC
    # strerror instead of TensorStore's own text, which is a page of settings; __cause__ keeps it.
    filename = getattr(error, "filename", None)
    reason = os.strerror(number) + (f": {filename}" if filename else "") if number else str(error)
    message = f"could not save {step=} in {directory}: {reason}; the checkpoints saved before are intact"
    return OSError(number, message) if number else CheckpointError(message)


def _files(folder: Path) -> dict[str, Path]:
    """All files in the folder, by relative path. Refuses links, which may lead outside, and pipes, which block."""
    files = {}
    for path in [folder, *(Path(root, n) for root, dirs, names in os.walk(folder) for n in dirs + names)]:
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode):
            files[path.relative_to(folder).as_posix()] = path
        elif not stat.S_ISDIR(mode):
            raise Damaged(f"{path} is a link or special file: a checkpoint may read only its own files")
    return files


def load(folder: Path, step: int, expected: Mapping[str, Leaf]) -> tuple[dict[str, tuple[Any, Any]], Any]:
    """Read a checkpoint and check it. Returns (array, key_impl) by path, and the user's record.

    Raises:
        Damaged: the checkpoint cannot be loaded.
        CheckpointError: it has another format, or other leaves than `expected`.
    """
    try:
        files = _files(folder)
        if RECORD not in files:
            raise Damaged(f"{folder} is incomplete: it has no {RECORD}")
        checked = json.loads(files[RECORD].read_bytes())
        content = checked["content"]
        if sha256(json.dumps(content).encode()) != checked["sha256"]:
            raise Damaged(f"{files[RECORD]} is damaged: its checksum is wrong")
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
                raise Damaged(f"{folder}: leaf {path} is not what was saved: its checksum is wrong")
        return loaded, content["record"]
    except CheckpointError:
        raise
    except Exception as error:  # json, Orbax and the file system raise many types, which all mean damage
        raise Damaged(f"{folder} cannot be read: {type(error).__name__}: {error}") from error


def _require_key_impls(folder: Path, saved: Mapping[str, Any], expected: Mapping[str, Leaf]) -> None:
    """Check that each leaf's `key_impl`, from which `place` makes keys, agrees with the dtype that was saved."""
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
        raise CheckpointError(
            f"{folder} does not match; use the code and settings that it was saved with:\n  {listing}"
        )
