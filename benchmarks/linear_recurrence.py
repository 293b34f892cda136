"""Time the linear recurrence h_t = a_t * h_{t-1} + b_t, forward and backward, against JAX's own loops.

    python -m benchmarks.linear_recurrence            # a quarter of an hour, most of it compilations of the others
    python -m benchmarks.linear_recurrence --quick    # three shapes, to see that everything works

Every contestant computes the states and the gradients of a and b for given cotangents, in float32 and in
complex64: ours (``jaxrnn.ops.linear_recurrence``, with the implementation that it picks), ``lax.scan`` and
``lax.associative_scan`` under ``jax.vjp``. Their results are compared first.

"elementwise" is a floor: one elementwise program of XLA that reads five arrays of that size and writes three, as
little as states and gradients need. It computes something else.

The first call is the one that compiles. Contestants are interleaved (benchmarks/common/timing.py). A ratio is a
contestant's time divided by ours, pair by pair: above 1, ours is faster.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array, lax

from benchmarks.common import comparison
from benchmarks.common.command import Options, command, known
from benchmarks.common.report import Report, Table, medians, progress
from benchmarks.common.rows import OURS, Row, groups, ratio_table, time_table
from benchmarks.common.timing import geometric_mean, interleave
from jaxrnn.ops import LINEAR_IMPLEMENTATIONS, explain_linear_recurrence, linear_recurrence

SHAPES = (
    (32, 64, 256),
    (64, 128, 64),
    (16, 256, 256),
    (8, 1024, 256),
    (4, 4096, 128),
    (1, 8192, 256),
    (2, 16384, 64),
    (1, 65536, 128),
)
"""Batch, time, channels."""

QUICK = (SHAPES[0], SHAPES[4], SHAPES[5])
FLOOR = "elementwise"
TOLERANCES = {"all": comparison.Tolerance(2e-4)}


Loop = Callable[[Array, Array], Array]


def by_scan(a: Array, b: Array) -> Array:
    def body(h: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        h = step[0] * h + step[1]
        return h, h

    return lax.scan(body, jnp.zeros_like(b[0]), (a, b))[1]


def by_associative_scan(a: Array, b: Array) -> Array:
    def after(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        return first[0] * second[0], second[0] * first[1] + second[1]

    return lax.associative_scan(after, (a, b))[1]


LOOPS = {"lax.scan": by_scan, "lax.associative_scan": by_associative_scan}


@dataclass(frozen=True)
class LinearOptions(Options):
    """What to measure. ``--quick`` takes three shapes."""

    processor_time: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure seconds of all processors together instead of those of the clock: for a busy machine."""

    loops: tuple[str, ...] = tuple(LOOPS)
    """JAX's loops to measure. The compilations of lax.associative_scan take most of the time."""


def run(options: LinearOptions) -> None:
    known("loop", options.loops, LOOPS)
    loops = {name: LOOPS[name] for name in options.loops}
    repetitions = options.given(options.repetitions, quick=3, full=20)
    shapes = options.given(None, quick=QUICK, full=SHAPES)
    machine = options.start()
    clock = time.process_time if options.processor_time else time.perf_counter
    rows = []
    with progress(2 * len(shapes)) as update:
        for dtype in ("float32", "complex64"):
            for shape in shapes:
                update(f"{dtype}, {shape}")
                rows.append(measured(dtype, shape, loops, repetitions, clock))
                update()
    results = {"repetitions": repetitions, "processor_time": options.processor_time}
    made = report(rows, repetitions, options.processor_time)
    name = options.name("linear-recurrence")
    made.write(name, results | {"rows": [row.as_json() for row in rows]}, machine, options.out)


def measured(
    dtype: str, shape: tuple[int, int, int], loops: dict[str, Loop], repetitions: int, clock: Callable[[], float]
) -> Row:
    batch, steps, channels = shape
    calls, first_calls, found = {}, {}, {}
    arrays = problem(dtype, (steps, batch, channels))
    for name, states in {OURS: linear_recurrence, **on_accelerators(*arrays[:2]), **loops}.items():
        program = states_and_gradients(states)
        calls[name] = lambda program=program: program(*arrays)
        began = time.perf_counter()
        found[name] = {"all": np.concatenate([np.ravel(part) for part in jax.block_until_ready(calls[name]())])}
        first_calls[name] = time.perf_counter() - began
    comparison.check(found, OURS, TOLERANCES, f"{dtype}, {shape}")
    floor = jax.jit(lambda a, b, c, d, e: (a + b, c * d, d - e))
    further = [jnp.copy(arrays[0]), jnp.copy(arrays[1])]
    calls[FLOOR] = lambda: floor(*arrays, *further)
    jax.block_until_ready(calls[FLOOR]())
    timings = interleave(calls, repetitions, first_calls=first_calls | {FLOOR: 0.0}, clock=clock)
    return Row({"dtype": dtype, "batch": batch, "time": steps, "channels": channels}, timings)


def on_accelerators(a: Array, b: Array) -> dict[str, Loop]:
    """Each of our implementations that can run, on a device for which none is known to be the fastest."""
    if jax.default_backend() == "cpu":
        return {}
    reasons = explain_linear_recurrence(a, b).reasons
    names = [name for name in LINEAR_IMPLEMENTATIONS if name not in reasons or "not measured" in reasons[name]]
    names += [name for name in ("chunked", "associative") if name not in names]  # the scan is JAX's own
    return {f"{OURS}, {name}": functools.partial(linear_recurrence, implementation=name) for name in names}


def problem(dtype: str, shape: tuple[int, ...]) -> list[Array]:
    """Decays below 1, what is added, and a cotangent."""
    rng = np.random.default_rng(0)
    a, b, dstates = (rng.normal(size=shape) for _ in range(3))
    if dtype == "complex64":
        a, b, dstates = (part + 1j * rng.normal(size=shape) for part in (a, b, dstates))
    return [jnp.asarray(part, dtype) for part in (a / (0.1 + np.abs(a)), b, dstates)]


def states_and_gradients(states: Callable[[Array, Array], Array]) -> Callable[..., Any]:
    def program(a: Array, b: Array, dstates: Array) -> tuple[Array, ...]:
        found, pullback = jax.vjp(states, a, b)
        return found, *pullback(dstates)

    return jax.jit(program)


def title(row: Row) -> str:
    return f"{row.case['batch']} x {row.case['time']} x {row.case['channels']}"


def best_ratio(row: Row) -> float:
    """The time of the fastest of JAX's loops divided by ours."""
    return min(spread.median for name, spread in row.ratios().items() if name in LOOPS)


def report(rows: list[Row], repetitions: int, processor_time: bool) -> Report:
    what = "Milliseconds of processor time" if processor_time else "Milliseconds"
    made = Report("Linear recurrences", medians(what, repetitions), __doc__)
    for (dtype,), group in groups(rows, "dtype").items():
        heading: Any = {"heading": "batch x time x channels", "title": title}
        made.add(f"## {dtype}")
        made.table(time_table(group, **heading), f"{dtype}: {what.lower()}")
        made.table(ratio_table(group, **heading), "times divided by ours")
        firsts = [(title(row), {n: f"{t.first_call:.2f}" for n, t in row.timings.items()}) for row in group]
        made.table(Table.of("seconds of the first call", firsts), "seconds of the first call")
    best = [best_ratio(row) for row in rows]
    made.add(
        f"The fastest of JAX's loops takes {geometric_mean(best):.2f} times as long as ours (geometric mean over "
        f"all rows; the lowest is {min(best):.2f})."
    )
    return made


main = command(LinearOptions, run, "linear_recurrence", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
