"""Time one recurrent layer in this library and in others, forward and as a training step.

    python -m benchmarks.layers --quick                    # three shapes, about a minute
    python -m benchmarks.layers                            # all shapes, several minutes
    python -m benchmarks.layers --peers keras torch        # only against these

"forward" computes the outputs of every step. "training step" computes the mean of the squared outputs and its
gradients with respect to the parameters; the inputs get no gradient. Before any timing all libraries get the same
weights and inputs, and their outputs, losses and gradients are compared. How time is taken: benchmarks/timing.py.

A ratio is a peer's time divided by ours: above 1, ours is faster. The rate in GFLOP/s counts the matrix products
only, and its share is of the rate of one large matrix product on the same machine, which no layer can exceed.

The tables go to benchmarks/results/ as Markdown and JSON, with a picture.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

from benchmarks.cells import CELLS
from benchmarks.layer_tables import MODES, Row, as_json, markdown, show
from benchmarks.machine import describe, machine
from benchmarks.peers import OURS, PEERS, Contestant, Peer, contestants
from benchmarks.report import check_writable, console, fail, progress, write_results
from benchmarks.shapes import QUICK, SHAPES, Shape
from benchmarks.timing import interleave, seconds_of

OUTPUT_TOLERANCE = 1e-4
"""Largest difference between a peer's outputs and ours; outputs of tanh lie within (-1, 1)."""

GRADIENT_TOLERANCE = 1e-3
"""Relative: of the loss, and of the norm of the gradients."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Three shapes and few repetitions, to see that everything works."""

    cells: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Cells to measure: {', '.join(CELLS)}.")] = tuple(CELLS)

    peers: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Peers to measure: {', '.join(PEERS)}.")] = tuple(PEERS)

    repetitions: int | None = None
    """Rounds, in each of which every layer is timed twice (default: 20, with --quick 4)."""

    out: Path | None = None
    """Folder for the results (default: benchmarks/results)."""


def main(arguments: list[str] | None = None) -> int:
    options = tyro.cli(Options, prog="python -m benchmarks.layers", args=arguments, description=__doc__)
    try:
        return run(options)
    except (ValueError, OSError) as error:
        return fail(str(error))


def run(options: Options) -> int:
    known("cell", options.cells, CELLS)
    known("peer", options.peers, PEERS)
    repetitions = (4 if options.quick else 20) if options.repetitions is None else options.repetitions
    shapes = QUICK if options.quick else SHAPES
    chosen = {name: PEERS[name] for name in options.peers}
    absences = {peer.label: reason for peer in chosen.values() if (reason := peer.missing())}
    chosen = {name: peer for name, peer in chosen.items() if peer.label not in absences}
    check_writable(options.out)
    on = machine()
    console.print(describe(on), soft_wrap=True)

    rows: list[Row] = []
    with progress(len(options.cells) * len(shapes) * len(MODES) * repetitions) as update:
        for cell in options.cells:
            for shape in shapes:
                update(description=f"{cell}, {shape}: compiling and comparing")
                rows += measure(cell, shape, chosen, repetitions, update)
            absences |= absences_of(cell, chosen)

    notes = [f"{who}: {reason}." for who, reason in absences.items()]
    name = "layers-quick" if options.quick else "layers"
    results = {"repetitions": repetitions, "absent": absences, **as_json(rows, on["matmul_gflops"])}
    text = markdown(rows, on["matmul_gflops"], repetitions, notes)
    path = write_results(name, text, results, on, options.out)
    from benchmarks.picture import draw

    draw(rows, path.with_suffix(".png"))
    show(rows, on["matmul_gflops"], notes)
    console.print(f"Written: {path.name}, .json and .png, in {path.parent}", soft_wrap=True)
    return 0


def measure(cell: str, shape: Shape, peers: dict[str, Peer], repetitions: int, update) -> list[Row]:
    """All libraries at one shape: first calls, comparison of results, timing."""
    layers = contestants(CELLS[cell], shape, peers)
    first = {mode: {n: seconds_of(getattr(layer, mode)) for n, layer in layers.items()} for mode in MODES}
    check(layers, f"{cell}, {shape}")
    rows = []
    for mode, words in MODES.items():
        update(description=f"{cell}, {shape}: {words}")
        calls = {name: getattr(layer, mode) for name, layer in layers.items()}
        timings = interleave(calls, repetitions, first_calls=first[mode], advance=lambda: update(advance=1))
        rows.append(Row(cell, mode, shape, timings))
    return rows


def check(layers: dict[str, Contestant], where: str) -> None:
    """Do all compute the same? A ValueError names the first that does not, and by how much."""
    results = {name: _results(layer) for name, layer in layers.items()}
    outputs, loss, norm = results[OURS]
    for name, (other_outputs, other_loss, other_norm) in results.items():
        if other_outputs.shape != outputs.shape:
            raise ValueError(f"{where}: outputs of {name} are {other_outputs.shape}, ours {outputs.shape}")
        differences = {
            "outputs": (np.abs(other_outputs - outputs).max(), OUTPUT_TOLERANCE),
            "the loss": (abs(other_loss / loss - 1), GRADIENT_TOLERANCE),
            "the norm of the gradients": (abs(other_norm / norm - 1), GRADIENT_TOLERANCE),
        }
        for what, (difference, tolerance) in differences.items():
            if not difference <= tolerance:
                raise ValueError(
                    f"{where}: {what} of {name} and of {OURS} differ by {difference:.2g}, more than "
                    f"{tolerance:g}, so their times cannot be compared: see benchmarks/cells.py"
                )


def _results(layer: Contestant) -> tuple[np.ndarray, float, float]:
    loss, gradients = layer.train()
    # Of matrices only: PyTorch has two biases where others have one, and Keras's GRU has two as rows of one array.
    matrices = [np.asarray(g, np.float64) for g in jax.tree.leaves(gradients) if g.ndim == 2 and len(g) != 2]
    return np.asarray(layer.forward()), float(loss), float(np.sqrt(sum(np.sum(g * g) for g in matrices)))


def absences_of(cell: str, peers: dict[str, Peer]) -> dict[str, str]:
    """Peers that are left out of some or all rows of a cell, and why."""
    found = {}
    for peer in peers.values():
        if peer.recipe not in CELLS[cell].recipes:
            found[f"{peer.label}, {cell}"] = "has no such cell"
        elif peer.max_time is not None:
            found[peer.label] = f"unrolls its loop, so it is not asked for more than {peer.max_time} steps"
    return found


def known(what: str, names: tuple[str, ...], available) -> None:
    for name in names:
        if name not in available:
            raise ValueError(f"unknown {what} {name!r}; available: {', '.join(available)}")


if __name__ == "__main__":
    raise SystemExit(main())
