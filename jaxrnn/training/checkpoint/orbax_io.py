"""Writes arrays to a folder and reads them with Orbax. No other module uses Orbax.

Orbax makes all processes of a job save together and wait for each other. Here one process saves while the others
continue to train. So if there are several processes, Orbax runs in a child process that is not part of the job.
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

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def save(path: Path, arrays: Arrays) -> None:
    """Write NumPy arrays into a new folder; raises OSError or, from TensorStore, ValueError."""
    if jax.process_count() > 1:
        _in_child_process("save", path, arrays)
        return
    with _plain_path(path) as plain, _orbax() as ocp:
        ocp.save(plain, arrays)


def load(path: Path, like: Arrays) -> Arrays:
    """Read the arrays in a folder, which must have the names, shapes and dtypes of ``like``."""
    if jax.process_count() > 1:
        return _in_child_process("load", path, like)
    with _plain_path(path) as plain, _orbax() as ocp:
        _require_sizes(ocp.metadata(plain).metadata, like)
        return ocp.load(plain, like)


def _require_sizes(metadata: Any, like: Arrays) -> None:
    """Raise a ValueError if the files describe other arrays, before Orbax allocates memory for those."""
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
def _plain_path(path: Path) -> Iterator[str]:
    """The path, or a symbolic link to it if the path has characters that Orbax may misread.

    Orbax treats a path as a pattern: in a folder called ``a[b]`` or ``a\\b`` it saves files that it cannot load.
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
    """Orbax without its log, which has twenty lines per call at INFO, and two hundred if the disk is full."""
    from orbax.checkpoint import v1

    logger = logging.getLogger("absl")
    level, hook = logger.level, sys.unraisablehook
    logger.setLevel(logging.CRITICAL)  # errors are raised as well, so their logged tracebacks add nothing
    if not isinstance(hook, _IgnoreClosedLoop):
        sys.unraisablehook = _IgnoreClosedLoop(hook)
    try:
        yield v1
        sys.unraisablehook = hook  # not after a failure: TensorStore's late errors come at any time
    finally:
        logger.setLevel(level)


class _IgnoreClosedLoop:
    """An unraisable hook that ignores TensorStore's errors after a failed save.

    When a save fails, Orbax closes the event loop while TensorStore still writes. Each of these writes then ends
    with a traceback in a TensorStore thread. They add nothing: the reason for the failure has been raised.
    """

    def __init__(self, other: Callable[[Any], object]):
        self._other = other

    def __call__(self, unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            self._other(unraisable)


def _in_child_process(action: str, path: Path, arrays: Arrays) -> Any:
    """Call :func:`save` or :func:`load` in a child process."""
    root = os.fspath(Path(__file__).parents[3])
    known = os.environ.get("PYTHONPATH")
    environment = os.environ | {
        "PYTHONPATH": root + (os.pathsep + known if known else ""),
        "JAX_PLATFORMS": "cpu",  # this process uses the accelerators
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
        answer, errors = child.communicate(pickle.dumps((action, path, arrays)))
    if child.returncode:
        raise RuntimeError(
            f"the child process that should {action} the arrays ended with exit code {child.returncode}: "
            f"{errors[-2000:]!r}"
        )
    number, message, result = pickle.loads(answer)  # safe: our own child process wrote it
    if message is not None:
        raise OSError(number, message) if number else ValueError(message)
    return result


@contextlib.contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """Block the signals to stop while a child process is started; it inherits the blocked signals.

    Terminals and schedulers send these signals to every process of a run, but a save that has begun should finish.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve() -> None:
    """Runs in the child process: reads one call from stdin, and writes its result or error to stdout."""
    _end_with_parent()
    action, path, arrays = pickle.load(sys.stdin.buffer)
    try:
        answer = None, None, {"save": save, "load": load}[action](path, arrays)
    except Exception as error:
        answer = getattr(error, "errno", None), str(error), None
    sys.stdout.buffer.write(pickle.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # after a failed save Orbax leaves threads running, and a normal exit would wait for them


def _end_with_parent() -> None:
    """On Linux, end together with the parent process, or this process might disturb the next run's saves."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:  # the parent had already ended
            os._exit(1)
