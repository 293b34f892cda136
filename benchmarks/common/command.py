"""What all benchmarks have in common as commands: their options, their start, their errors."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console
from rich.markup import escape

from benchmarks.common.machine import describe, machine
from benchmarks.common.report import check_writable, console

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What to measure, and how long."""

    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Few sizes and few repetitions, to see that everything works."""

    repetitions: int | None = None
    """Rounds, in each of which every contestant is timed (default: enough for stable medians; very few with
    --quick)."""

    out: Path | None = None
    """Folder for the results (default: benchmarks/results)."""

    def given(self, value: T | None, *, quick: T, full: T) -> T:
        """The value if the user gave one, else the default, which depends on --quick."""
        return value if value is not None else quick if self.quick else full

    def name(self, benchmark: str) -> str:
        """The name of the results, so that quick runs never replace others."""
        return f"{benchmark}-quick" if self.quick else benchmark

    def start(self) -> dict[str, Any]:
        """Check that the results can be written, and describe the machine."""
        check_writable(self.out)
        found = machine()
        console.print(describe(found), soft_wrap=True)
        return found


def command(options: type[T], run: Callable[[T], int | None], name: str, text: str | None) -> Callable[..., int]:
    """Make the main function, which returns the exit code and shows errors that users can cause as one line."""

    def main(arguments: list[str] | None = None) -> int:
        parsed = tyro.cli(options, prog=f"python -m benchmarks.{name}", args=arguments, description=text)
        try:
            return run(parsed) or 0
        except (ValueError, OSError) as error:
            return fail(str(error))

    return main


def known(what: str, names: Iterable[str], available: Iterable[str]) -> None:
    """Raise a ValueError if one of the names does not exist."""
    available = list(available)
    for name in names:
        if name not in available:
            raise ValueError(f"unknown {what} {name!r}; available: {', '.join(available)}")


def fail(message: str) -> int:
    """Show an error on stderr; returns the exit code."""
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    return 2
