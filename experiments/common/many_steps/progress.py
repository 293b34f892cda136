"""Progress of the trainings of a run with --horizon, and the time that is left."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import BarColumn, Progress, TextColumn

from experiments.common.report import LINE_EVERY, console

Report = Callable[[float, int, int], None]

_AFTER = 0.02
"""The share of the work after which the time left is estimated."""


@contextmanager
def training_progress(what: str) -> Iterator[Report]:
    """Yield a function of the share that is done, the number of the network, and how many there are.

    On a terminal it redraws one line, else it prints a line every few seconds. The time left is estimated from the
    time since the first call after compilation.

    Args:
      what: what the networks are trained for, as the lines begin.
    """
    first: list[tuple[float, float]] = []

    def describe(share: float, number: int, count: int) -> str:
        now = time.perf_counter()
        if len(first) < 2:  # the first part includes the compilation
            first.append((now, share))
        began, before = first[-1]
        text = f"{what}: network {number} of {count}, {100 * share:.0f} %"
        if share - before < _AFTER:
            return text
        left = (now - began) / (share - before) * (1 - share)
        return f"{text}, about {timedelta(seconds=round(left))} left"

    if console.is_terminal:
        columns = (BarColumn(bar_width=10), TextColumn("{task.description}"))
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(f"{what}: compiling", total=1.0)
            yield lambda share, number, count: bar.update(
                task, completed=share, description=describe(share, number, count)
            )
        return

    print(f"{what}: compiling", flush=True)
    printed = time.perf_counter()

    def line(share: float, number: int, count: int) -> None:
        nonlocal printed
        text, now = describe(share, number, count), time.perf_counter()
        if now - printed >= LINE_EVERY:
            printed = now
            print(text, flush=True)

    yield line
