"""Write the tables of measurements from the files in benchmarks/results, so that no number is typed.

    python -m benchmarks.readme                # a second; rewrites README.md and benchmarks/README.md
    python -m benchmarks.readme --check        # says what differs, and ends with 1 if something does

The text between ``<!-- results: NAME -->`` and ``<!-- end -->`` belongs to this command, NAME being one of
``TABLES``. A table whose results are not there yet is left as it is. Where there are results of several machines,
``--machine`` names the one to show, as in the file names.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.report import RESULTS, Table, console, fail, milliseconds, times
from benchmarks.timing import Spread

_HERE = Path(__file__).parent
PAGES = (_HERE.parent / "README.md", _HERE / "README.md")
_BLOCK = re.compile(r"(<!-- results: ([a-z-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Options:
    """What to do."""

    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Change nothing; fail where a page is not what would be written."""

    machine: str = "intel-xeon-2-cores"
    """Whose results."""

    readme: tuple[Path, ...] = PAGES
    """The pages to write."""

    results: Path = RESULTS
    """Folder of the results."""


def main(arguments: list[str] | None = None) -> int:
    options = tyro.cli(Options, prog="python -m benchmarks.readme", args=arguments, description=__doc__)
    try:
        found = {page: page.read_text() for page in options.readme}
        written = {page: rewrite(text, options.results, options.machine) for page, text in found.items()}
    except (ValueError, OSError, KeyError) as error:
        return fail(str(error))
    if options.check:
        different = [page for page, (text, _) in written.items() if text != found[page]]
        for page in different:
            fail(f"{page} is not what the results say: run python -m benchmarks.readme")
        return 1 if different else 0
    for page, (text, names) in written.items():
        page.write_text(text)
        console.print(f"{page}: {', '.join(names) or 'no results'}", soft_wrap=True)
    return 0


def rewrite(text: str, results: Path, machine: str) -> tuple[str, list[str]]:
    """The text with every table that has results written anew, and their names.

    Raises:
      ValueError: a table's name is unknown.
    """
    names = []

    def table(match: re.Match[str]) -> str:
        opening, name, _, closing = match.groups()
        if name not in TABLES:
            raise ValueError(f"unknown results {name!r} in the page; available: {', '.join(TABLES)}")
        benchmark, make = TABLES[name]
        path = results / f"{benchmark}-{machine}.json"
        if not path.exists():
            return match[0]
        names.append(name)
        record = json.loads(path.read_text())
        return f"{opening}{versions(record)}\n\n{make(record).markdown()}{closing}"

    return _BLOCK.sub(table, text), names


def versions(record: dict[str, Any]) -> str:
    """On what it was measured, in a line or two."""
    on = record["machine"]
    packages = {"jax": "jax", "keras": "Keras", "torch": "PyTorch"}
    found = [f"{name} {on[package]}" for package, name in packages.items() if on.get(package)]
    processor = re.sub(r"\((R|TM)\)", "", on["processor"])
    command = f"`python -m benchmarks.{record['benchmark']}`"
    return f"{on['cores']} cores of an {processor}, {', '.join(found)} ({command}):"


def _spread(found: dict[str, float]) -> Spread:
    return Spread(found["median"], found["low"], found["high"])


def epoch(record: dict[str, Any]) -> Table:
    lines = []
    for name, timing in record["timings"].items():
        ratio = record["ratios_to_ours"][name]
        lines.append(
            [
                name,
                milliseconds(_spread(timing)),
                "1" if name == "jaxrnn" else times(_spread(ratio)),
                f"{timing['first_call_s']:.2f}",
            ]
        )
    return Table(["contestant", "ms an epoch", "divided by ours", "first epoch, s"], lines)


_CELL_NAMES = {"simple_rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}


def layers(record: dict[str, Any]) -> Table:
    means = {(row["cell"], row["mode"]): row for row in record["geometric_means"]}
    peers = ("fastest JAX peer", "fastest peer of all")
    lines = [
        [
            _CELL_NAMES[cell],
            *(f"{means[cell, mode][peer]:.2f}" for mode in ("train", "forward") for peer in peers),
        ]
        for cell in dict.fromkeys(row["cell"] for row in record["geometric_means"])
    ]
    columns = ["layer", "training step: JAX peers", "all peers", "forward: JAX peers", "all peers"]
    return Table(columns, lines)


def training(record: dict[str, Any]) -> Table:
    from benchmarks.trainers import LIBRARIES

    by_task: dict[str, dict[str, Any]] = {}
    for row in record["results"]:
        by_task.setdefault(row["task"], {})[row["library"]] = row
    libraries = list(dict.fromkeys(row["library"] for row in record["results"]))
    lines = []
    for task, rows in by_task.items():
        parts: list[Callable[[Any], str]] = [
            lambda row: milliseconds(_spread(row["spread"]), quartiles=False),
            lambda row: f"{row['memory'] / 2**20:.0f}",
        ]
        lines.append([task, *(part(rows[n]) if n in rows else "" for part in parts for n in libraries)])
    labels = [LIBRARIES[name].label for name in libraries]
    columns = ["training", *(f"ms an epoch: {n}" for n in labels), *(f"peak MiB: {n}" for n in labels)]
    return Table(columns, lines)


def sweep(record: dict[str, Any]) -> Table:
    timings = record["timings"]
    runs = record["rates"] * record["seeds"]
    lines = [
        [name, times(_spread(timing)), times(_spread(record["ratios"][name]))] for name, timing in timings.items()
    ]
    return Table(["way", f"s an epoch of {runs} runs", "divided by native, one after the other"], lines)


def streaming(record: dict[str, Any]) -> Table:
    rows = [row for row in record["rows"] if row["dispatch"] == "synchronous"]
    names = list(dict.fromkeys(name for row in rows for name in row["timings"]))
    lines = []
    for row in rows:
        cells = []
        for name in names:
            found = row["timings"].get(name)
            cells.append("" if found is None else f"{found['median'] * 1e6:.1f}")
        lines.append([f"{_CELL_NAMES[row['cell']]}, {row['in_features']} to {record['hidden']}", *cells])
    return Table(["microseconds a step", *names], lines)


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], Table]]] = {
    "epoch": ("epoch", epoch),
    "layers": ("layers", layers),
    "training": ("training", training),
    "sweep": ("sweep", sweep),
    "streaming": ("streaming", streaming),
}
"""By the name in the page: the benchmark whose results it shows, and what makes the table."""


if __name__ == "__main__":
    raise SystemExit(main())
