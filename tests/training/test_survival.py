"""Being stopped within an epoch, steps that are not finite, saves that fail: on small runs in this process."""

import functools
import math
import os
import signal
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.survival.damage import contents, damage, not_a_number
from jaxrnn import data
from jaxrnn.models import RNNForecaster
from jaxrnn.training import (
    Batch,
    CheckpointStore,
    Run,
    StepMetrics,
    SteppedEpoch,
    TrainState,
    describe_divergence,
    fit,
    huber,
    make_optimizer,
    make_sequential_epoch,
    make_train_step,
    make_windowed_epoch,
    pure_apply,
)
from jaxrnn.training.checkpoint import BackgroundSaver
from jaxrnn.training.distributed import StopSignals


@pytest.fixture(autouse=True)
def signals_that_are_not_ignored():
    """Under nohup or in the background, a process starts with SIGHUP or SIGINT ignored, and so would the tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT)}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGHUP else signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


WINDOW = 5
OPTIMIZER = make_optimizer("adam", 0.01, clip_norm=1.0)
STOPS = [(signal.SIGTERM, "terminated"), (signal.SIGHUP, "terminated"), (signal.SIGINT, "interrupted")]
SERIES = np.sin(np.arange(62) / 3)[:, None].astype(np.float32)


def model(every_step: bool = True) -> RNNForecaster:
    return RNNForecaster(hidden_features=3, return_sequences=every_step, rngs=nnx.Rngs(0))


@functools.cache
def applied(every_step: bool = True):
    return pure_apply(lambda: model(every_step))


def stateful(series: np.ndarray = SERIES) -> tuple[TrainState, SteppedEpoch]:
    """12 steps an epoch."""
    apply, params = applied()
    carry, starts = model().initialize_carry(1), jnp.asarray(data.sequential_starts(60, WINDOW))
    values = jnp.asarray(series)
    epoch = make_sequential_epoch(
        apply,
        OPTIMIZER,
        huber,
        values,
        jnp.roll(values, -1, axis=0),
        starts,
        window=WINDOW,
        initial_carry=carry,
    )
    return TrainState.create(params, OPTIMIZER, carry=carry, average=True), epoch


def windowed() -> tuple[TrainState, SteppedEpoch]:
    """8 steps an epoch."""
    apply, params = applied(every_step=False)
    starts = jnp.asarray(data.window_starts(60, WINDOW))
    values = jnp.asarray(SERIES)
    epoch = make_windowed_epoch(
        apply,
        OPTIMIZER,
        huber,
        values,
        jnp.roll(values, -1, axis=0),
        starts,
        window=WINDOW,
        batch_size=7,
        every_step=False,
    )
    return TrainState.create(params, OPTIMIZER, average=True), epoch


def evaluate(state: TrainState) -> dict[str, Any]:
    return {"valid_loss": state.totals.loss}


def without_seconds(run: Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in run.history]


@pytest.mark.parametrize("made", [stateful, windowed])
def test_an_epoch_in_parts_is_the_whole_epoch_bit_for_bit(made):
    state, epoch = made()
    whole, metrics = epoch(state)
    whole, _ = epoch(whole)
    parts, _ = made()
    for steps in (1, 3, 2, 100, 5, 100):
        parts, last = epoch.advance(parts, steps)
        if int(parts.epoch) == 1 and int(parts.position) == 0:
            assert float(last.loss) == float(metrics.loss)
    assert (int(parts.epoch), int(parts.position)) == (2, 0)
    assert contents(parts) == contents(whole)
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        epoch.advance(parts, 0)


@pytest.mark.parametrize("made", [stateful, windowed])
@pytest.mark.parametrize(("number", "stopped"), STOPS)
def test_a_signal_within_an_epoch_saves_and_resuming_is_exact(made, number, stopped, tmp_path: Path):
    state, epoch = made()
    whole = fit(Run.create(state), epoch, evaluate, epochs=3)

    state, epoch = made()
    advance, calls = epoch.advance, []

    def hit(state, steps):
        calls.append(steps)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return advance(state, steps)

    epoch.advance = hit
    before = signal.getsignal(number)
    with CheckpointStore(tmp_path) as store:
        run = fit(Run.create(state), epoch, evaluate, epochs=3, checkpoints=store)
        assert (run.stopped, run.epochs_run, int(run.state.position)) == (stopped, 0, 2)
        assert store.steps() == [2]
        state, epoch = made()
        fresh = Run.create(state)
        restored = store.restore(fresh.arrays)
    assert signal.getsignal(number) is before
    run = fit(fresh.restored(restored.arrays, restored.record), epoch, evaluate, epochs=3)
    assert run.stopped == "epochs"
    assert contents(run.arrays) == contents(whole.arrays)
    assert without_seconds(run) == without_seconds(whole)
    assert (run.stopping.best, run.stopping.best_epoch) == (whole.stopping.best, whole.stopping.best_epoch)


def test_a_hangup_that_is_ignored_stays_ignored():
    """As ``nohup`` leaves it, whose programs are to outlive the terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_termination_outweighs_ctrl_c_in_either_order():
    for numbers in ((signal.SIGINT, signal.SIGHUP), (signal.SIGTERM, signal.SIGINT, signal.SIGINT)):
        with StopSignals() as stop:
            for number in numbers:
                os.kill(os.getpid(), number)
        assert stop.received is signal.SIGTERM


def test_saves_come_at_the_stated_steps_and_do_not_change_the_run():
    saved: list[int] = []

    class Numbers:
        def save(self, step, arrays, record=None):
            assert threading.current_thread() is not threading.main_thread()
            assert int(arrays["state"].step) == step
            saved.append(step)

    state, epoch = stateful()
    options: dict[str, Any] = dict(save_every=None, save_every_steps=5)  # a busy machine's clock must not save too
    run = fit(Run.create(state), epoch, evaluate, epochs=2, checkpoints=Numbers(), **options)
    assert saved == [5, 10, 15, 20, 24]
    again, epoch = stateful()
    assert contents(run.arrays) == contents(fit(Run.create(again), epoch, evaluate, epochs=2).arrays)


def test_a_save_that_fails_is_a_warning_and_training_goes_on():
    failures = iter([OSError("no space"), None, OSError("no space again")])

    class Failing:
        def save(self, step, arrays, record=None):
            if (error := next(failures)) is not None:
                raise error

    state, epoch = stateful()
    with pytest.warns(UserWarning, match="no space"):
        run = fit(Run.create(state), epoch, evaluate, epochs=2, checkpoints=Failing(), save_every_steps=12)
    assert (run.stopped, run.epochs_run, run.save_error) == ("epochs", 2, "no space again")


def test_a_mistake_in_saving_is_raised():
    class Wrong:
        def save(self, step, arrays, record=None):
            raise TypeError("not plain JSON")

    saver = BackgroundSaver(Wrong())
    saver.save(1, {"a": jnp.ones(2)}, {})
    with pytest.raises(TypeError, match="not plain JSON"):
        saver.wait()


def test_what_is_saved_is_what_was_there_when_save_was_called():
    """The record is changed and the arrays are donated while the thread still waits."""
    go, got = threading.Event(), []

    class Slow:
        def save(self, step, arrays, record=None):
            go.wait(10)
            got.append((float(arrays["a"]), record))

    record, array = {"history": [{"loss": 1.0}]}, jnp.array(3.0)
    with BackgroundSaver(Slow()) as saver:
        saver.save(1, {"a": array}, record)
        record["history"].append({"loss": 2.0})
        array.delete()
        go.set()
    assert got == [(3.0, {"history": [{"loss": 1.0}]})]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counts(bad):
    state, _ = stateful()
    state = state.replace(carry=jax.tree.map(lambda leaf: leaf + 0.5, state.carry))
    apply, _ = pure_apply(model)
    step = make_train_step(apply, OPTIMIZER)
    before = contents((state.params, state.opt_state, state.carry, state.average))
    clean = Batch(jnp.ones((1, WINDOW, 1)), jnp.ones((1, WINDOW, 1)), jnp.ones(1))
    state, metrics = step(state, clean._replace(targets=clean.targets.at[0, 2].set(bad)))
    assert not math.isfinite(float(metrics.loss))
    assert contents((state.params, state.opt_state, state.carry, state.average)) == before
    assert (int(state.step), int(state.skipped_in_a_row)) == (1, 1)
    state, _ = step(state, clean._replace(inputs=clean.inputs * bad))
    assert int(state.skipped_in_a_row) == 2
    state, metrics = step(state, clean)
    assert int(state.skipped_in_a_row) == 0
    again, _ = stateful()
    again = again.replace(carry=jax.tree.map(lambda leaf: leaf + 0.5, again.carry))
    again, expected = step(again, clean)  # as if the two steps before had not been
    assert float(metrics.loss) == float(expected.loss)
    assert contents((state.params, state.opt_state, state.carry)) == contents(
        (again.params, again.opt_state, again.carry)
    )
    assert contents((state.params, state.opt_state, state.carry, state.average)) != before


def test_a_nan_in_one_batch_is_as_if_the_batch_were_not_there():
    counts = not_a_number(epochs=2)
    assert counts["steps skipped"] == 2
    assert counts["parameters and carry finite"] == counts["equal to a run without that batch, bit for bit"] == 1


def test_steps_that_are_skipped_are_told_and_counted():
    series = SERIES.copy()
    series[12] = np.nan
    state, epoch = stateful(series)
    with pytest.warns(UserWarning, match=r"1 steps of epoch 1 were skipped, at a learning rate of 0\.01"):
        run = fit(Run.create(state), epoch, evaluate, epochs=2)
    assert [row["skipped"] for row in run.history] == [1, 1]
    totals = run.state.totals
    assert (int(totals.taken), int(totals.skipped)) == (11, 1)
    assert run.history[-1]["loss"] == pytest.approx(float(totals.loss) / 11)
    assert 0 < run.history[1]["loss"] < run.history[0]["loss"]


def test_after_so_many_skipped_steps_in_a_row_the_run_stops_at_its_best():
    series = SERIES.copy()
    series[20:] = np.nan
    state, epoch = stateful(series)
    run = fit(Run.create(state), epoch, evaluate, epochs=5, max_skipped=3)
    assert run.stopped == "diverged"
    assert 3 <= int(run.state.skipped_in_a_row) <= 9
    assert run.epochs_run == 0 or int(run.state.skipped_in_a_row) == 9
    assert "steps were not finite in epoch 1, at a learning rate of 0.01" in describe_divergence(run)
    fresh, epoch = stateful()
    untrained = contents(fresh.best_guess)
    taken, _ = epoch.advance(fresh, 3)  # the windows at 0, 5 and 10 and their targets end before the first NaN
    assert contents((run.state.params, run.state.average)) == contents((taken.params, taken.average))
    assert contents(run.best_params) == (contents(taken.average) if run.epochs_run else untrained)


def test_a_state_of_a_longer_epoch_is_refused():
    state, epoch = stateful()
    state, _ = epoch.advance(state, 10)
    _, shorter = windowed()
    with pytest.raises(
        ValueError, match="the state is at batch 10, but this epoch has only 8 batches: the state was saved with"
    ):
        fit(Run.create(state), shorter, evaluate, epochs=1)


def test_an_epoch_that_is_a_plain_function_is_saved_after_so_many_steps():
    optimizer = make_optimizer("sgd", 0.1)
    saved = []

    class Noting:
        def save(self, step, arrays, record=None):
            saved.append(int(arrays["state"].step))

    def epoch(state):
        return state.replace(step=state.step + 3), StepMetrics(jnp.zeros(()), jnp.zeros(()))

    for every, wanted in ((1, [3, 6, 9, 12]), (4, [6, 9, 12]), (6, [6, 12]), (100, [])):
        saved.clear()
        run = Run.create(TrainState.create(jnp.ones(2), optimizer))
        fit(run, epoch, epochs=4, checkpoints=Noting(), save_every=None, save_every_steps=every)
        assert saved in (wanted, [*wanted, 12])  # the last state is always saved


@pytest.mark.parametrize("name", ["epochs", "save_every_steps", "max_skipped"])
def test_numbers_must_be_positive(name):
    state, epoch = stateful()
    with pytest.raises(ValueError, match=f"{name} must be a positive integer, not 0"):
        options: Any = {"epochs": 1} | {name: 0}
        fit(Run.create(state), epoch, evaluate, **options)


def test_a_mesh_needs_an_epoch_that_can_be_spread():
    state, epoch = stateful()
    mesh = jax.make_mesh((1,), ("batch",), devices=jax.devices("cpu")[:1])
    with pytest.raises(ValueError, match="mesh= needs a SteppedEpoch: make train_epoch with make_windowed_epoch"):
        fit(Run.create(state), lambda s: epoch(s), evaluate, epochs=1, mesh=mesh)


def test_flipped_bits_and_damaged_files_never_give_wrong_numbers(tmp_path: Path):
    counts = damage(tmp_path, flips=20, seed=1)
    assert not [name for name in counts if name.startswith("WRONG")]
    assert counts["bit flips: the checkpoint before was loaded"] >= 15
    assert counts["files deleted: the checkpoint before was loaded"] >= 2
