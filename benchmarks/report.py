"""What a benchmark shows while it runs, and the files that it leaves."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from benchmarks.machine import describe, file_suffix
from benchmarks.timing import Spread

RESULTS = Path(__file__).parent / "results"

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
            table.add_row(*(escape(text.replace("**", "")) for text in row))
        console.print(table)


def milliseconds(spread: Spread, *, quartiles: bool = True) -> str:
    """
    >>> milliseconds(Spread(0.0123, 0.012, 0.0131))
    '12.3 (12.0 to 13.1)'
    """
    return _numbers(Spread(*(value * 1e3 for value in spread)), quartiles)


def times(spread: Spread, *, quartiles: bool = True) -> str:
    """
    >>> times(Spread(1.5, 1.25, 2.0))
    '1.50 (1.25 to 2.00)'
    """
    return _numbers(spread, quartiles)


def _numbers(spread: Spread, quartiles: bool) -> str:
    digits = 2 if spread.median < 10 else 1 if spread.median < 100 else 0
    median, low, high = (f"{value:.{digits}f}" for value in spread)
    return f"{median} ({low} to {high})" if quartiles else median


@contextmanager
def progress(total: int) -> Iterator[Callable[..., None]]:
    """A function to call with ``description=...`` and ``advance=...``: a bar, and only on a terminal."""
    bar = Progress(
        BarColumn(bar_width=20),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        auto_refresh=False,  # by a thread, it would take time from what is measured
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda **changes: bar.update(task, refresh=True, **changes)


def check_writable(folder: Path | None) -> None:
    """An OSError if results could not be written there: better now than after minutes of measuring."""
    folder = RESULTS if folder is None else folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write into {folder}: {error.strerror}; choose another --out") from error


def write_results(
    name: str, table_markdown: str, results: dict[str, Any], machine: dict[str, Any], folder: Path | None = None
) -> Path:
    """Write ``<name>-<machine>.md`` and ``.json``.

    Args:
      name: of the benchmark.
      table_markdown: its tables and what must be known to read them.
      results: everything that was measured.
      machine: of :func:`benchmarks.machine.machine`.
      folder: where to write; benchmarks/results by default.

    Returns:
      The path of the Markdown file; other files of the same run go beside it under the same name.
    """
    folder = RESULTS if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{file_suffix(machine)}.md"
    path.write_text(f"{table_markdown.rstrip()}\n\nMachine: {describe(machine)}\n")
    record = {"benchmark": name, "machine": machine, **results}
    lines = ",\n".join(f"{json.dumps(key)}: {_json(value)}" for key, value in record.items())
    path.with_suffix(".json").write_text(f"{{\n{lines}\n}}\n")
    return path


def _json(value: Any) -> str:
    """One line for each entry of a list: neither one long line nor one for every number."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(entry) for entry in value) + "\n]"
    return json.dumps(value)


def fail(message: str) -> int:
    """Say what is wrong on stderr; returns the exit code."""
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    return 2
