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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx

import jaxrnn
from benchmarks.common import comparison
from benchmarks.common.command import Benchmark, ClockOptions, command, known
from benchmarks.common.report import progress
from benchmarks.common.rows import OURS, QUICK, SHAPES, Shape, geometric_means, groups
from benchmarks.libraries.base import Contestant, layer_in_nnx
from benchmarks.libraries.by_hand import by_hand
from benchmarks.libraries.flax import in_nnx_rnn
from benchmarks.libraries.user_cells import BUILT_IN, CELLS, readme_cells

EVERY_CELL = {**readme_cells(), **CELLS}

HAND = {"by hand": False, "by hand, hoisted": True}
"""The versions scanned by hand, and whether they compute the input projection before the scan."""

MODES = {"training step": "train", "forward pass": "forward"}
"""What is timed, and the attribute of a contestant that does it."""

TOLERANCE = comparison.Tolerance(1e-4, relative=True)

CHECKED_STEPS = 16
"""Steps that are compared: in a chaotic cell, like the one with the layer norm, rounding errors grow with time."""


@dataclass(frozen=True)
class UserCellOptions(ClockOptions):
    """What to measure."""

    cells: tuple[str, ...] = tuple(EVERY_CELL)
    """Cells to measure."""


def run(options: UserCellOptions) -> None:
    known("cell", options.cells, EVERY_CELL)
    made = Benchmark(options, "user-cell", "Cells of your own", __doc__, quick=4, full=20)
    shapes = QUICK if options.quick else SHAPES
    for cell, shape in progress((cell, shape) for cell in options.cells for shape in shapes):
        layers = compared(functools.partial(contestants, cell), shape, cell)
        by_mode(made, {"cell": cell, "shape": shape}, layers)
    for (cell, mode), group in groups(made.rows, "cell", "mode").items():
        made.tables(f"{cell}, {mode}", group)
    means = {mode: geometric_means(group) for (mode,), group in groups(made.rows, "mode").items()}
    for mode, found in means.items():
        texts = ", ".join(f"{name} {mean:.2f}" for name, mean in found.items())
        made.add(f"Geometric means over all cells and shapes of the time of a {mode} divided by ours: {texts}.")
    made.write(geometric_means=means)


def compared(make: Callable[[Shape], dict[str, Contestant]], shape: Shape, where: str) -> dict[str, Contestant]:
    """The contestants, after a comparison of a few steps."""
    comparison.check_training(make(shape._replace(time=CHECKED_STEPS)), f"{where}, {shape}", OURS, TOLERANCE)
    return make(shape)


def by_mode(made: Benchmark, case: dict[str, Any], layers: dict[str, Contestant]) -> None:
    """Measure a row for each mode."""
    for mode, function in MODES.items():
        made.measure({**case, "mode": mode}, {name: getattr(layer, function) for name, layer in layers.items()})


def contestants(name: str, shape: Shape) -> dict[str, Contestant]:
    """The layers, all with the same weights and inputs."""
    inputs = np.random.default_rng(0).normal(size=shape[:3]).astype(np.float32)
    sizes = shape.in_features, shape.hidden
    cell = EVERY_CELL[name](*sizes, rngs=nnx.Rngs(0))
    found = {OURS: layer_in_nnx(jaxrnn.RNN(cell), inputs)}
    if name in BUILT_IN:
        built_in = BUILT_IN[name](*sizes, rngs=nnx.Rngs(0))
        nnx.update(built_in, nnx.state(cell))
        found["built-in"] = layer_in_nnx(jaxrnn.RNN(built_in), inputs)
    for label, hoisted in HAND.items():
        found[label] = by_hand(cell, inputs, hoisted=hoisted)
    return found | {"nnx.RNN": in_nnx_rnn(cell, inputs)}


main = command(UserCellOptions, run, "user_cell", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
