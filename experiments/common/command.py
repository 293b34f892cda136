"""How the commands that train begin and end: Ctrl-C, errors, and an exit that does not hang."""

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from experiments.common.report import fail, plain_warnings
from experiments.common.signals import CtrlC
from jaxrnn.training import EXIT_CODES


def run_command(ctrl_c: CtrlC, run: Callable[[], int]) -> int:
    """Run a command and return its exit code; a ValueError or an OSError is printed as a message.

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
    except (ValueError, OSError) as error:
        return fail(str(error))
    except KeyboardInterrupt:
        fail(ctrl_c.message)
        return EXIT_CODES["interrupted"]


def end_at_once(code: int) -> NoReturn:
    """End the process without what Python does at its end.

    A normal exit could hang: XLA may still be compiling, and after a failed save Python would wait ten minutes for
    threads that Orbax leaves behind.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
