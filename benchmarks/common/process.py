"""Measurements in processes of their own, for what belongs to a process: settings of JAX, threads, and memory."""

import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any
from unittest.mock import patch


class Process(ProcessPoolExecutor):
    """A new process, which begins with these variables in its environment; use it in a ``with`` statement."""

    def __init__(self, environment: Mapping[str, str] | None = None):
        super().__init__(1, multiprocessing.get_context("spawn"))  # nothing of this process is there
        with patch.dict(os.environ, environment or {}):
            self.submit(int)  # starts it

    def ask(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What the function of a module returns there. What it leaves in its module is there at the next call."""
        try:
            return self.submit(function, *arguments, **options).result()
        except BrokenProcessPool as error:  # it was killed, for want of memory perhaps
            raise ValueError(f"the process of {function.__name__} ended before it had an answer") from error


def memory(kind: str = "VmHWM") -> int:
    """Bytes of this process's resident memory: the most so far, or on Linux what it has now (``VmRSS``)."""
    if sys.platform == "linux":  # getrusage would count the memory of the process that started this one, too
        found = re.findall(rf"^{kind}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(found[0]) * 1024
    import resource  # late: there is none on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
