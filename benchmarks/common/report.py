"""What a benchmark shows while it runs, and the files that it writes."""

import json
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from benchmarks.common.machine import cores, describe, file_suffix, processor, version
from benchmarks.common.timing import Spread

RESULTS = Path(__file__).parents[1] / "results"

_QUARTILES = re.compile(r" \([0-9.]+ to [0-9.]+\)")

console = Console(highlight=False)
if not console.is_terminal:
    console.width = 120  # rich would fold the tables to 80 columns in a log


@dataclass(frozen=True)
class Table:
    """Text in columns: the first one names the row, the others are numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        return "".join(f"| {' | '.join(row)} |\n" for row in (self.columns, rule, *self.rows))

    def show(self, title: str) -> None:
        table = RichTable(title=escape(title), title_justify="left")
        for i, column in enumerate(self.columns):
            table.add_column(escape(column), justify="right" if i else "left", no_wrap=not i, overflow="fold")
        for row in self.rows:
            # The console has no room for quartiles, and shows no bold numbers.
            table.add_row(*(escape(_QUARTILES.sub("", text.replace("**", ""))) for text in row))
        console.print(table)


def spread_text(spread: Spread, unit: float = 1, *, quartiles: bool = True) -> str:
    """
    >>> spread_text(Spread(0.0123, 0.012, 0.0131), 1e-3), spread_text(Spread(1.5, 1.25, 2.0), quartiles=False)
    ('12.3 (12.0 to 13.1)', '1.50')
    """
    scaled = [value / unit for value in spread]
    digits = 2 if scaled[0] < 10 else 1 if scaled[0] < 100 else 0
    median, low, high = (f"{value:.{digits}f}" for value in scaled)
    return f"{median} ({low} to {high})" if quartiles else median


@contextmanager
def progress(total: int) -> Iterator[Callable[..., None]]:
    """Yields a function to call with ``description=...`` and ``advance=...``. The bar appears on a terminal
    only."""
    bar = Progress(
        BarColumn(bar_width=20),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        auto_refresh=False,  # a refreshing thread would take time from what is measured
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda **changes: bar.update(task, refresh=True, **changes)


def check_writable(folder: Path | None) -> None:
    """Raise an OSError if results cannot be written there, before minutes of measuring."""
    folder = RESULTS if folder is None else folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write into {folder}: {error.strerror}; choose another --out") from error


class Report:
    """The Markdown of a benchmark, whose tables and notes are also shown on the console."""

    def __init__(self, title: str, text: str, notes: Iterable[str] = ()):
        self._notes = list(notes)
        self._blocks = [f"# {title}", text, "\n".join(f"- {note}" for note in self._notes)]

    def add(self, *blocks: str) -> None:
        self._blocks += blocks

    def table(self, table: Table, title: str | None = None) -> None:
        """Add a table. With a title it is also shown, without its quartiles."""
        self._blocks.append(table.markdown())
        if title is not None:
            table.show(title)

    def markdown(self) -> str:
        return "\n\n".join(block.strip() for block in self._blocks if block) + "\n"

    def write(self, name: str, results: dict[str, Any], machine: dict[str, Any], folder: Path | None) -> Path:
        """Write ``<name>-<machine>.md`` and ``.json``.

        Args:
          name: of the benchmark.
          results: everything that was measured.
          machine: the result of :func:`benchmarks.common.machine.machine`.
          folder: where to write; benchmarks/results by default.

        Returns:
          The path of the Markdown file; other files of the same run go beside it under the same name.
        """
        folder = RESULTS if folder is None else folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}-{file_suffix(machine)}.md"
        path.write_text(f"{self.markdown()}\nMachine: {describe(machine)}\n")
        record = {"benchmark": name, "machine": machine, **results}
        lines = ",\n".join(f"{json.dumps(key)}: {_json(value)}" for key, value in record.items())
        path.with_suffix(".json").write_text(f"{{\n{lines}\n}}\n")
        for note in self._notes:
            console.print(note, markup=False, soft_wrap=True)
        console.print(f"Written: {path.name} and .json, in {path.parent}", soft_wrap=True)
        return path


def _json(value: Any) -> str:
    """One line for each entry of a list: neither one long line nor one for every number."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(entry) for entry in value) + "\n]"
    return json.dumps(value)


def write_record(out: Path | None, name: str, packages: Sequence[str], found: dict[str, Any]) -> Path:
    """Write a result without tables, with the machine and the versions of these packages, as one JSON file."""
    record: dict[str, Any] = {
        "machine": {"processor": processor(), "cores": cores(), "python": platform.python_version()},
        "versions": {package: version(package) for package in packages},
        "load_average": os.getloadavg()[0],
        **found,
    }
    out = out or RESULTS / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return out
