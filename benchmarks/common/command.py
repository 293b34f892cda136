"""What all benchmarks have in common as commands: their options, their start, their errors, their files."""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich import print_json

from benchmarks.common.machine import cores, describe, file_suffix, machine, processor, version
from benchmarks.common.report import RESULTS, Page, console, write_json
from benchmarks.common.rows import OURS, SHAPE, Row, ratio_table, time_table
from benchmarks.common.timing import Call, interleave
from experiments.common.report import fail

T = TypeVar("T")


@dataclass(frozen=True)
class FolderOptions:
    """Where a benchmark with tables writes."""

    out: Path | None = None
    """Folder for the results (default: benchmarks/results)."""


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


@dataclass(frozen=True)
class ClockOptions(Options):
    """What to measure, and by which clock."""

    processor_time: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure the processor time of this process, all threads together, in place of the time on the wall."""


@dataclass(frozen=True)
class RecordOptions:
    """Where a benchmark without tables writes."""

    out: Path | None = None
    """The file for the result (default: a file in benchmarks/results with the benchmark's name)."""

    def write(self, name: str, packages: Sequence[str], found: Mapping[str, Any]) -> None:
        """Show what was found, and write it as JSON, with the machine and the versions of these packages."""
        record = {
            "machine": {"processor": processor(), "cores": cores(), "python": platform.python_version()},
            "versions": {package: version(package) for package in packages},
            "load_average": os.getloadavg()[0],
            **found,
        }
        print_json(data=found)
        path = self.out or RESULTS / f"{name}.json"
        write_json(path, record)
        console.print(f"Written: {path}", soft_wrap=True)


UNITS = {"Seconds": 1, "Milliseconds": 1e-3, "Microseconds": 1e-6}


class Benchmark(Page):
    """A measurement with tables: the machine when it begins, its rows, and its files.

    Args:
      options: of the command.
      name: of the results. Those of quick runs have another one, so that they never replace others.
      quick, full: how often every contestant is timed, unless the user says it.
      unit, calls: of the numbers in the tables, and what is called in a repetition.
      heading: of the column with the titles of the rows.
    """

    def __init__(
        self,
        options: FolderOptions,
        name: str,
        title: str,
        document: str | None,
        *,
        quick: int = 3,
        full: int = 20,
        unit: str = "Milliseconds",
        calls: str = "2 calls",
        heading: str = SHAPE,
    ):
        self.folder = options.out or RESULTS
        check_writable(self.folder)
        self.name, self.repetitions = name, full
        if isinstance(options, Options):
            self.name = f"{name}-quick" if options.quick else name
            self.repetitions = options.given(options.repetitions, quick=quick, full=full)
        self.record: dict[str, Any] = {"benchmark": self.name, "machine": machine()}
        self.record["repetitions"] = self.repetitions
        self.clock, self.unit, self.heading, self.rows = time.perf_counter, unit, heading, list[Row]()
        if isinstance(options, ClockOptions):
            self.record["processor_time"] = options.processor_time
            if options.processor_time:
                self.clock, self.unit = time.process_time, f"{unit} of processor time"
        spread = f"median, and quartiles in parentheses, of {self.repetitions} repetitions of {calls}"
        super().__init__(title, f"{self.unit}: {spread}; the fastest in bold.", document)
        console.print(describe(self.record["machine"]), soft_wrap=True)

    def measure(
        self,
        case: dict[str, Any],
        contestants: Mapping[str, Call],
        title: str | None = None,
        *,
        steps: int = 1,
        baseline: str = OURS,
        **options: Any,
    ) -> Row:
        """Time contestants, a call of which makes so many steps, with :func:`benchmarks.common.timing.interleave`
        and these options, and keep the row of this case."""
        timings = interleave(contestants, self.repetitions, clock=self.clock, **options)
        each = {name: timing.divided_by(steps) for name, timing in timings.items()}
        self.rows.append(Row(case, each, title, baseline))
        return self.rows[-1]

    def tables(self, name: str, rows: Sequence[Row]) -> None:
        """A section with the times of these rows, and with their ratios."""
        self.add(f"## {name}")
        self.table(time_table(rows, UNITS[self.unit.split()[0]], self.heading), f"{name}: {self.unit.lower()}")
        self.table(ratio_table(rows, self.heading), f"times divided by those of {rows[0].baseline}")

    def write(self, *, notes: Sequence[str] = (), **results: Any) -> Path:
        """Write ``<name>-<machine>.md`` and ``.json``, with the rows. Returns the path of the first; other files
        of the same run go beside it under the same name. A library that is ``absent`` is in the notes, too."""
        notes = [*(f"{who}: {why}." for who, why in results.get("absent", {}).items()), *notes]
        self.add(f"Machine: {describe(self.record['machine'])}")
        path = self.folder / f"{self.name}-{file_suffix(self.record['machine'])}.md"
        rows = {"rows": [row.as_json() for row in self.rows]} if self.rows else {}
        self.save(path, self.record | rows | results, notes)
        return path


def check_writable(folder: Path) -> None:
    """Raise an OSError if results cannot be written there, before minutes of measuring."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write into {folder}: {error.strerror}; choose another --out") from error


def command(options: type[T], run: Callable[[T], int | None], name: str, text: str | None) -> Callable[..., int]:
    """Make the main function, which returns the exit code and shows errors that users can cause as one line."""

    def main(arguments: list[str] | None = None) -> int:
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
