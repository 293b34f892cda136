"""Answers a signal that arrives while JAX compiles or runs a long program.

Python calls signal handlers only between two of its own instructions. A compilation is one call that may take
minutes, and no handler runs until it returns. So a thread that is told of every signal at once prints a message.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxrnn.training import EXIT_CODES

SECONDS = 2.0
"""How many seconds to wait for the program to stop before the message is printed."""

_TO_STOP = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} if hasattr(signal, "SIGHUP") else {signal.SIGINT}


class CtrlC:
    """Handle Ctrl-C outside of training: end the program at once.

    A KeyboardInterrupt can get lost: if it is raised in a callback of JAX that the garbage collector calls, Python
    prints it and continues.
    """

    message: str
    at_once = True
    """Tells :func:`answered` that this may be called while JAX compiles."""

    def __call__(self, *_: Any) -> None:
        os.write(2, f"{self.message}\n".encode())
        os._exit(EXIT_CODES["interrupted"])


@contextmanager
def answered(seconds: float = SECONDS) -> Iterator[None]:
    """Within this context, print a message to stderr if a signal to stop has no effect within ``seconds``.

    If the signal's handler has the attribute ``at_once = True``, it ends the program, so it is called after that
    time, whatever the main thread does. When the terminal is closed (SIGHUP), later output is discarded, because
    an error about the missing terminal must not prevent a run from being saved.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set this up
        yield
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    terminals = [descriptor for descriptor in (1, 2) if _is_terminal(descriptor)]
    ended = threading.Event()

    def answer() -> None:
        while data := receiver.recv(1):
            number = data[0]
            if hasattr(signal, "SIGHUP") and number == signal.SIGHUP:
                _discard_output(terminals)
            handler = signal.getsignal(number)  # now, because another one may be set while we wait
            if number in _TO_STOP and not ended.wait(seconds):
                if getattr(handler, "at_once", False) and isinstance(handler, Callable):
                    handler(number, None)
                print(
                    f"{signal.Signals(number).name} received: the program that is being compiled or run must "
                    f"finish first, then this stops",
                    file=sys.stderr,
                    flush=True,
                )

    previous = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=answer, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(previous)
        sender.close()
        thread.join(1)
        receiver.close()


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def _discard_output(descriptors: list[int]) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
