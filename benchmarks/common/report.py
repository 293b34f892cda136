"""What a benchmark shows while it runs, and the files that it writes."""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from benchmarks.common.timing import Spread

RESULTS = Path(__file__).parents[1] / "results"

T = TypeVar("T")

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


def progress(cases: Iterable[T]) -> Iterator[T]:
    """The cases, tuples or texts, one by one, with a bar that names the one at hand, on a terminal only."""
    cases = list(cases)
    columns = BarColumn(bar_width=20), TextColumn("{task.description}"), TimeElapsedColumn()
    # A refreshing thread would take time from what is measured.
    options: Any = {"auto_refresh": False, "transient": True, "disable": not console.is_terminal}
    with Progress(*columns, console=console, **options) as bar:
        task = bar.add_task("", total=len(cases))
        for case in cases:
            text = ", ".join(map(str, case)) if isinstance(case, tuple) else str(case)
            bar.update(task, description=escape(text), refresh=True)
            yield case
            bar.advance(task)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """One line for each entry, and for each entry of a list."""
    lines = []
    for key, value in record.items():
        entries = ",\n".join(map(json.dumps, value)) if isinstance(value, list) else None
        lines.append(f"{json.dumps(key)}: " + (f"[\n{entries}\n]" if entries else json.dumps(value)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


class Page:
    """The Markdown of a benchmark, whose tables are also shown on the console. It begins with a text and the
    docstring of the command, all of it but the first line and the examples of use."""

    def __init__(self, title: str, text: str, document: str | None = None):
        paragraphs = inspect.cleandoc(document or "").split("\n\n")[1:]
        said = [p if p.startswith(" ") else p.replace("\n", " ") for p in paragraphs if "python -m" not in p]
        self._first = [f"# {title}", "\n\n".join([text, *said])]
        self._blocks: list[str] = []

    def add(self, *blocks: str) -> None:
        self._blocks += blocks

    def table(self, table: Table, title: str | None = None) -> None:
        """Add a table. With a title it is also shown, without its quartiles."""
        self._blocks.append(table.markdown())
        if title is not None:
            table.show(title)

    def save(self, path: Path, record: Mapping[str, Any], notes: Sequence[str] = ()) -> None:
        """Write what was added as ``path``, which ends with ``.md``, after the notes, a list of sentences; and the
        record beside it, as ``.json``. What is added from now on is another page."""
        for note in notes:
            console.print(note, markup=False, soft_wrap=True)
        blocks = [*self._first, "\n".join(f"- {note}" for note in notes), *self._blocks]
        write_json(path.with_suffix(".json"), record)
        path.write_text("\n\n".join(block.strip() for block in blocks if block) + "\n")
        self._blocks = []
        console.print(f"Written: {path.name} and .json, in {path.parent}", soft_wrap=True)
