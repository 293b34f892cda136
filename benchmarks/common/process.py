"""Measurements in separate processes, for what belongs to a process: settings of JAX, and memory.

Such a module ends with ``answer(function)``. It reads requests, one JSON object per line of standard input, and
writes the function's result for each to standard output, until the input ends.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

PART = "--part-of-a-measurement"
"""What such a module is called with: a command answers requests then, see :mod:`benchmarks.common.command`."""

Answer = Callable[[dict[str, Any]], dict[str, Any]]

_MARK = "result: "
_ROOT = Path(__file__).parents[2]


class Process:
    """A module that runs in another process and waits for requests; use it in a ``with`` statement."""

    def __init__(self, module: str, environment: Mapping[str, str] | None = None):
        self._module = module
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the process
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors, "text": True}
        environment = {**os.environ, **(environment or {})}
        self._process = subprocess.Popen([sys.executable, "-m", module, PART], cwd=_ROOT, env=environment, **pipes)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The module's answer. A ValueError shows the last line that it wrote if it ends instead."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self._process.stdin, flush=True)
            for line in self._process.stdout:
                if line.startswith(_MARK):
                    return json.loads(line.removeprefix(_MARK))
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines()
        raise ValueError(f"{self._module} ended with {code}: {said[-1] if said else 'it wrote no message'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError), self._process, self._errors:
            self._process.kill()


def answer(function: Answer) -> int:
    """The other side of :class:`Process`; returns the exit code."""
    for line in sys.stdin:
        print(_MARK + json.dumps(function(json.loads(line))), flush=True)
    return 0


def memory(kind: str = "VmHWM") -> int:
    """Bytes of this process's resident memory: the most so far, or on Linux what it has now (``VmRSS``)."""
    if sys.platform == "linux":  # getrusage would count the memory of the process that started this one, too
        found = re.findall(rf"^{kind}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(found[0]) * 1024
    import resource  # late: there is none on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
