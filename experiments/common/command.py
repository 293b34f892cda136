"""How the commands that train begin and end: Ctrl-C, errors, and an exit that does not hang."""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from experiments.common.report import discard_output, ended_early, fail, plain_warnings
from experiments.common.signals import CtrlC
from jaxrnn.training import EXIT_CODES

OUTPUT_CLOSED = 128 + 13
"""The exit code of a program whose output is read no longer, as shells count: the number of SIGPIPE is 13."""


def error_message(error: ValueError | OSError) -> str:
    """What an error says; one of the operating system as a sentence that names the file and says what to do.

    >>> error_message(IsADirectoryError(errno.EISDIR, "Is a directory", "runs"))
    'runs is a folder: give the path of a file'
    """
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    path = "" if error.filename is None else str(error.filename)
    parent = Path(path).parent
    missing = f"the folder {parent}, which does not exist: make it, or give another path"
    known = {
        errno.EISDIR: "is a folder: give the path of a file",
        errno.ENOENT: "does not exist: check the path" if parent.is_dir() else f"needs {missing}",
        errno.ENOTDIR: "is no path of a file or folder, since a part of it is a file: give another path",
        errno.EACCES: "may not be opened by you: change its permissions, or give another path",
        errno.EPERM: "may not be changed by you: change its permissions, or give another path",
        errno.EROFS: "cannot be written, since its disk is read-only: give another path",
        errno.ENOSPC: "cannot be written, since the disk is full: free some space, or choose another disk",
        errno.ENAMETOOLONG: "is too long for the name of a file: give a shorter path",
    }
    reason = f"cannot be used ({(error.strerror or 'of an unknown reason').lower()})"
    return f"{path or 'a file'} {known.get(error.errno, reason)}"


def run_command(ctrl_c: CtrlC, run: Callable[[], int]) -> int:
    """Run a command and return its exit code; a ValueError or an OSError is printed as a message.

    If its output is read no longer, as after ``| head``, it goes on without, or ends where it was about to print.

    Args:
      ctrl_c: handles Ctrl-C outside of training; its message is that of the beginning until ``run`` sets another.
      run: reads the command line and does the work.
    """
    ctrl_c.message = "interrupted before there was anything to save"
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, ctrl_c)
    plain_warnings()
    try:
        return run()
    except BrokenPipeError:
        discard_output()
        return OUTPUT_CLOSED
    except (ValueError, OSError) as error:
        return fail(error_message(error))
    except KeyboardInterrupt:
        ended_early(ctrl_c.message)
        return EXIT_CODES["interrupted"]


def end_at_once(code: int) -> NoReturn:
    """End the process without what Python does at its end.

    A normal exit could hang: XLA may still be compiling, and after a failed save Python would wait ten minutes for
    threads that Orbax leaves behind.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
    os._exit(code)
