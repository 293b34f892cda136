"""Time the README's cells of your own on the engine against the same cells scanned by hand.

    python -m benchmarks.user_cell --quick      # three shapes, about a minute
    python -m benchmarks.user_cell              # all shapes, several minutes

A training step computes the mean of the squared outputs and its gradients with respect to the parameters. By hand,
plain autodiff takes them through ``jax.lax.scan``, with the input projection within each step, as ``flax.nnx.RNN``
does with any cell, or taken before the scan. Before any timing losses and gradients are compared.
How time is taken: benchmarks/timing.py. Ratios are the time by hand divided by ours: above 1, ours is faster.

The tables go to benchmarks/results/ as Markdown and JSON.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

import jaxrnn
from benchmarks.layers import known
from benchmarks.machine import describe, machine
from benchmarks.report import Table, check_writable, console, fail, milliseconds, progress, times, write_results
from benchmarks.shapes import QUICK, SHAPES, Shape
from benchmarks.timing import Spread, Timing, geometric_mean, interleave, ratio, seconds_of
from benchmarks.user_cells import BY_HAND, readme_cells, scan_by_hand

OURS = "jaxrnn"
HAND = {"by hand": False, "by hand, hoisted": True}
"""Those scanned by hand, and whether they take the input projection before the scan."""

TOLERANCE = 1e-4
"""Relative, of the loss and of the norm of the gradients, in float32."""

CHECKED_STEPS = 16
"""Of how many steps: in a cell that is chaotic, as the layer norm makes its own, rounding errors grow and grow."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Three shapes and few repetitions, to see that everything works."""

    cells: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Cells to measure: {', '.join(BY_HAND)}.")] = tuple(
        BY_HAND
    )

    repetitions: int | None = None
    """Rounds, in each of which every contestant is timed twice (default: 20, with --quick 4)."""

    out: Path | None = None
    """Folder for the results (default: benchmarks/results)."""


class Row(NamedTuple):
    """What was measured of one cell at one shape."""

    cell: str
    shape: Shape
    timings: dict[str, Timing]

    def ratios(self) -> dict[str, Spread]:
        """The time of each by hand divided by ours."""
        return {name: ratio(self.timings[name], self.timings[OURS]) for name in HAND}


def main(arguments: list[str] | None = None) -> int:
    options = tyro.cli(Options, prog="python -m benchmarks.user_cell", args=arguments, description=__doc__)
    try:
        return run(options)
    except (ValueError, OSError) as error:
        return fail(str(error))


def run(options: Options) -> int:
    known("cell", options.cells, BY_HAND)
    repetitions = (4 if options.quick else 20) if options.repetitions is None else options.repetitions
    shapes = QUICK if options.quick else SHAPES
    check_writable(options.out)
    on = machine()
    console.print(describe(on), soft_wrap=True)
    rows = []
    with progress(len(options.cells) * len(shapes) * repetitions) as update:
        for cell in options.cells:
            for shape in shapes:
                update(description=f"{cell}, {shape}")
                calls = contestants(cell, shape)
                first = {name: seconds_of(call) for name, call in calls.items()}
                check(contestants(cell, shape._replace(time=CHECKED_STEPS)), f"{cell}, {shape}")
                timings = interleave(calls, repetitions, first_calls=first, advance=lambda: update(advance=1))
                rows.append(Row(cell, shape, timings))
    results = {"repetitions": repetitions, **as_json(rows)}
    name = "user-cell-quick" if options.quick else "user-cell"
    path = write_results(name, markdown(rows, repetitions), results, on, options.out)
    for cell in options.cells:
        table([row for row in rows if row.cell == cell]).show(f"{cell}: training step, ms")
    console.print(f"Written: {path.name} and .json, in {path.parent}", soft_wrap=True)
    return 0


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
    """Do all compute the same? A ValueError names the first that does not, and by how much."""

    def results(call: Callable[[], Any]) -> dict[str, float]:
        loss, gradients = call()
        norm = np.sqrt(sum(float(jnp.vdot(g, g)) for g in jax.tree.leaves(gradients)))
        return {"loss": float(loss), "norm of the gradients": float(norm)}

    expected = results(calls[OURS])
    for name in HAND:
        for what, found in results(calls[name]).items():
            difference = abs(found / expected[what] - 1)
            if not difference <= TOLERANCE:
                raise ValueError(f"{where}: the {what} of {name!r} differs from ours by {difference:.1e}")


def geometric_means(rows: Sequence[Row]) -> dict[str, float]:
    return {name: geometric_mean([row.ratios()[name].median for row in rows]) for name in HAND}


def table(rows: Sequence[Row]) -> Table:
    """One cell's times and ratios."""
    lines = []
    for row in rows:
        measured = [milliseconds(row.timings[name].spread) for name in (OURS, *HAND)]
        lines.append([str(row.shape), *measured, *(times(spread) for spread in row.ratios().values())])
    means = [f"{mean:.2f}" for mean in geometric_means(rows).values()]
    lines.append(["geometric mean", *[""] * (1 + len(HAND)), *means])
    return Table(
        ["batch x time x in, hidden", *(f"{name}, ms" for name in (OURS, *HAND)), *(f"{n} / ours" for n in HAND)],
        lines,
    )


def markdown(rows: Sequence[Row], repetitions: int) -> str:
    """The whole report."""
    parts = [
        "# Cells of your own\n\n",
        "The cells of README.md on the engine, and scanned by hand under plain autodiff with the input projection "
        "within each step or, hoisted, before the scan. Training step: the mean of the squared outputs with its "
        "gradients with respect to the parameters. Float32, same weights in all (losses and gradients of "
        f"{CHECKED_STEPS} steps compared before). Milliseconds: median, and quartiles in parentheses, of "
        f"{repetitions} repetitions of 2 calls, interleaved; ratios pair by pair, above 1 ours is faster.\n",
    ]
    for cell in dict.fromkeys(row.cell for row in rows):
        parts += [f"\n## {cell}\n\n", table([row for row in rows if row.cell == cell]).markdown()]
    means = ", ".join(f"{name} {mean:.2f}" for name, mean in geometric_means(rows).items())
    parts.append(f"\nGeometric means over all cells and shapes of the time divided by ours: {means}.\n")
    return "".join(parts)


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Everything, with every single call."""
    return {
        "rows": [
            {
                "cell": row.cell,
                "shape": row.shape._asdict(),
                "timings": {name: timing.as_json() for name, timing in row.timings.items()},
                "ratios_to_ours": {name: spread._asdict() for name, spread in row.ratios().items()},
            }
            for row in rows
        ],
        "geometric_means": geometric_means(rows),
    }


if __name__ == "__main__":
    raise SystemExit(main())
