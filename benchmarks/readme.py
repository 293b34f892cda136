"""Write the documentation's tables of measurements from the files in benchmarks/results, so that no number is
typed.

    python -m benchmarks.readme                # a second; rewrites benchmarks/README.md and README.md
    python -m benchmarks.readme --check        # says what differs, and ends with 1 if something does

The text between ``<!-- results: NAME -->`` and ``<!-- end -->`` belongs to this command; NAME is one of
``TABLES``. A page needs no such marker, and a table without results stays as it is. Where there are results of
several machines, ``--machine`` names the one to show, as in the file names.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.common.command import command, fail
from benchmarks.common.report import RESULTS, Table, console, spread_text
from benchmarks.common.timing import Spread
from benchmarks.libraries import label
from benchmarks.reports.training import Result

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "benchmarks" / "README.md", ROOT / "README.md")
_BLOCK = re.compile(r"(<!-- results: ([a-z-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

Record = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What to do."""

    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Change nothing; fail where a page is not what would be written."""

    machine: str = "intel-xeon-2-cores"
    """Whose results."""

    readme: tuple[Path, ...] = PAGES
    """The pages to write; those that do not exist are left out."""

    results: Path = RESULTS
    """Folder of the results."""


def run(options: Options) -> int:
    code = 0
    for page in options.readme:
        if not page.exists():
            continue
        text = page.read_text()
        written, names = rewrite(text, options.results, options.machine)
        if not options.check:
            page.write_text(written)
            console.print(f"{page.parent.name}/{page.name}: {', '.join(names) or 'no results'}")
        elif written != text:
            fail(f"{page} is not what the results say: run python -m benchmarks.readme")
            code = 1
    return code


def rewrite(text: str, results: Path, machine: str) -> tuple[str, list[str]]:
    """The text with every table that has results written anew, and the names of these tables.

    Raises:
      ValueError: a table's name is unknown.
    """
    names = []

    def table(match: re.Match[str]) -> str:
        opening, name, _, closing = match.groups()
        if name not in TABLES:
            raise ValueError(f"unknown results {name!r} in a README; available: {', '.join(TABLES)}")
        for benchmark, make in TABLES[name]:
            path = results / f"{benchmark}-{machine}.json"
            record = json.loads(path.read_text()) if path.exists() else None
            made = None if record is None else make(record)
            if record is not None and made is not None:
                names.append(name)
                return f"{opening}{versions(record)}\n\n{made.markdown()}{closing}"
        return match[0]

    return _BLOCK.sub(table, text), names


def versions(record: Record) -> str:
    """The machine and the versions, in a line or two."""
    on = record["machine"]
    packages = {"jax": "jax", "keras": "Keras", "torch": "PyTorch"}
    found = [f"{name} {on[package]}" for package, name in packages.items() if on.get(package)]
    processor = re.sub(r"\((R|TM)\)", "", on["processor"])
    # The epoch was once measured alone, all contestants in one process; benchmarks.training measures it now.
    earlier = record["benchmark"] == "epoch"
    command = "measured in one process" if earlier else f"`python -m benchmarks.{record['benchmark']}`"
    return f"{on['cores']} cores of an {processor}, {', '.join(found)} ({command}):"


def _text(found: dict[str, float], unit: float = 1, *, quartiles: bool = True) -> str:
    return spread_text(Spread(found["median"], found["low"], found["high"]), unit, quartiles=quartiles)


EPOCH_COLUMNS = ("contestant", "ms an epoch", "divided by ours", "first epoch, s")


def first_experiment(record: Record) -> Table | None:
    """The first experiment's epoch; None where a training was measured without the other ways to run ours."""
    rows = {row["library"]: row for row in record["results"] if row["task"] == "seq2vec"}
    if not {"jaxrnn", "jaxrnn-reference"} <= set(rows):
        return None
    results = [Result(**{k: v for k, v in row.items() if k != "spread"}) for row in rows.values()]
    baseline = next(result for result in results if result.library == "jaxrnn")
    lines = []
    for result in results:
        ratio = "1" if result is baseline else spread_text(result.ratio(baseline))
        epoch = _text(rows[result.library]["spread"], 1e-3)
        lines.append([label(result.library), epoch, ratio, f"{result.first['seconds']:.2f}"])
    return Table(EPOCH_COLUMNS, lines)


def epoch(record: Record) -> Table:
    """The same from the results of an earlier benchmark, which measured this epoch alone in one process."""
    lines = []
    for name, timing in record["timings"].items():
        ratio = "1" if name == "jaxrnn" else _text(record["ratios_to_ours"][name])
        lines.append([name, _text(timing, 1e-3), ratio, f"{timing['first_call_s']:.2f}"])
    return Table(EPOCH_COLUMNS, lines)


_CELL_NAMES = {"simple_rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}


def layers(record: Record) -> Table:
    means = {(row["cell"], row["mode"]): row for row in record["geometric_means"]}
    against = [
        (mode, peer) for mode in ("train", "forward") for peer in ("fastest JAX peer", "fastest peer of all")
    ]
    lines = [
        [_CELL_NAMES[cell], *(f"{means[cell, mode][peer]:.2f}" for mode, peer in against)]
        for cell in dict.fromkeys(cell for cell, _ in means)
    ]
    columns = ["layer", "training step: JAX peers", "all peers", "forward: JAX peers", "all peers"]
    return Table(columns, lines)


def training(record: Record) -> Table:
    """Every task, in the libraries that trained them all."""
    rows = {(row["task"], row["library"]): row for row in record["results"]}
    tasks, names = (list(dict.fromkeys(key[i] for key in rows)) for i in (0, 1))
    libraries = [name for name in names if all((task, name) in rows for task in tasks)]
    lines = []
    for task in tasks:
        found = [rows[task, name] for name in libraries]
        epochs = [_text(row["spread"], 1e-3, quartiles=False) for row in found]
        lines.append([task, *epochs, *(f"{row['memory'] / 2**20:.0f}" for row in found)])
    labels = [label(name) for name in libraries]
    columns = ["training", *(f"ms an epoch: {n}" for n in labels), *(f"peak MiB: {n}" for n in labels)]
    return Table(columns, lines)


def sweep(record: Record) -> Table:
    runs = record["rates"] * record["seeds"]
    lines = [[name, _text(timing), _text(record["ratios"][name])] for name, timing in record["timings"].items()]
    return Table(["way", f"s an epoch of {runs} runs", "divided by native, one after the other"], lines)


def streaming(record: Record) -> Table:
    rows = [row for row in record["rows"] if row["dispatch"] == "synchronous"]
    names = list(dict.fromkeys(name for row in rows for name in row["timings"]))
    lines = []
    for row in rows:
        medians = {name: f"{found['median'] * 1e6:.1f}" for name, found in row["timings"].items()}
        title = f"{_CELL_NAMES[row['cell']]}, {row['in_features']} to {record['hidden']}"
        lines.append([title, *(medians.get(name, "") for name in names)])
    return Table(["microseconds a step", *names], lines)


TABLES: dict[str, tuple[tuple[str, Callable[[Record], Table | None]], ...]] = {
    "epoch": (("training", first_experiment), ("epoch", epoch)),
    "layers": (("layers", layers),),
    "training": (("training", training),),
    "sweep": (("sweep", sweep),),
    "streaming": (("streaming", streaming),),
}
"""By the name in the page: whose results it shows, and what makes the table; the first that gives one is taken."""


main = command(Options, run, "readme", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
