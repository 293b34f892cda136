"""Measurements in a process of their own, for what belongs to a process: settings of JAX, and memory.

A module that is measured so ends with ``answer(function)``: it reads a request as JSON from standard input and
writes what the function makes of it, as JSON, to the end of standard output.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MARK = "result: "
_ROOT = Path(__file__).parents[1]


def ask(module: str, request: dict[str, Any], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """What the module's function answers, computed in a new process.

    Raises:
      ValueError: the process failed; the message has the last line that it wrote.
    """
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        cwd=_ROOT,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(_MARK) and not done.returncode:
            return json.loads(line.removeprefix(_MARK))
    said = (done.stderr or done.stdout).strip().splitlines()
    raise ValueError(f"{module} ended with {done.returncode}: {said[-1] if said else 'it said nothing'}")


def answer(function: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The other side of :func:`ask`."""
    result = function(json.load(sys.stdin))
    print(_MARK + json.dumps(result))


def peak_memory() -> int:
    """The most bytes of memory that this process has had so far (resident)."""
    import resource  # late: there is none on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
