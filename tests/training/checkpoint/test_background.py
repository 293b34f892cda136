"""A save that does not end: training is told, goes on, and can still be stopped."""

import signal
import subprocess
import sys
import threading
import time
import warnings
from typing import Any

import jax.numpy as jnp
import pytest

from jaxrnn.training.checkpoint import BackgroundSaver, background
from tests.training.checkpoint.cases import environment

ARRAYS = {"a": jnp.ones(2)}


class Hangs:
    """Ends no save before it is told to."""

    def __init__(self) -> None:
        self.go_on, self.saved = threading.Event(), []

    def save(self, step: int, arrays: Any, record: Any = None) -> None:
        assert self.go_on.wait(60)
        self.saved.append(step)


def test_a_save_that_hangs_is_left_alone_until_it_ends():
    hangs = Hangs()
    with BackgroundSaver(hangs, max_wait=0.2) as saver:
        saver.save(1, ARRAYS, {})
        with pytest.warns(UserWarning, match="step 1 is still being saved after 0 s: training continues"):
            saver.save(2, ARRAYS, {})
        assert "step 1 is still being saved" in (saver.error or "")
        with warnings.catch_warnings(action="error"):  # once is enough
            began = time.monotonic()
            saver.save(3, ARRAYS, {})
            assert time.monotonic() - began < 0.15  # and so is one wait
        hangs.go_on.set()
        while threading.active_count() > 1 and any(t.name == "checkpoint" for t in threading.enumerate()):
            time.sleep(0.01)
        saver.save(4, ARRAYS, {})
    assert hangs.saved == [1, 4]
    assert saver.error is None


def test_once_a_program_is_asked_to_stop_it_waits_less(monkeypatch):
    monkeypatch.setattr(background, "SECONDS_WHEN_STOPPING", 0.2)
    monkeypatch.setattr(background, "_POLL_SECONDS", 0.05)
    hangs, asked = Hangs(), threading.Event()
    saver = BackgroundSaver(hangs, stopping=asked.is_set)
    saver.save(1, ARRAYS, {})
    threading.Timer(0.3, asked.set).start()  # while it waits
    with pytest.warns(UserWarning, match="step 1 is still being saved"):
        saver.wait()
    assert asked.is_set()
    hangs.go_on.set()


PROGRAM = """if True:
    import threading, sys
    import jax.numpy as jnp
    from jaxrnn import training
    from jaxrnn.training.checkpoint import background
    background.SECONDS_WHEN_STOPPING = 0.5

    class Hangs:
        def save(self, step, arrays, record=None):
            threading.Event().wait()

    optimizer = training.make_optimizer("sgd", 0.1)
    run = training.Run.create(training.TrainState.create({"w": jnp.zeros(())}, optimizer))

    def epoch(state):
        print("trains", flush=True)
        return state, training.StepMetrics(jnp.ones(()), jnp.ones(()))

    run = training.fit(run, epoch, lambda state: {"valid_loss": 1.0}, epochs=3, checkpoints=Hangs(), save_every=0)
    print(run.stopped, "still being saved" in run.save_error, flush=True)
    sys.exit(training.EXIT_CODES[run.stopped])
"""


def test_a_save_that_hangs_does_not_outlive_sigterm():
    """The second epoch's save waits for the first one's, for ten minutes if nobody asked it to stop."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    with program:
        assert [program.stdout.readline() for _ in range(2)] == ["trains\n"] * 2
        program.send_signal(signal.SIGTERM)
        try:
            out, errors = program.communicate(timeout=60)
        finally:
            program.kill()
    # Where the signal comes while the second save already waits, one more epoch has begun when it is seen.
    assert out.removeprefix("trains\n") == "terminated True\n", out + errors
    assert program.returncode == 128 + signal.SIGTERM
