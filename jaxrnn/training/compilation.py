"""Compiles several programs at the same time."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax


def compile_together(calls: Iterable[tuple[Callable[..., Any], tuple[Any, ...]]]) -> None:
    """Compile functions of ``jax.jit`` for these arguments, of which only shapes and dtypes matter.

    Later calls of the functions find the programs. The functions are traced one after the other in this thread, so
    that they see its settings. Meanwhile XLA compiles those before, in as many threads as there are processors.
    Processes that train together compile in one thread, so that all do it in the same order.

    >>> import numpy as np
    >>> double = jax.jit(lambda x: 2 * x)
    >>> compile_together((double, (np.zeros(length),)) for length in (3, 4))
    """
    with ThreadPoolExecutor(os.cpu_count() if jax.process_count() == 1 else 1) as pool:
        waiting = []
        for function, arguments in calls:
            lowered = function.lower(*arguments)  # pyright: ignore[reportFunctionMemberAccess]
            waiting.append(pool.submit(lowered.compile))
        for program in waiting:
            program.result()
