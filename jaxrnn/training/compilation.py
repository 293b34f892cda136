"""Compiles several programs at the same time."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax


def compile_together(calls: Iterable[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    """Compile functions of ``jax.jit`` for these arguments, of which only shapes and dtypes matter.

    Args:
      calls: what lowers a function, usually ``function.lower``, and the arguments.

    Returns:
      The programs. Later calls of the functions find them, if ``function.lower`` was given.

    The functions are traced one after the other in this thread, so that they see its settings. Meanwhile XLA
    compiles those before, in as many threads as there are processors. Processes that train together compile in one
    thread, so that all do it in the same order.

    >>> import numpy as np
    >>> double = jax.jit(lambda x: 2 * x)
    >>> three, four = compile_together((double.lower, (np.zeros(length),)) for length in (3, 4))
    >>> four(np.ones(4)).tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    with ThreadPoolExecutor(os.cpu_count() if jax.process_count() == 1 else 1) as pool:
        waiting = []
        for lower, arguments in calls:
            waiting.append(pool.submit(lower(*arguments).compile))
        return [program.result() for program in waiting]
