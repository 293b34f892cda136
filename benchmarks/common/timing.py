"""Fair timing of contestants that share one process and one machine.

In every repetition all contestants run, in a new random order. Each is called once without being timed, which
brings its code and data into the caches, and then twice with timing. Then nothing runs for 10 ms: PyTorch's
threads keep spinning for a while after a call, which slows the next contestant (by a quarter, on two cores).
A call ends when its results are ready, not when JAX has been told to compute them.

Medians and quartiles are reported. Two contestants are compared repetition by repetition, so that a
machine that slows down for a while slows both sides of a ratio.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

PAUSE = 0.010
"""Seconds between one contestant's calls and the next one's."""

TIMED_CALLS = 2

Call = Callable[[], Any]
"""A contestant: a function without arguments. The timing waits for what it returns."""

Clock = Callable[[], float]
"""Seconds since some time."""


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Any) -> "Spread":
        low, median, high = np.quantile(np.asarray(values, np.float64), [0.25, 0.5, 0.75])
        return cls(float(median), float(low), float(high))


@dataclass(frozen=True)
class Timing:
    """Seconds of the first call, in which JAX compiles, and of the timed calls, a tuple for each repetition."""

    first_call: float
    calls: tuple[tuple[float, ...], ...]

    @property
    def spread(self) -> Spread:
        """Of all timed calls."""
        return Spread.of([seconds for calls in self.calls for seconds in calls])

    @property
    def median(self) -> float:
        return self.spread.median

    def divided_by(self, number: int) -> "Timing":
        """Seconds of one step, where every call makes that many steps."""
        calls = tuple(tuple(seconds / number for seconds in calls) for calls in self.calls)
        return replace(self, first_call=self.first_call / number, calls=calls)

    def as_json(self) -> dict[str, Any]:
        """In seconds; single calls to a tenth of a nanosecond."""
        calls = [[round(seconds, 10) for seconds in calls] for calls in self.calls]
        return {"first_call_s": self.first_call, **self.spread._asdict(), "calls_s": calls}


def ratio(timing: Timing, baseline: Timing) -> Spread:
    """How many times as long as the baseline, pair by pair within the repetitions.

    >>> slow, fast = Timing(9.0, ((4.0, 4.0), (6.0, 6.0))), Timing(9.0, ((2.0, 2.0), (3.0, 3.0)))
    >>> ratio(slow, fast)
    Spread(median=2.0, low=2.0, high=2.0)
    """
    return Spread.of([sum(a) / sum(b) for a, b in zip(timing.calls, baseline.calls, strict=True)])


def geometric_mean(values: list[float]) -> float:
    """The mean for ratios: 2 and 1/2 cancel out."""
    return float(np.exp(np.mean(np.log(values))))


def turns(names: Iterable[str], repetitions: int, seed: int = 0) -> Iterator[list[str]]:
    """The names in a new random order for every repetition."""
    order, shuffled = list(names), random.Random(seed)
    for _ in range(repetitions):
        shuffled.shuffle(order)
        yield order


def timed(call: Call, clock: Clock = time.perf_counter) -> tuple[float, Any]:
    """Seconds until a call's results are ready, and the results."""
    began = clock()
    results = jax.block_until_ready(call())
    return clock() - began, results


FirstCalls = Mapping[str, tuple[float, Any]]
"""Seconds of everyone's first call, in which JAX compiles, and its results."""


def first_calls(contestants: Mapping[str, Call], clock: Clock = time.perf_counter) -> dict[str, tuple[float, Any]]:
    """Call each one for the first time, so that the results can be compared before anything else is timed."""
    return {name: timed(call, clock) for name, call in contestants.items()}


def interleave(
    contestants: Mapping[str, Call],
    repetitions: int,
    *,
    first: FirstCalls | None = None,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> dict[str, Timing]:
    """Time contestants beside each other: in each repetition each of them is called once untimed, and twice timed.
    ``first`` has each one's first call, where the caller has made it already; ``seed`` is of the random orders."""
    if repetitions < 1:
        raise ValueError(f"{repetitions=} must be at least 1")
    first = first or first_calls(contestants, clock)
    calls: dict[str, list[tuple[float, ...]]] = {name: [] for name in contestants}
    for order in turns(contestants, repetitions, seed):
        for name in order:
            timed(contestants[name])
            calls[name].append(tuple(timed(contestants[name], clock)[0] for _ in range(TIMED_CALLS)))
            time.sleep(PAUSE)
    return {name: Timing(first[name][0], tuple(calls[name])) for name in contestants}
