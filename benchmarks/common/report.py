"""What a benchmark shows while it runs, and the files that it writes."""

import inspect
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from benchmarks.common.machine import describe, file_suffix
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

    @classmethod
    def of(
        cls, heading: str, rows: Iterable[tuple[str, Mapping[str, str]]], label: Callable[[str], str] = str
    ) -> Self:
        """From every row's name and its texts by column. Columns stand in the order in which they first appear;
        ``label`` gives their titles. A text that a row lacks is left empty."""
        rows = list(rows)
        names = list(dict.fromkeys(name for _, texts in rows for name in texts))
        lines = [[title, *(texts.get(name, "") for name in names)] for title, texts in rows]
        return cls([heading, *map(label, names)], lines)

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
    """Yields a function that shows the description it is given, and without one goes on by one step. The bar
    appears on a terminal only."""
    columns = BarColumn(bar_width=20), TextColumn("{task.description}"), TimeElapsedColumn()
    # A refreshing thread would take time from what is measured.
    options: Any = {"auto_refresh": False, "transient": True, "disable": not console.is_terminal}
    bar = Progress(*columns, console=console, **options)
    with bar:
        task = bar.add_task("", total=total)
        yield lambda text=None: bar.update(task, description=text, advance=text is None, refresh=True)


def check_writable(folder: Path | None) -> None:
    """Raise an OSError if results cannot be written there, before minutes of measuring."""
    folder = RESULTS if folder is None else folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write into {folder}: {error.strerror}; choose another --out") from error


def medians(unit: str, repetitions: int, calls: str = "2 calls") -> str:
    """The sentence that says what the numbers of a table are."""
    spread = f"median, and quartiles in parentheses, of {repetitions} repetitions of {calls}"
    return f"{unit}: {spread}; the fastest in bold."


class Report:
    """The Markdown of a benchmark, whose tables and notes are also shown on the console.

    Args:
      title: of the page.
      text: what comes first.
      document: the docstring of the command. The page has all of it but its first line and the examples of use.
      notes: a list of sentences.
    """

    def __init__(self, title: str, text: str, document: str | None = None, notes: Iterable[str] = ()):
        paragraphs = inspect.cleandoc(document or "").split("\n\n")[1:]
        said = [p if p.startswith(" ") else p.replace("\n", " ") for p in paragraphs if "python -m" not in p]
        self._notes = list(notes)
        self._blocks = [f"# {title}", "\n\n".join([text, *said]), "\n".join(f"- {note}" for note in self._notes)]

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
        """Write ``<name>-<machine>.md`` and ``.json``, where ``machine`` is that of ``benchmarks.common.machine``.
        Returns the path of the Markdown file; other files of the same run go beside it under the same name."""
        self.add(f"Machine: {describe(machine)}")
        record = {"benchmark": name, "machine": machine, **results}
        return self.save(f"{name}-{file_suffix(machine)}", record, folder)

    def save(self, name: str, record: dict[str, Any], folder: Path | None) -> Path:
        """Write ``<name>.md``, and ``<name>.json`` with the record: one line for each entry of a list."""
        path = (folder or RESULTS) / f"{name}.md"
        path.write_text(self.markdown())
        lines = []
        for key, value in record.items():
            entries = ",\n".join(map(json.dumps, value)) if isinstance(value, list) else None
            lines.append(f"{json.dumps(key)}: " + (f"[\n{entries}\n]" if entries else json.dumps(value)))
        path.with_suffix(".json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
        for note in self._notes:
            console.print(note, markup=False, soft_wrap=True)
        console.print(f"Written: {path.name} and .json, in {path.parent}", soft_wrap=True)
        return path
