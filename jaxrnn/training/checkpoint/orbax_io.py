"""Arrays to a folder and back, by Orbax: the only module that touches it.

Orbax expects all processes of a job to save together and has them wait for each other. Ours train on while one
saves, so with several processes Orbax works in a process of its own, which knows nothing of the others.
"""

import contextlib
import ctypes
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrnn.training.distributed import STOPPING

Arrays = dict[str, np.ndarray]

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def save(path: Path, arrays: Arrays) -> None:
    """Write NumPy arrays into a new folder; raises OSError or, from TensorStore, ValueError."""
    if jax.process_count() > 1:
        _elsewhere("save", path, arrays)
        return
    with _plain(path) as plain, _orbax() as ocp:
        ocp.save(plain, arrays)


def load(path: Path, like: Arrays) -> Arrays:
    """The arrays in a folder, of the names, shapes and dtypes of ``like``."""
    if jax.process_count() > 1:
        return _elsewhere("load", path, like)
    with _plain(path) as plain, _orbax() as ocp:
        _require_sizes(ocp.metadata(plain).metadata, like)
        return ocp.load(plain, like)


def _require_sizes(metadata: Any, like: Arrays) -> None:
    """A ValueError if the files describe other arrays, before Orbax makes room for what they describe."""
    for name, array in like.items():
        found = metadata[name]
        chunk = found.storage_metadata.chunk_shape or ()
        too_large = any(part > max(size, 1) for part, size in zip(chunk, array.shape))
        if found.shape != array.shape or found.dtype != array.dtype or too_large:
            raise ValueError(
                f"{name} is stored as {found.dtype}{list(found.shape)} in chunks of {list(chunk)}, but should be "
                f"{array.dtype}{list(array.shape)}"
            )


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[str]:
    """The path; by way of a link where it holds characters that Orbax may not take as they are.

    It takes a folder for a pattern: below one called ``a[b]`` or ``a\\b`` it saves what it cannot load any more.
    """
    whole = os.fspath(path)
    if os.name == "nt" or re.fullmatch(r"[\w ./,=@~+-]*", whole):
        yield whole
        return
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, "link")
        os.symlink(path.parent, link, target_is_directory=True)
        yield os.path.join(link, path.name)


@contextlib.contextmanager
def _orbax() -> Iterator[Any]:
    """Orbax, without its log: twenty lines per call at INFO, and two hundred when the disk is full."""
    from orbax.checkpoint import v1

    logger = logging.getLogger("absl")
    level, hook = logger.level, sys.unraisablehook
    logger.setLevel(logging.CRITICAL)  # what fails is raised as well: no need of its tracebacks
    if not isinstance(hook, _WithoutLateAnswers):
        sys.unraisablehook = _WithoutLateAnswers(hook)
    try:
        yield v1
        sys.unraisablehook = hook  # after a failure it must stay: late answers come at any time
    finally:
        logger.setLevel(level)


class _WithoutLateAnswers:
    """Of a save that failed Orbax closes the event loop while TensorStore still writes. The traceback that each of
    these writes then ends with, in a thread of TensorStore's own, says nothing: why the save failed was raised."""

    def __init__(self, other: Callable[[Any], object]):
        self._other = other

    def __call__(self, unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            self._other(unraisable)


def _elsewhere(what: str, path: Path, arrays: Arrays) -> Any:
    """Call :func:`save` or :func:`load` in a process of its own."""
    root = os.fspath(Path(__file__).parents[3])
    known = os.environ.get("PYTHONPATH")
    environment = os.environ | {
        "PYTHONPATH": root + (os.pathsep + known if known else ""),
        "JAX_PLATFORMS": "cpu",  # the accelerators are this process's
    }
    pipe = subprocess.PIPE
    with _stop_signals_blocked():
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", "from jaxrnn.training.checkpoint.orbax_io import _serve; _serve()"],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=environment,
        )
    with child:
        answer, errors = child.communicate(pickle.dumps((what, path, arrays)))
    if child.returncode:
        raise RuntimeError(f"the process that was to {what} ended with {child.returncode}: {errors[-2000:]!r}")
    number, message, result = pickle.loads(answer)  # by our own child, from what we gave it
    if message is not None:
        raise OSError(number, message) if number else ValueError(message)
    return result


@contextlib.contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """For a child process that is started here, which inherits the block and keeps it. A terminal sends Ctrl-C and
    SIGHUP to every process of a run, and a scheduler SIGTERM, but a save that has begun should be finished."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve() -> None:
    """The other side of :func:`_elsewhere`: one call from stdin, its result or error to stdout."""
    _end_with_parent()
    what, path, arrays = pickle.load(sys.stdin.buffer)
    try:
        answer = None, None, {"save": save, "load": load}[what](path, arrays)
    except Exception as error:
        answer = getattr(error, "errno", None), str(error), None
    sys.stdout.buffer.write(pickle.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # of a save that failed Orbax leaves threads behind that Python would wait for


def _end_with_parent() -> None:
    """On Linux: a process whose parent was killed must not go on writing where the next run may write."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:  # it was gone before that
            os._exit(1)
