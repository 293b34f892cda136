"""Time the documentation's cells of your own on the engine against the same cells scanned by hand.

    python -m benchmarks.user_cell --quick      # three shapes, about a minute
    python -m benchmarks.user_cell              # all shapes, several minutes

A training step computes the mean of the squared outputs and its gradients with respect to the parameters. By hand,
plain autodiff differentiates ``jax.lax.scan``, with the input projection within each step, as ``flax.nnx.RNN``
does with any cell, or hoisted: computed before the scan. Before any timing losses and gradients are compared.
benchmarks/common/timing.py describes how the time is taken. Ratios are the time by hand divided by ours: above 1,
ours is faster.

The tables go to benchmarks/results/ as Markdown and JSON.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

import jaxrnn
from benchmarks.common import comparison
from benchmarks.common.command import Options, command, known
from benchmarks.common.report import Report, progress
from benchmarks.common.rows import OURS, Row, geometric_means, groups, ratio_table, time_table
from benchmarks.common.shapes import QUICK, SHAPES, Shape
from benchmarks.common.timing import interleave, seconds_of
from benchmarks.libraries.by_hand import BY_HAND, readme_cells, scan_by_hand

HAND = {"by hand": False, "by hand, hoisted": True}
"""The versions scanned by hand, and whether they compute the input projection before the scan."""

TOLERANCE = comparison.Tolerance(1e-4, relative=True)
"""In float32."""

CHECKED_STEPS = 16
"""Steps that are compared: in a chaotic cell, like the one with the layer norm, rounding errors grow with time."""


@dataclass(frozen=True)
class UserCellOptions(Options):
    """What to measure."""

    cells: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Cells to measure: {', '.join(BY_HAND)}.")] = tuple(
        BY_HAND
    )


def run(options: UserCellOptions) -> None:
    known("cell", options.cells, BY_HAND)
    repetitions = options.given(options.repetitions, quick=4, full=20)
    shapes = options.given(None, quick=QUICK, full=SHAPES)
    machine = options.start()
    rows = []
    with progress(len(options.cells) * len(shapes) * repetitions) as update:
        for cell in options.cells:
            for shape in shapes:
                update(description=f"{cell}, {shape}")
                calls = contestants(cell, shape)
                first = {name: seconds_of(call) for name, call in calls.items()}
                check(contestants(cell, shape._replace(time=CHECKED_STEPS)), f"{cell}, {shape}")
                timings = interleave(calls, repetitions, first_calls=first, advance=lambda: update(advance=1))
                rows.append(Row({"cell": cell, "shape": shape}, timings))
    results = {
        "repetitions": repetitions,
        "rows": [row.as_json() for row in rows],
        "geometric_means": geometric_means(rows),
    }
    report(rows, repetitions).write(options.name("user-cell"), results, machine, options.out)


def contestants(name: str, shape: Shape) -> dict[str, Callable[[], Any]]:
    """The training steps, all with the same weights and inputs."""
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=shape[:3]), jnp.float32)
    first = jnp.zeros((shape.batch, shape.hidden))
    layer = jaxrnn.RNN(readme_cells()[name](shape.in_features, shape.hidden, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(layer)

    def training_step(outputs: Callable[[Any, Any], Any], params: Any) -> Callable[[], Any]:
        step = jax.jit(jax.value_and_grad(lambda params, x: jnp.mean(outputs(params, x) ** 2)))
        return lambda: step(params, inputs)

    calls = {OURS: training_step(lambda params, x: nnx.merge(graphdef, params)(x), params)}
    for label, hoisted in HAND.items():

        def by_hand(params, x, hoisted=hoisted):
            return scan_by_hand(name, params, x, first, hoisted=hoisted)[1]

        calls[label] = training_step(by_hand, nnx.to_pure_dict(params)["cell"])
    return calls


def check(calls: dict[str, Callable[[], Any]], where: str) -> None:
    """A ValueError if a contestant does not compute the same as ours."""
    results = {}
    for name, call in calls.items():
        loss, gradients = call()
        results[name] = {
            "losses": float(loss),
            "norms of the gradients": comparison.norm(jax.tree.leaves(gradients)),
        }
    comparison.check(results, OURS, dict.fromkeys(results[OURS], TOLERANCE), where)


def report(rows: Sequence[Row], repetitions: int) -> Report:
    made = Report(
        "Cells of your own",
        "The documentation's cells on the engine, and scanned by hand under plain autodiff with the input "
        "projection within each step or, hoisted, before the scan. Training step: the mean of the squared "
        "outputs and its gradients with respect to the parameters. Float32, the same weights in all (losses and "
        f"gradients of {CHECKED_STEPS} steps are compared before). Milliseconds: median, and quartiles in "
        f"parentheses, of {repetitions} repetitions of 2 calls, interleaved, the fastest in bold; ratios pair by "
        "pair, above 1 ours is faster.",
    )
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
