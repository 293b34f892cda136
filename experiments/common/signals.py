"""Answer a signal that comes while JAX compiles or runs a long program.

Python calls its signal handlers between two of its own instructions. A compilation is one call that may take
minutes, and until it returns nothing happens. So a thread is told of every signal at once, and says that it was
heard.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS = 2.0
"""After so many seconds without an end, a signal is answered with a message."""

_TO_STOP = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} if hasattr(signal, "SIGHUP") else {signal.SIGINT}


@contextmanager
def answered(seconds: float = SECONDS) -> Iterator[None]:
    """Within this context, a signal to stop that has no effect within ``seconds`` is answered on stderr.

    Where a handler says by an attribute ``at_once = True`` that it ends the program, it is called after that time,
    whatever the main thread does. When the terminal is closed (SIGHUP), what is printed from then on is discarded:
    an error about a terminal that is gone must not keep a run from being saved.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may ask for signals
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
            handler = signal.getsignal(number)  # the one that took the signal, not one set since
            if number in _TO_STOP and not ended.wait(seconds):
                if getattr(handler, "at_once", False) and isinstance(handler, Callable):
                    handler(number, None)
                what = f"{signal.Signals(number).name} received"
                wait = "the program that is being compiled or run must finish first, then this stops"
                print(f"{what}: {wait}", file=sys.stderr, flush=True)

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
