"""What all benchmarks have in common as commands: their options, their start, their errors."""

import json
import os
import platform
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro

from benchmarks.common.machine import cores, describe, machine, processor, version
from benchmarks.common.process import PART, Answer, answer
from benchmarks.common.report import RESULTS, check_writable, console
from experiments.common.report import fail

T = TypeVar("T")


@dataclass(frozen=True)
class FolderOptions:
    """Where a benchmark with tables writes."""

    out: Path | None = None
    """Folder for the results (default: benchmarks/results)."""

    def start(self) -> dict[str, Any]:
        """Check that the results can be written, and describe the machine."""
        check_writable(self.out)
        found = machine()
        console.print(describe(found), soft_wrap=True)
        return found


@dataclass(frozen=True)
class Options(FolderOptions):
    """What to measure, and how long."""

    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Few sizes and few repetitions, to see that everything works."""

    repetitions: int | None = None
    """Rounds, in each of which every contestant is timed (default: enough for stable medians; very few with
    --quick)."""

    def given(self, value: T | None, *, quick: T, full: T) -> T:
        """The value if the user gave one, else the default, which depends on --quick."""
        return value if value is not None else quick if self.quick else full

    def name(self, benchmark: str) -> str:
        """The name of the results, so that quick runs never replace others."""
        return f"{benchmark}-quick" if self.quick else benchmark


@dataclass(frozen=True)
class RecordOptions:
    """Where a benchmark without tables writes."""

    out: Path | None = None
    """The file for the result (default: a file in benchmarks/results with the benchmark's name)."""

    def write(self, name: str, packages: Sequence[str], found: dict[str, Any]) -> None:
        """Write what was found, with the machine and the versions of these packages, as one JSON file."""
        record = {
            "machine": {"processor": processor(), "cores": cores(), "python": platform.python_version()},
            "versions": {package: version(package) for package in packages},
            "load_average": os.getloadavg()[0],
            **found,
        }
        path = self.out or RESULTS / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n")
        console.print(f"Written: {path}", soft_wrap=True)


def command(
    options: type[T], run: Callable[[T], int | None], name: str, text: str | None, part: Answer | None = None
) -> Callable[..., int]:
    """Make the main function, which returns the exit code and shows errors that users can cause as one line.
    ``part`` is what the command measures in processes of its own: ``Process`` makes them call it."""

    def main(arguments: list[str] | None = None) -> int:
        if part is not None and sys.argv[1:] == [PART]:
            return answer(part)
        parsed = tyro.cli(options, prog=f"python -m benchmarks.{name}", args=arguments, description=text)
        try:
            return run(parsed) or 0
        except (ValueError, OSError) as error:
            return fail(str(error))

    return main


def known(what: str, names: Iterable[str], available: Collection[str]) -> None:
    """Raise a ValueError if one of the names does not exist."""
    for name in names:
        if name not in available:
            raise ValueError(f"unknown {what} {name!r}; available: {', '.join(available)}")
