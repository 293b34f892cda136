"""Early stopping, the best model, divergence, Ctrl-C and checkpoints of ``fit``, on losses made to measure."""

import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrnn.training import (
    CheckpointStore,
    EarlyStopping,
    Run,
    StepMetrics,
    TrainState,
    describe_divergence,
    exponential_rates,
    fit,
    huber,
    lr_range_test,
    make_optimizer,
    make_windowed_epoch,
)

OPTIMIZER = make_optimizer("sgd", 0.25)


def new_run(patience: int | None = None) -> Run:
    return Run.create(TrainState.create({"w": jnp.zeros(())}, OPTIMIZER), patience=patience)


def metrics(loss: float) -> StepMetrics:
    return StepMetrics(jnp.asarray(loss), jnp.ones(()))


def scripted(losses):
    """An epoch that counts itself in ``params``, and an evaluation that returns the losses in turn."""
    ran: list[int] = []
    count = jax.jit(lambda state: jax.tree.map(lambda w: w + 1, state.params), donate_argnums=0)

    def epoch(state: TrainState):
        ran.append(1)
        rest = vars(TrainState.create({"w": jnp.zeros(())}, OPTIMIZER))
        return TrainState(**{**rest, "params": count(state)}), metrics(1.0)

    epoch.ran = ran  # pyright: ignore

    def evaluate(state: TrainState):
        return {"valid_loss": losses[round(float(state.params["w"])) - 1]}

    return epoch, evaluate


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30), st.integers(1, 5))
def test_early_stopping_keeps_the_first_of_the_lowest_finite_values(values, patience):
    stopping = EarlyStopping(patience)
    for epoch, value in enumerate(values, start=1):
        finite = [v for v in values[: epoch - 1] if math.isfinite(v)]
        assert stopping.update(epoch, value) == (math.isfinite(value) and value < min(finite, default=math.inf))
    finite = [v for v in values if math.isfinite(v)]
    if finite:
        assert stopping.best == min(finite)
        assert stopping.best_epoch == values.index(min(finite)) + 1
    assert stopping.should_stop(len(values)) == (len(values) - stopping.best_epoch >= patience)


def test_patience_must_be_positive():
    with pytest.raises(ValueError, match="patience must be at least 1"):
        EarlyStopping(0)


def test_the_best_parameters_survive_the_epochs_after_them():
    run = fit(new_run(patience=3), *scripted([5.0, 3.0, 4.0, 4.0, 4.0, 1.0]), epochs=6)
    assert run.stopped == "patience"
    assert (run.epochs_run, run.stopping.best_epoch, run.stopping.best) == (5, 2, 3.0)
    assert float(run.best_params["w"]) == 2  # the parameters of epoch 2, though their buffers were donated
    assert float(run.state.params["w"]) == 5
    assert run.best_row["valid_loss"] == 3.0


def test_all_epochs_are_run_without_patience():
    run = fit(new_run(), *scripted([3.0, 4.0, 5.0]), epochs=3)
    assert (run.stopped, run.epochs_run) == ("epochs", 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_costs_nothing(bad):
    run = fit(new_run(), *scripted([3.0, 2.0, bad, 1.0]), epochs=4)
    assert (run.stopped, run.epochs_run, run.stopping.best_epoch) == ("diverged", 3, 2)
    assert float(run.best_params["w"]) == 2
    assert "epoch 3, at a learning rate of 0.25" in describe_divergence(run)


def test_ctrl_c_lets_the_epoch_finish_saves_and_returns(tmp_path):
    epoch, evaluate = scripted([3.0, 2.0, 1.0])

    def interrupted_epoch(state):
        if len(epoch.ran) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return epoch(state)

    handler = signal.getsignal(signal.SIGINT)
    store = CheckpointStore(tmp_path)
    run = fit(new_run(), interrupted_epoch, evaluate, epochs=3, checkpoints=store)
    assert (run.stopped, run.epochs_run, run.stopping.best_epoch) == ("interrupted", 2, 2)
    assert store.steps() == [2]
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_second_ctrl_c_stops_at_once():
    epoch, evaluate = scripted([3.0])

    def stubborn(state):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return epoch(state)

    with pytest.raises(KeyboardInterrupt):
        fit(new_run(), stubborn, evaluate, epochs=1)


def test_a_checkpoint_goes_on_where_it_was(tmp_path):
    losses = [5.0, 3.0, 4.0, 4.0, 4.0]
    with CheckpointStore(tmp_path) as store:
        fit(new_run(patience=3), *scripted(losses), epochs=3, checkpoints=store)
        restored = store.restore(new_run().arrays)
    run = new_run(patience=3).restored(restored.arrays, restored.record)
    assert (run.epochs_run, run.stopping.best_epoch, run.stopping.best) == (3, 2, 3.0)
    run = fit(run, *scripted(losses), epochs=10)
    assert (run.stopped, run.epochs_run) == ("patience", 5)
    assert float(run.best_params["w"]) == 2


def test_a_finished_run_is_not_trained_further():
    run = fit(new_run(patience=1), *scripted([1.0, 2.0]), epochs=5)
    epoch, evaluate = scripted([0.0] * 5)
    assert fit(run, epoch, evaluate, epochs=5).epochs_run == 2
    assert not epoch.ran


def test_epochs_must_be_positive():
    with pytest.raises(ValueError, match="epochs must be a positive integer, not 0"):
        fit(new_run(), *scripted([]), epochs=0)
    with pytest.raises(ValueError, match="epochs must be a positive integer, not '3'"):
        fit(new_run(), *scripted([]), epochs="3")  # pyright: ignore[reportArgumentType]


def test_what_is_no_run_is_refused_and_stays_as_it_is():
    params = {"w": jnp.zeros(())}
    with pytest.raises(ValueError, match=r"must be a jaxrnn.training.Run, not \{'w'.*make one with Run.create"):
        fit(params, *scripted([1.0]), epochs=1)  # pyright: ignore[reportArgumentType]
    assert list(params) == ["w"]


def test_without_an_evaluation_the_training_loss_decides_which_epoch_is_best():
    losses = iter([3.0, 1.0, 2.0])
    epoch, _ = scripted([])
    run = fit(new_run(), lambda state: (epoch(state)[0], metrics(next(losses))), epochs=3)
    assert (run.stopping.best_epoch, run.stopping.best) == (2, 1.0)
    assert float(run.best_params["w"]) == 2


def test_progress_shows_the_epochs_and_losses(capsys):
    fit(new_run(), *scripted([3.0, 2.25, 4.0]), epochs=3, progress=True)
    shown = " ".join(capsys.readouterr().err.split())
    assert "3/3" in shown
    assert "loss 1, valid_loss 4, best 2.25 in epoch 2" in shown
    fit(new_run(), *scripted([3.0]), epochs=1)
    assert capsys.readouterr().err == ""


def test_a_run_resumes_from_its_checkpoints_or_begins(tmp_path):
    losses = [5.0, 3.0, 4.0, 6.0]
    for epochs, before in ((2, 0), (4, 2)):
        with CheckpointStore(tmp_path) as store:
            run = new_run().resumed(store)
            assert run.epochs_run == before
            run = fit(run, *scripted(losses), epochs=epochs, checkpoints=store)
    assert [row["valid_loss"] for row in run.history] == losses
    assert float(run.best_params["w"]) == 2


def test_the_range_test_suggests_a_tenth_of_the_best_rate_and_stops_at_the_blow_up():
    rates = exponential_rates(1e-4, 50, 10)
    best = 25

    def epoch(state: TrainState):
        rate = float(state.opt_state.hyperparams["learning_rate"])  # pyright: ignore
        away = abs(math.log10(rate / rates[best]))
        return state, metrics(0.1 + away**2)

    found = lr_range_test(new_run().state, epoch, rates)
    assert found.suggestion == pytest.approx(rates[best] / 10)
    assert found.learning_rates == pytest.approx(rates[: len(found.losses)])
    assert found.losses[-1] > 10 * min(found.losses)
    assert len(found.losses) < 50


def test_the_range_test_reads_negative_losses_and_wants_a_rate():
    losses = iter([-5.0, -6.0, -7.0, -6.9, 60.0, 0.0])
    found = lr_range_test(new_run().state, lambda state: (state, metrics(next(losses))), [1, 2, 3, 4, 5, 6])
    assert found.losses == pytest.approx([-5, -6, -7, -6.9, 60])
    with pytest.raises(ValueError, match="learning_rates is empty"):
        lr_range_test(new_run().state, lambda state: (state, metrics(1.0)), [])


def test_the_monitor_must_be_there_before_anything_is_trained():
    epoch, _ = scripted([])
    with pytest.raises(ValueError, match="monitor='valid_loss' needs evaluate="):
        fit(new_run(), epoch, epochs=1, monitor="valid_loss")
    assert not epoch.ran  # pyright: ignore[reportFunctionMemberAccess]
    assert fit(new_run(), epoch, epochs=1, monitor="grad_norm").stopping.best == 1.0


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_metric_of_the_training_is_monitored_beside_an_evaluation(name):
    epoch, evaluate = scripted([3.0, 2.0])
    run = fit(new_run(), epoch, evaluate, epochs=2, monitor=name)
    assert (run.stopping.best, run.stopping.best_epoch) == (1.0, 1)
    assert [row["valid_loss"] for row in run.history] == [3.0, 2.0]


def test_a_metric_is_one_number():
    epoch, _ = scripted([])
    run = fit(new_run(), epoch, lambda state: {"valid_loss": np.array([2.0])}, epochs=1)
    assert run.stopping.best == 2.0
    for value, shown in ((None, "None"), (np.zeros(2), r"array\(\[0., 0.\]\)")):
        with pytest.raises(ValueError, match=f"evaluate returned {shown} as mae: it must be one number"):
            fit(new_run(), epoch, lambda state: {"valid_loss": 1.0, "mae": value}, epochs=1)  # noqa: B023


@pytest.mark.parametrize("name", ["loss", "epoch", "skipped", "grad_norm", "seconds"])
def test_an_evaluation_must_not_take_the_names_of_the_training(name):
    epoch, _ = scripted([])
    with pytest.raises(ValueError, match=rf"evaluate returned \['{name}'\], which the history has"):
        fit(new_run(), epoch, lambda state: {"valid_loss": 1.0, name: 2.0}, epochs=1)


@pytest.mark.parametrize("max_skipped", [3, 7])
def test_how_many_steps_may_be_skipped_does_not_depend_on_the_length_of_an_epoch(max_skipped):
    series = jnp.full((12, 1), jnp.nan)
    epoch = make_windowed_epoch(
        lambda params, x, carry: (carry, x[:, -1] * params),
        OPTIMIZER,
        huber,
        *(series, series[1:], jnp.arange(4)),
        window=3,
        batch_size=2,
        every_step=False,
    )
    run = Run.create(TrainState.create(jnp.ones(()), OPTIMIZER))
    with pytest.warns(UserWarning, match="2 steps of epoch 1 were skipped"):
        run = fit(run, epoch, epochs=10, max_skipped=max_skipped)
    assert run.stopped == "diverged" and max_skipped <= int(run.state.step) <= max_skipped + 1


def test_the_range_test_refuses_a_schedule_before_the_first_epoch():
    epoch, _ = scripted([])
    state = TrainState.create({"w": jnp.zeros(())}, make_optimizer("sgd", lambda step: 0.1))
    with pytest.raises(ValueError, match="from a schedule"):
        lr_range_test(state, epoch, [1e-12, 1e-11])
    assert not epoch.ran  # pyright: ignore[reportFunctionMemberAccess]


def test_the_range_test_says_when_even_the_lowest_rate_diverges():
    def epoch(state):
        return state, metrics(math.nan)

    with pytest.raises(ValueError, match=r"not finite at the lowest rate, 0\.1: start lower"):
        lr_range_test(new_run().state, epoch, [0.1, 0.2])
