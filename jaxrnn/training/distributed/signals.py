"""Ctrl-C, SIGTERM and SIGHUP as requests to stop, which are looked at between steps.

An exception in the middle of a step would lose the state, whose buffers were donated to that step.
"""

import signal
import threading
from typing import Any

NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
"""What a run that such a signal stopped calls its end."""

EXIT_CODES = {"interrupted": 128 + signal.SIGINT, "terminated": 128 + signal.SIGTERM}
"""The exit code for each, as a shell shows it: 130 and 143."""


_TERMINATING = {signal.SIGTERM} | ({signal.SIGHUP} if hasattr(signal, "SIGHUP") else set())
"""Whoever sends one of these does not wait long. A closed terminal sends SIGHUP."""

STOPPING = {signal.SIGINT} | _TERMINATING
"""The signals that ask a training to stop."""


class StopSignals:
    """A context in which SIGINT, SIGTERM and SIGHUP are only recorded; a second Ctrl-C acts as usual.

    Schedulers send SIGTERM before they take a machine away, some of them more than once. A SIGHUP counts as a
    SIGTERM, except where it is ignored, as ``nohup`` has it. Only the main thread gets signals: in another thread
    this does nothing.

    >>> import os
    >>> with StopSignals() as stop:
    ...     os.kill(os.getpid(), signal.SIGTERM)
    ...     stop.received
    <Signals.SIGTERM: 15>
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                previous = signal.getsignal(number)
                if number in NAMES or previous is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, previous in self._previous.items():
            # None: it was not set by Python, and Python cannot set it again.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)

    def _handle(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if number in _TERMINATING:
            self.received = signal.SIGTERM
        elif self.received is None:
            self.received = signal.Signals(number)
