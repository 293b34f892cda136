"""Time one recurrent layer in this library and in others, forward and as a training step.

    python -m benchmarks.layers --quick                    # three shapes, about a minute
    python -m benchmarks.layers                            # all shapes, several minutes
    python -m benchmarks.layers --peers keras torch        # only against these

"forward" computes the outputs of every step. "training step" computes the mean of the squared outputs and its
gradients with respect to the parameters; the inputs get no gradient. Before any timing all libraries get the same
weights and inputs, and their outputs, losses and gradients are compared. benchmarks/common/timing.py describes how
the time is taken.

A ratio is a peer's time divided by ours: above 1, ours is faster. The rate in GFLOP/s counts the matrix products
only, and its share is of the rate of one large matrix product on the same machine, which no layer can exceed.

The tables go to benchmarks/results/ as Markdown and JSON, with a picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro

from benchmarks.common import comparison
from benchmarks.common.command import Options, command, known
from benchmarks.common.report import progress
from benchmarks.common.rows import OURS, Row
from benchmarks.common.shapes import QUICK, SHAPES, Shape
from benchmarks.common.timing import interleave, seconds_of
from benchmarks.libraries import PEERS, ours
from benchmarks.libraries.base import Contestant, Library
from benchmarks.libraries.ours import CELLS
from benchmarks.reports.layers import MODES, as_json, report

TOLERANCES = comparison.layer_tolerances(outputs=1e-4, relative=1e-3)


@dataclass(frozen=True)
class LayerOptions(Options):
    """What to measure."""

    cells: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Cells to measure: {', '.join(CELLS)}.")] = tuple(CELLS)

    peers: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Peers to measure: {', '.join(PEERS)}.")] = tuple(PEERS)


def run(options: LayerOptions) -> None:
    known("cell", options.cells, CELLS)
    known("peer", options.peers, PEERS)
    repetitions = options.given(options.repetitions, quick=4, full=20)
    shapes = options.given(None, quick=QUICK, full=SHAPES)
    absences = {PEERS[name].label: why for name in options.peers if (why := PEERS[name].missing())}
    peers = {name: PEERS[name] for name in options.peers if PEERS[name].label not in absences}
    machine = options.start()

    rows: list[Row] = []
    with progress(len(options.cells) * len(shapes) * len(MODES) * repetitions) as update:
        for cell in options.cells:
            for shape in shapes:
                update(description=f"{cell}, {shape}: compiling and comparing")
                rows += measure(cell, shape, contestants(cell, shape, peers), repetitions, update)
            for peer in peers.values():
                absences |= peer.absences(cell)

    rate = machine["matmul_gflops"]
    made = report(rows, rate, repetitions, [f"{who}: {reason}." for who, reason in absences.items()])
    results = {"repetitions": repetitions, "absent": absences, **as_json(rows, rate)}
    path = made.write(options.name("layers"), results, machine, options.out)
    from benchmarks.reports.layers_picture import draw

    draw(rows, path.with_suffix(".png"))


def contestants(cell: str, shape: Shape, peers: Mapping[str, Library]) -> dict[str, Contestant]:
    """Ours and every peer that can take part, all with the same weights and inputs."""
    weights = ours.first_weights(cell, shape.in_features, shape.hidden)
    inputs = np.random.default_rng(0).normal(size=shape[:3]).astype(np.float32)
    found = {OURS: ours.layer(cell, weights, inputs)}
    for name, peer in peers.items():
        if peer.takes(cell, shape):
            assert peer.layer is not None
            found[name] = peer.layer(peer.cells[cell], weights, inputs)
    return found


def measure(cell: str, shape: Shape, layers: dict[str, Contestant], repetitions: int, update) -> list[Row]:
    """Contestants at one shape: first calls, comparison of results, timing."""
    first = {mode: {n: seconds_of(getattr(layer, mode)) for n, layer in layers.items()} for mode in MODES}
    results = {name: comparison.layer_results(*layer) for name, layer in layers.items()}
    comparison.check(results, OURS, TOLERANCES, f"{cell}, {shape}")
    rows = []
    for mode, words in MODES.items():
        update(description=f"{cell}, {shape}: {words}")
        calls = {name: getattr(layer, mode) for name, layer in layers.items()}
        timings = interleave(calls, repetitions, first_calls=first[mode], advance=lambda: update(advance=1))
        rows.append(Row({"cell": cell, "mode": mode, "shape": shape}, timings))
    return rows


main = command(LayerOptions, run, "layers", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
