"""What is shown while an experiment runs, and what is said about its result."""

import errno
import signal
import sys

import numpy as np
import pytest

from experiments import compare as comparison
from experiments import gradient_flow, lr_range, selective_copy
from experiments.common import plots, report
from experiments.common.command import run_command
from experiments.common.config import Settings, resolve
from experiments.common.many_steps.plots import plot_fans
from experiments.common.many_steps.report import report_backtest
from experiments.common.pipeline import Forecasting
from experiments.common.signals import CtrlC
from jaxrnn.data import Series
from jaxrnn.forecasting import read_panel
from jaxrnn.forecasting.metrics import compare
from jaxrnn.training import EarlyStopping, Run
from jaxrnn.training.distributed.signals import StopSignals


def run_of(*seconds: float) -> Run:
    rows = [{"epoch": i + 1, "loss": 1.0, "valid_mae": 1.0, "seconds": s} for i, s in enumerate(seconds)]
    return Run(None, None, EarlyStopping(best_epoch=1), rows)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("done", [0, 2])
def test_time_left_does_not_count_compilation(done, capsys):
    with report.epoch_progress(102, done=done) as show:
        seconds = [50.0] * done + [26.0, 1.0, 1.0]
        show(run_of(*seconds[: done + 1]))
        assert "left" not in capsys.readouterr().out  # only compiled yet
        run = run_of(*seconds)  # the last epoch is always printed
        show(run)
        assert not capsys.readouterr().out  # within five seconds of the line before
    assert f"at most 0:01:{39 - done} left" in capsys.readouterr().out


class Closed:
    """An output whose reader has gone, as that of ``| head``."""

    def write(self, _: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def flush(self) -> None:
        pass


def test_a_training_whose_output_is_read_no_longer_stops_so_that_it_is_saved(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Closed())
    with StopSignals() as stop, report.epoch_progress(3) as show:
        show(run_of(1.0))
        assert stop.received == signal.SIGTERM
        show(run_of(1.0, 1.0))  # nobody reads it, so it is no error
    monkeypatch.setattr(sys, "stdout", Closed())
    with report.epoch_progress(3) as show:  # what is printed at the end is no reason to lose the results
        show(run_of(1.0, 1.0))
    monkeypatch.setattr(sys, "stdout", Closed())
    report.say("nor is this")


def test_a_command_whose_output_is_read_no_longer_ends_without_an_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Closed())
    assert run_command(CtrlC(), lambda: print("some text") or 0) == 141  # 128 + SIGPIPE, as shells count
    assert not capsys.readouterr().err


def test_a_perfect_forecast_is_not_worse_than_another_perfect_one():
    config = resolve(Settings(recipe="course", series="zeros", hidden=(3,)))
    forecasting = Forecasting(config, Series("zeros", np.zeros((200, 1)), ("value",), 140))
    maes = {name: float(np.abs(f).mean()) for name, f in report.baselines(forecasting).items()}
    assert report.comparison(maes, 0.0) is None
    assert report.advice(forecasting, run_of(1.0), maes, 0.0) is None
    assert "naive: the last value (0.000)" in (report.comparison(maes, 0.5) or "")


@pytest.mark.parametrize(("value", "undefined"), [(0.0, True), (2.0, False)])
def test_a_loss_relative_to_zeros_is_not_shown_as_a_number(value, undefined, capsys):
    levels = (0.025, *(tenth / 10 for tenth in range(1, 10)), 0.975)
    actual, shape = np.full((4, 2), value), (4, 2, len(levels))
    metrics = compare({name: np.full(shape, value) for name in ("model", "naive")}, actual, np.ones(4), levels)
    report_backtest(metrics | {"season": 1, "series": 1, "origins": 4, "horizon": 2})
    shown = capsys.readouterr().out
    assert "nan" not in shown
    assert ("there is no WQL" in shown) == undefined


@pytest.mark.parametrize(("level_width", "named"), [(80, True), (2, False)])
def test_a_moving_average_that_is_worse_than_the_last_value_is_named(level_width, named):
    config = resolve(Settings(recipe="tuned", series="wave", hidden=(3,), level_width=level_width))
    wave = 50 + 10 * np.sin(np.arange(300) / 5)[:, None]
    forecasting = Forecasting(config, Series("wave", wave, ("value",), 210))
    maes = {
        name: float(np.abs(f - forecasting.actual).mean()) for name, f in report.baselines(forecasting).items()
    }
    advice = report.advice(forecasting, run_of(1.0), maes, maes["naive"] * 1.01) or ""
    assert ("a moving average of 80 values" in advice and "--level-width 2" in advice) == named


@pytest.mark.parametrize("command", [comparison, gradient_flow, lr_range, selective_copy])
def test_a_folder_that_cannot_be_made_is_said_before_the_work(command, tmp_path, monkeypatch, capsys):
    def work(*_, **__):
        raise AssertionError

    for name in ("train_once", "baseline_maes", "gradient_flow", "range_test", "curves"):
        monkeypatch.setattr(command, name, work, raising=False)
    (tmp_path / "file").write_text("")
    assert command.main(["--out", str(tmp_path / "file")]) == 2
    assert "it is a file; choose another --out" in " ".join(capsys.readouterr().err.split())


def test_what_has_no_neighbours_is_drawn_too(tmp_path, monkeypatch):
    monkeypatch.setattr(plots.plt, "close", lambda figure: None)
    values = np.where(np.arange(12) % 2, np.nan, np.arange(12.0))
    panel = read_panel({"a": values})
    names = ("yhat", "lo-80", "hi-80", "lo-95", "hi-95")
    columns = {"ds": np.array([12])} | {name: np.array([place + 0.5]) for place, name in enumerate(names)}
    plot_fans(tmp_path / "fans.png", panel, columns, 1, {})
    plots.plot_forecast(tmp_path / "forecast.png", 5, np.ones(1), np.zeros(1), np.ones(1), "one value")
    fans, one = (plots.plt.figure(number) for number in plots.plt.get_fignums()[-2:])
    dots = [line for axes in (*fans.axes, one.axes[0]) for line in axes.lines if line.get_marker() == "o"]
    assert [len(np.asarray(dot.get_xdata())) for dot in dots] == [
        3,
        1,
        1,
        1,
        1,
    ]  # every second of six values, and four lone values
    assert [np.ptp(np.asarray(lines.get_paths()[0].vertices)[:, 1]) for lines in fans.axes[0].collections] == [
        1,
        1,
    ]  # the intervals
    monkeypatch.undo()
    plots.plt.close(fans)
    plots.plt.close(one)
