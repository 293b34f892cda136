"""Measurements in separate processes, for what belongs to a process: settings of JAX, and memory.

Such a module ends with ``answer(function)``. It reads requests, one JSON object per line of standard input, and
writes the function's result for each to standard output, until the input ends.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

_MARK = "result: "
_ROOT = Path(__file__).parents[2]


class Process:
    """A module that runs in another process and waits for requests; use it in a ``with`` statement."""

    def __init__(self, module: str, environment: dict[str, str] | None = None):
        self._module = module
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=_ROOT,
            env={**os.environ, **(environment or {})},
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The module's answer. A ValueError shows the last line that it wrote if it ends instead."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            pass
        else:
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
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._errors.close()


def answer(function: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The other side of :class:`Process`."""
    for line in sys.stdin:
        print(_MARK + json.dumps(function(json.loads(line))), flush=True)


def peak_memory() -> int:
    """The most bytes of memory that this process has had so far (resident)."""
    import resource  # late: there is none on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
