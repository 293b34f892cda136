"""Write the documentation's tables of measurements from the files in benchmarks/results, so that no number is
typed.

    python -m benchmarks.readme                # a second; rewrites benchmarks/README.md and README.md
    python -m benchmarks.readme --check        # says what differs, and ends with 1 if something does

The text between ``<!-- results: NAME -->`` and ``<!-- end -->`` belongs to this command; NAME is one of
``TABLES``. A page needs no such marker, and a table without results stays as it is. Where there are results of
several machines, ``--machine`` names the one to show, as in the file names.
"""

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.common.command import command, known
from benchmarks.common.report import RESULTS, Table, console, spread_text
from benchmarks.common.timing import Spread
from benchmarks.layers import AGAINST
from benchmarks.libraries import label
from benchmarks.training import epoch_table
from experiments.common.report import fail

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
    for page in filter(Path.exists, options.readme):
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
    """The text with every table that has results written anew, and the names of these tables. A ValueError if the
    name of a table is unknown."""
    names = []

    def table(match: re.Match[str]) -> str:
        opening, name, _, closing = match.groups()
        known("table", [name], TABLES)
        paths = [results / f"{BENCHMARKS.get(name, name)}-{machine}.json"]
        if name == "accelerator":  # whose machine is another one
            paths = sorted(results.glob("accelerator-*.json"))
        for path in paths:
            record = json.loads(path.read_text()) if path.exists() else None
            if record is not None and (made := TABLES[name](record)) is not None:
                names.append(name)
                return f"{opening}{versions(record)}\n\n{made.markdown()}{closing}"
        return match[0]

    return _BLOCK.sub(table, text), names


BENCHMARKS = {"epoch": "training"}
"""The benchmarks of tables that are not named after theirs."""


def versions(record: Record) -> str:
    """The machine and the versions, in a line or two."""
    on = record["machine"]
    packages = {"jax": "jax", "keras": "Keras", "torch": "PyTorch"}
    found = [f"{name} {on[package]}" for package, name in packages.items() if on.get(package)]
    processor = re.sub(r"\((R|TM)\)", "", on["processor"])
    command = f"`python -m benchmarks.{record['benchmark']}`"
    where = f"{on['cores']} cores of an {processor}" if on.get("device", "cpu") == "cpu" else on["device"]
    return f"{where}, {', '.join(found)} ({command}):"


def _text(found: Mapping[str, float], unit: float = 1, *, quartiles: bool = True) -> str:
    return spread_text(Spread(found["median"], found["low"], found["high"]), unit, quartiles=quartiles)


def epoch(record: Record) -> Table | None:
    """The first experiment's epoch; None of a training that was measured without the other ways to run ours."""
    rows = [row for row in record["results"] if row["task"] == "seq2vec"]
    if not {"jaxrnn", "jaxrnn-reference"} <= {row["library"] for row in rows}:
        return None
    lines = [line[:4] for line in epoch_table(rows).rows]
    return Table(("contestant", "ms an epoch", "divided by ours", "first epoch, s"), lines)


_CELL_NAMES = {"simple_rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}


def layers(record: Record) -> Table:
    means = {(row["cell"], row["mode"]): row for row in record["geometric_means"]}
    against = list(itertools.product(("train", "forward"), AGAINST))
    cells = dict.fromkeys(cell for cell, _ in means)
    lines = [[_CELL_NAMES[cell], *(f"{means[cell, mode][peer]:.2f}" for mode, peer in against)] for cell in cells]
    return Table(["layer", "training step: JAX peers", "all peers", "forward: JAX peers", "all peers"], lines)


def training(record: Record) -> Table:
    """Every task, in the libraries that trained them all."""
    rows = {(row["task"], row["library"]): row for row in record["results"]}
    tasks, names = (list(dict.fromkeys(key[i] for key in rows)) for i in (0, 1))
    libraries = [name for name in names if all((task, name) in rows for task in tasks)]

    def texts(task: str) -> dict[str, str]:
        found = {label(name): rows[task, name] for name in libraries}
        epochs = {f"ms an epoch: {n}": _text(row["spread"], 1e-3, quartiles=False) for n, row in found.items()}
        return epochs | {f"peak MiB: {n}": f"{row['memory'] / 2**20:.0f}" for n, row in found.items()}

    return Table.of("training", [(task, texts(task)) for task in tasks])


def sweep(record: Record) -> Table:
    runs = record["rates"] * record["seeds"]
    lines = [[name, _text(timing), _text(record["ratios"][name])] for name, timing in record["timings"].items()]
    return Table(["way", f"s an epoch of {runs} runs", "divided by native, one after the other"], lines)


def streaming(record: Record) -> Table:
    def title(row: Record) -> str:
        return f"{_CELL_NAMES[row['cell']]}, {row['in_features']} to {record['hidden']}"

    rows = [row for row in record["rows"] if row["dispatch"] == "synchronous"]
    texts = [{name: f"{t['median'] * 1e6:.1f}" for name, t in row["timings"].items()} for row in rows]
    return Table.of("microseconds a step", zip(map(title, rows), texts))


def accelerator(record: Record) -> Table:
    """Microseconds a step, forward and of a training step, of what is picked and of what it is compared with."""
    cases: dict[str, dict[str, Record]] = {}
    for row in record["rows"]:
        title = f"{_CELL_NAMES.get(row['cell'], row['cell'])}, {row['shape']['hidden']}, {row['dtype']}"
        cases.setdefault(title, {})[row["mode"]] = row

    def texts(modes: dict[str, Record]) -> dict[str, str]:
        timings = [modes[mode]["timings"] for mode in ("forward", "train")]
        kernels = [name for name in ("one SM", "Triton", "cluster") if name in timings[0]]
        ours = kernels[0] if modes["train"]["auto"] == "pallas" else "scan, unroll 8"
        columns = {"jaxrnn": ours, **{name: name for name in COMPARED if name in timings[0]}}
        found = {"picked": ours}
        for column, name in columns.items():
            found[column] = " / ".join(_text(timing[name], 1e-6, quartiles=False) for timing in timings)
        return found

    return Table.of("cell, units, dtype", [(title, texts(modes)) for title, modes in cases.items()])


COMPARED = ("scan, unroll 8", "nnx.RNN", "scanned by hand", "cuDNN", "cuDNN, float16")

TABLES = {made.__name__: made for made in (epoch, layers, training, sweep, streaming, accelerator)}
"""What makes the table of this name in a page."""

main = command(Options, run, "readme", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
