"""Time the documentation's cells of your own on the engine against the same cells scanned by hand.

    python -m benchmarks.user_cell --quick      # three shapes, about a minute
    python -m benchmarks.user_cell              # all shapes, several minutes

A training step computes the mean of the squared outputs and its gradients with respect to the parameters. By hand,
plain autodiff differentiates ``jax.lax.scan``, with the input projection within each step, as ``flax.nnx.RNN``
does with any cell, or hoisted: computed before the scan. All have the same float32 weights, and the losses and
gradients of 16 steps are compared before any timing. benchmarks/common/timing.py describes how the time is taken.
Ratios are the time by hand divided by ours, pair by pair: above 1, ours is faster.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
from benchmarks.libraries.base import layer_in_jax, layer_in_nnx
from benchmarks.libraries.by_hand import BY_HAND, readme_cells, scan_by_hand

HAND = {"by hand": False, "by hand, hoisted": True}
"""The versions scanned by hand, and whether they compute the input projection before the scan."""

TOLERANCE = comparison.Tolerance(1e-4, relative=True)

CHECKED_STEPS = 16
"""Steps that are compared: in a chaotic cell, like the one with the layer norm, rounding errors grow with time."""


@dataclass(frozen=True)
class UserCellOptions(Options):
    """What to measure."""

    cells: tuple[str, ...] = tuple(BY_HAND)
    """Cells to measure."""


def run(options: UserCellOptions) -> None:
    known("cell", options.cells, BY_HAND)
    repetitions = options.given(options.repetitions, quick=4, full=20)
    shapes = options.given(None, quick=QUICK, full=SHAPES)
    machine = options.start()
    rows = []
    with progress(len(options.cells) * len(shapes) * repetitions) as update:
        for cell in options.cells:
            for shape in shapes:
                update(f"{cell}, {shape}")
                check(contestants(cell, shape._replace(time=CHECKED_STEPS)), f"{cell}, {shape}")
                timings = interleave(contestants(cell, shape), repetitions, advance=update)
                rows.append(Row({"cell": cell, "shape": shape}, timings))
    found = {"rows": [row.as_json() for row in rows], "geometric_means": geometric_means(rows)}
    results = {"repetitions": repetitions, **found}
    report(rows, repetitions).write(options.name("user-cell"), results, machine, options.out)


def contestants(name: str, shape: Shape) -> dict[str, Callable[[], Any]]:
    """The training steps, all with the same weights and inputs."""
    inputs = np.random.default_rng(0).normal(size=shape[:3]).astype(np.float32)
    first = jnp.zeros((shape.batch, shape.hidden))
    layer = jaxrnn.RNN(readme_cells()[name](shape.in_features, shape.hidden, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(layer))["cell"]
    calls: dict[str, Any] = {OURS: layer_in_nnx(layer, inputs).train}
    for label, hoisted in HAND.items():
        by_hand = functools.partial(scan_by_hand, name, h=first, hoisted=hoisted)
        calls[label] = layer_in_jax(lambda p, x, by_hand=by_hand: by_hand(p, x)[1], params, inputs).train
    return calls


def check(calls: dict[str, Callable[[], Any]], where: str) -> None:
    """A ValueError if a contestant does not compute the same as ours."""
    results = {}
    for name, call in calls.items():
        loss, gradients = call()
        norm = comparison.norm(jax.tree.leaves(gradients))
        results[name] = {"losses": float(loss), "norms of the gradients": norm}
    comparison.check(results, OURS, dict.fromkeys(results[OURS], TOLERANCE), where)


def report(rows: Sequence[Row], repetitions: int) -> Report:
    made = Report("Cells of your own", medians("Milliseconds", repetitions), __doc__)
    for (cell,), group in groups(rows, "cell").items():
        made.add(f"## {cell}")
        made.table(time_table(group), f"{cell}: training step, ms")
        made.table(ratio_table(group), "divided by ours")
    means = ", ".join(f"{name} {mean:.2f}" for name, mean in geometric_means(rows).items())
    made.add(f"Geometric means over all cells and shapes of the time divided by ours: {means}.")
    return made


main = command(UserCellOptions, run, "user_cell", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
