"""Records Ctrl-C, SIGTERM and SIGHUP, so that the training loop can stop between two steps.

An exception in the middle of a step would lose the state, because its buffers were donated to that step.
"""

import signal
import threading
from typing import Any

NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
"""The value of ``Run.stopped`` after each signal."""

EXIT_CODES = {"interrupted": 128 + signal.SIGINT, "terminated": 128 + signal.SIGTERM}
"""The exit code of a program whose run was stopped so, as shells count: 130 and 143."""


_TERMINATING = {signal.SIGTERM} | ({signal.SIGHUP} if hasattr(signal, "SIGHUP") else set())
"""The signals that count as SIGTERM. A closed terminal sends SIGHUP, which Windows does not have."""

STOPPING = {signal.SIGINT} | _TERMINATING
"""The signals that ask a training run to stop."""


class StopSignals:
    """A context manager that only records SIGINT, SIGTERM and SIGHUP; a second Ctrl-C raises KeyboardInterrupt.

    Schedulers send SIGTERM before they take a machine away, and some send it more than once. SIGHUP counts as
    SIGTERM, unless the process ignores it, as under ``nohup``. Python delivers signals to the main thread only, so
    in another thread this does nothing.

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
            # None means that the handler was not installed from Python, which cannot restore it.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)

    def _handle(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if number in _TERMINATING:
            self.received = signal.SIGTERM
        elif self.received is None:
            self.received = signal.Signals(number)
