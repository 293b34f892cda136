"""Results of the C++ library are the same bits with any number of threads, on a quiet or on a busy machine."""

import contextlib
import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.ops import Projection, dispatch, recurrence
from jaxrnn.ops.native import call as native
from tests.ops.test_native import CELLS, arguments, needs_library, split

# batch, time, in_features, hidden; where there are threads, the first two are divided by rows and the next three
# by units, and the weight gradients of the last one are computed beside its steps
SHAPES = {
    "rows": (32, 30, 3, 32),
    "rows_odd": (35, 12, 7, 100),
    "units": (5, 12, 9, 300),
    "large_kernel": (3, 12, 300, 450),
    "one_row": (1, 12, 2, 515),
    "gradients": (1, 2000, 20, 96),
}
THREADS = (1, 2, 0)


def wide_inputs(given: dict) -> dict:
    """The same with its input projection outside of the library."""
    xw = given["xw"]
    assert isinstance(xw, Projection) and xw.bias is not None
    return given | {"xw": xw.inputs @ xw.kernel + xw.bias}


@needs_library
@pytest.mark.parametrize("masks", [False, True], ids=["plain", "masks"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", CELLS)
def test_the_number_of_threads_does_not_matter(cell, shape, masks, monkeypatch):
    """With inputs and with products of inputs; one program calls the library with every number of threads."""
    given = arguments(cell, SHAPES[shape], jnp.float32, masks)
    forms = {"inputs": given, "products": wide_inputs(given)}
    smooth = {form: split(given)[0] for form, given in forms.items()}
    fixed = split(given)[1]
    # Within jit a call like an earlier one takes over its program, and that one's number of threads.
    monkeypatch.setattr(dispatch, "_run", getattr(dispatch._run, "__wrapped__"))  # noqa: B009

    def run(given):
        results, pullback = jax.vjp(
            lambda given: recurrence(CELLS[cell][0], **given, **fixed, implementation="native"), given
        )
        return results, pullback(jax.tree.map(lambda a: jnp.cos(a * 3), results))[0]

    @jax.jit
    def every_way(smooth):
        found = {}
        for threads in THREADS:
            monkeypatch.setattr(native, "MOST_THREADS", threads)
            found[threads] = {form: run(given) for form, given in smooth.items()}
        return found

    program = every_way.lower(smooth)
    # Of a cell with code of its own, and of a program, which passes all its numbers as one array.
    numbers = re.findall(r"threads = (\d+)|sizes = dense<\[[\d, ]*?(\d+)\]>", program.as_text())
    assert {int(own or last) for own, last in numbers} == set(THREADS)
    found = jax.device_get(program.compile()(smooth))
    for threads in THREADS[1:]:
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(found[threads]), jax.tree.leaves(found[1]), strict=True
        ):
            assert a.tobytes() == b.tobytes(), (threads, jax.tree_util.keystr(path))


@contextlib.contextmanager
def busy_machine():
    """Twice as many processes that compute as there are processors. What compiles does so before."""
    command = [sys.executable, "-I", "-S", "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@needs_library
def test_repeated_calls_on_a_busy_machine_give_the_same_bits():
    def gradient_of(cell, fixed):
        def loss(smooth):
            carry, outputs = recurrence(CELLS[cell][0], **smooth, **fixed, implementation="native")
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((carry, outputs)))

        return jax.jit(jax.value_and_grad(loss))

    calls = {}
    for cell in CELLS:
        for shape in ("rows", "units"):
            smooth, fixed = split(arguments(cell, SHAPES[shape], jnp.float32, masks=True))
            calls[cell, shape] = functools.partial(gradient_of(cell, fixed).lower(smooth).compile(), smooth)
    with busy_machine():
        for name, call in calls.items():
            patterns = {tuple(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(call())) for _ in range(20)}
            assert len(patterns) == 1, name


TRAINING = """
import hashlib
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
import jaxrnn
from jaxrnn import data, training

series = jnp.asarray(data.course_series().values, jnp.float32)
apply, params = training.pure_apply(
    lambda: jaxrnn.RNNForecaster(hidden_features=(48, 64), cell="gru", output_scale=200.0, rngs=nnx.Rngs(0))
)
optimizer = training.make_optimizer("sgd", 1e-6, clip_norm=100.0)
epoch = training.make_windowed_epoch(
    apply, optimizer, training.huber, series, series[1:], jnp.asarray(data.window_starts(999, 30)),
    window=30, batch_size=32, every_step=False)


def train(epochs):
    copy = jax.tree.map(jnp.copy, params)
    run = training.Run.create(training.TrainState.create(copy, optimizer), patience=9)
    return training.fit(run, epoch, lambda state: {"valid_loss": jnp.zeros(())}, epochs=epochs)

train(1)  # what is compiled is kept
print("ready", flush=True)
input()
leaves = jax.tree.leaves(train(4).state.params)
print(hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest())
"""


@needs_library
def test_two_processes_train_the_same_model_on_a_busy_machine():
    command = [sys.executable, "-c", TRAINING]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    processes = [
        subprocess.Popen(command, **pipes, env=environment, cwd=Path(__file__).parents[2]) for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    with busy_machine():
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        hashes = [process.communicate()[0] for process in processes]
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 65
