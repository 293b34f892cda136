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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from benchmarks.common import comparison
from benchmarks.common.command import Benchmark, ClockOptions, command, known
from benchmarks.common.report import progress
from benchmarks.common.rows import OURS, first_call_table, groups
from benchmarks.common.timing import first_calls, geometric_mean
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
class LinearOptions(ClockOptions):
    """What to measure. ``--quick`` takes three shapes."""

    loops: tuple[str, ...] = tuple(LOOPS)
    """JAX's loops to measure. The compilations of lax.associative_scan take most of the time."""


def run(options: LinearOptions) -> None:
    known("loop", options.loops, LOOPS)
    heading = "batch x time x channels"
    made = Benchmark(options, "linear-recurrence", "Linear recurrences", __doc__, heading=heading)
    shapes = QUICK if options.quick else SHAPES
    for dtype, shape in progress((dtype, shape) for dtype in ("float32", "complex64") for shape in shapes):
        batch, time, channels = shape
        arrays = problem(dtype, (time, batch, channels))
        calls = contestants(arrays, {name: LOOPS[name] for name in options.loops})
        first = first_calls(calls)
        found = {name: {"all": np.concatenate([*map(np.ravel, parts)])} for name, (_, parts) in first.items()}
        comparison.check(found, OURS, TOLERANCES, f"{dtype}, {shape}")
        calls[FLOOR] = floor(arrays)
        case = {"dtype": dtype, "batch": batch, "time": time, "channels": channels}
        made.measure(case, calls, " x ".join(map(str, shape)), first=first | {FLOOR: (0.0, None)})
    for (dtype,), group in groups(made.rows, "dtype").items():
        made.tables(dtype, group)
        firsts = "seconds of the first call"
        made.table(first_call_table(group, firsts), firsts)
    best = [min(spread.median for name, spread in row.ratios().items() if name in LOOPS) for row in made.rows]
    made.add(
        f"The fastest of JAX's loops takes {geometric_mean(best):.2f} times as long as ours (geometric mean over "
        f"all rows; the lowest is {min(best):.2f})."
    )
    made.write()


def contestants(arrays: list[Array], loops: dict[str, Loop]) -> dict[str, Callable[[], Any]]:
    found = {OURS: linear_recurrence, **on_accelerators(*arrays[:2]), **loops}
    return {name: functools.partial(states_and_gradients(states), *arrays) for name, states in found.items()}


def floor(arrays: list[Array]) -> Callable[[], Any]:
    """The elementwise program, already compiled."""
    program = jax.jit(lambda a, b, c, d, e: (a + b, c * d, d - e))
    call = functools.partial(program, *arrays, jnp.copy(arrays[0]), jnp.copy(arrays[1]))
    jax.block_until_ready(call())
    return call


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


main = command(LinearOptions, run, "linear_recurrence", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
