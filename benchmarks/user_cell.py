"""Time cells of your own on the engine against the same cells scanned by hand and in ``flax.nnx.RNN``.

    python -m benchmarks.user_cell --quick                              # three shapes, a few minutes
    python -m benchmarks.user_cell                                      # all shapes, half an hour
    taskset -c 0 python -m benchmarks.user_cell --processor-time        # where others use the machine, too

The cells are those of the documentation and others: the LSTM as a cell of one's own, the LSTM with peepholes, the
sLSTM's exponential gates, a carry of two parts, and a cell with a matrix product of its own, which stays on the
scan. A training step computes the mean of the squared outputs and its gradients with respect to the parameters. By
hand, plain autodiff differentiates ``jax.lax.scan``, with the input projection within each step, as
``flax.nnx.RNN`` does with any cell, or hoisted: computed before the scan. The built-in cell takes part where there
is one with the same equations. All have the same float32 weights, and the losses and gradients of 16 steps are
compared before any timing. benchmarks/common/timing.py describes how the time is taken. Ratios are the time of the
others divided by ours, pair by pair: above 1, ours is faster.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tyro
from flax import nnx

import jaxrnn
from benchmarks.common import comparison
from benchmarks.common.command import Options, command, known
from benchmarks.common.report import Report, medians, progress
from benchmarks.common.rows import (
    OURS,
    QUICK,
    SHAPES,
    Row,
    Shape,
    geometric_means,
    groups,
    ratio_table,
    time_table,
)
from benchmarks.common.timing import interleave
from benchmarks.libraries.base import Contestant, layer_in_jax, layer_in_nnx
from benchmarks.libraries.by_hand import EVERY_STEP, every_cell, scan_by_hand
from benchmarks.libraries.user_cells import BUILT_IN

HAND = {"by hand": False, "by hand, hoisted": True}
"""The versions scanned by hand, and whether they compute the input projection before the scan."""

MODES = {"training step": "train", "forward pass": "forward"}
"""What is timed, and the attribute of a contestant that does it."""

TOLERANCE = comparison.Tolerance(1e-4, relative=True)

CHECKED_STEPS = 16
"""Steps that are compared: in a chaotic cell, like the one with the layer norm, rounding errors grow with time."""


@dataclass(frozen=True)
class UserCellOptions(Options):
    """What to measure."""

    cells: tuple[str, ...] = tuple(EVERY_STEP)
    """Cells to measure."""

    processor_time: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure the processor time of this process, all threads together, in place of the time on the wall."""


def run(options: UserCellOptions) -> None:
    known("cell", options.cells, EVERY_STEP)
    repetitions = options.given(options.repetitions, quick=4, full=20)
    shapes = options.given(None, quick=QUICK, full=SHAPES)
    clock = time.process_time if options.processor_time else time.perf_counter
    machine = options.start()
    rows = []
    with progress(len(options.cells) * len(shapes) * repetitions * len(MODES)) as update:
        for cell in options.cells:
            for shape in shapes:
                update(f"{cell}, {shape}")
                comparison.check_training(
                    contestants(cell, shape._replace(time=CHECKED_STEPS)), f"{cell}, {shape}", OURS, TOLERANCE
                )
                layers = contestants(cell, shape)
                for mode, attribute in MODES.items():
                    calls = {name: getattr(layer, attribute) for name, layer in layers.items()}
                    timings = interleave(calls, repetitions, advance=update, clock=clock)
                    rows.append(Row({"cell": cell, "mode": mode, "shape": shape}, timings))
    results = {
        "repetitions": repetitions,
        "processor_time": options.processor_time,
        "rows": [row.as_json() for row in rows],
        "geometric_means": {
            mode: geometric_means([row for row in rows if row.case["mode"] == mode]) for mode in MODES
        },
    }
    report(rows, repetitions, options.processor_time).write(
        options.name("user-cell"), results, machine, options.out
    )


def contestants(name: str, shape: Shape) -> dict[str, Contestant]:
    """The layers, all with the same weights and inputs."""
    inputs = np.random.default_rng(0).normal(size=shape[:3]).astype(np.float32)
    sizes = shape.in_features, shape.hidden
    cell = every_cell()[name](*sizes, rngs=nnx.Rngs(0))
    first = cell.initialize_carry((shape.batch, shape.in_features))
    found = {OURS: layer_in_nnx(jaxrnn.RNN(cell), inputs)}
    if name in BUILT_IN:
        built_in = BUILT_IN[name](*sizes, rngs=nnx.Rngs(0))
        nnx.update(built_in, nnx.state(cell))
        found["built-in"] = layer_in_nnx(jaxrnn.RNN(built_in), inputs)
    params = nnx.to_pure_dict(nnx.state(cell))
    for label, hoisted in HAND.items():
        by_hand = functools.partial(scan_by_hand, name, h=first, hoisted=hoisted)
        found[label] = layer_in_jax(lambda p, x, by_hand=by_hand: by_hand(p, x)[1], params, inputs)
    graphdef, state, rest = nnx.split(nnx.RNN(cell), nnx.Param, ...)
    flax = layer_in_jax(lambda p, x: nnx.merge(graphdef, p, rest)(x, initial_carry=first), state, inputs)
    return found | {"nnx.RNN": flax}


def report(rows: Sequence[Row], repetitions: int, processor_time: bool) -> Report:
    unit = "Milliseconds of processor time" if processor_time else "Milliseconds"
    made = Report("Cells of your own", medians(unit, repetitions), __doc__)
    for (cell, mode), group in groups(rows, "cell", "mode").items():
        made.add(f"## {cell}, {mode}")
        made.table(time_table(group), f"{cell}: {mode}, ms")
        made.table(ratio_table(group), "divided by ours")
    for (mode,), group in groups(rows, "mode").items():
        means = ", ".join(f"{name} {mean:.2f}" for name, mean in geometric_means(group).items())
        made.add(f"Geometric means over all cells and shapes of the time of a {mode} divided by ours: {means}.")
    return made


main = command(UserCellOptions, run, "user_cell", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
