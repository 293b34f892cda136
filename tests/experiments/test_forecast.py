"""The first experiment from end to end, as a user runs it: what it prints, writes, refuses and survives."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from experiments import forecast, predict
from experiments.common import report, runs
from experiments.common.config import Settings, resolve
from tests.experiments.runs_of_tests import SMALL, read_json, run_forecast

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("task", ["seq2vec", "seq2seq", "stateful"])
def test_a_run_writes_what_it_promises_and_predict_says_the_same(task, tmp_path, capsys):
    out = tmp_path / "run"
    assert run_forecast(out, "--task", task, *SMALL) == 0
    printed = capsys.readouterr().out
    metrics = read_json(out / "metrics.json")
    assert metrics["task"] == task
    assert {"cell", "series", "seed", "valid_mae", "best_epoch", "seconds_per_epoch", "jax", "device"} <= set(
        metrics
    )
    assert metrics["seconds_to_first_epoch"] > 0
    assert metrics["epochs_run"] == 2
    assert metrics["baselines"]["naive"] == pytest.approx(5.938, abs=5e-4)
    assert metrics["baselines"]["moving_average"] == pytest.approx(4.889, abs=5e-4)
    assert metrics["baselines"]["ar"] == pytest.approx(4.990, abs=5e-4)
    for name in ("config.json", "history.json", "forecast.csv", "forecast.png", "learning_curve.png"):
        assert (out / name).stat().st_size > 0
    assert str(out) in printed
    # Both figures of the best model, each with its name.
    assert f"its MAE over the last 461 values is {metrics['valid_mae']:.3f}" in printed
    assert (
        f"validation MAE of that epoch, which decided that it is the best, is {metrics['monitored_mae']:.3f}"
        in printed
    )

    with (out / "forecast.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1000, 1462))
    errors = [abs(float(row["value"]) - float(row["forecast"])) for row in rows[:-1]]
    assert np.mean(errors) == pytest.approx(metrics["valid_mae"], rel=1e-12)

    again = subprocess.run(
        [sys.executable, "-m", "experiments.predict", str(out), "--out", str(tmp_path / "again.csv")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"the last 461 values is {metrics['valid_mae']:.3f}\n" in again.stdout
    assert f"after the series: {metrics['next_value']:.3f}\n" in again.stdout
    assert (tmp_path / "again.csv").read_bytes() == (out / "forecast.csv").read_bytes()


@pytest.mark.parametrize("cell", ["lstm", "gru", "leaky"])
@pytest.mark.parametrize("task", ["seq2vec", "seq2seq", "stateful"])
def test_every_cell_does_every_task(cell, task, tmp_path):
    out = tmp_path / "run"
    assert (
        run_forecast(out, "--cell", cell, "--task", task, "--hidden", "4", "--epochs", "1", "--recipe", "tuned")
        == 0
    )
    assert np.isfinite(read_json(out / "metrics.json")["valid_mae"])


def test_the_tuned_recipe_never_looks_at_the_last_part(tmp_path, waves):
    """The trained parameters stay the same, bit for bit, when the last part is replaced by something else."""
    header, *lines = waves.read_text().splitlines()
    other = tmp_path / "other.csv"
    other.write_text("\n".join([header, *lines[:140], *(f"x,{i},{i}" for i in range(60))]) + "\n")
    options = ["--column", "height", "--level-width", "10", "--window", "5", "--epochs", "3", "--hidden", "4"]
    histories = []
    for path in (waves, other):
        out = tmp_path / path.stem
        assert run_forecast(out, "--series", str(path), "--split", "140", *options) == 0
        histories.append([(row["loss"], row["valid_loss"]) for row in read_json(out / "history.json")])
    assert histories[0] == histories[1]


def test_the_best_model_is_kept_and_not_the_last(tmp_path):
    """A learning rate that is far too high: the reported model is the best epoch's, whatever came after."""
    out = tmp_path / "run"
    run_forecast(out, "--hidden", "6", "--epochs", "6", "--learning-rate", "3e-5")
    metrics, history = read_json(out / "metrics.json"), read_json(out / "history.json")
    losses = [row["valid_loss"] for row in history]
    assert metrics["best_epoch"] == int(np.argmin(losses)) + 1
    assert metrics["monitored_mae"] == history[metrics["best_epoch"] - 1]["valid_mae"]
    # The monitored windows are all but the first 30 of the last part: the two figures must be near.
    assert metrics["valid_mae"] == pytest.approx(metrics["monitored_mae"], rel=0.15)


@pytest.mark.parametrize("task", ["seq2vec", "stateful"])
def test_resume_goes_on_exactly(task, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    options = ["--task", task, "--hidden", "5"]
    assert run_forecast(whole, *options, "--epochs", "4") == 0
    assert run_forecast(halves, *options, "--epochs", "2") == 0
    assert run_forecast(halves, "--resume", "--epochs", "4") == 0
    assert (whole / "forecast.csv").read_bytes() == (halves / "forecast.csv").read_bytes()
    losses = [[row["loss"] for row in read_json(out / "history.json")] for out in (whole, halves)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_resume_refuses_other_settings(tmp_path, capsys):
    out = tmp_path / "run"
    assert run_forecast(out, *SMALL) == 0
    assert run_forecast(out, "--resume", "--hidden", "7") == 2
    error = capsys.readouterr().err
    assert "--hidden is (7,)" in error
    assert "(6,)" in error


def test_resume_refuses_an_option_that_happens_to_be_a_default(tmp_path, capsys):
    out = tmp_path / "run"
    assert run_forecast(out, *SMALL, "--seed", "3", "--task", "seq2seq") == 0
    assert run_forecast(out, "--resume", "--seed", "0") == 2
    assert "--seed is 0" in capsys.readouterr().err
    assert run_forecast(out, "--resume", "--task", "seq2vec") == 2
    assert "--task is 'seq2vec'" in capsys.readouterr().err


def test_resume_refuses_a_series_that_has_changed(waves, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--series", str(waves), "--column", "height", "--level-width", "10", "--window", "5", *SMALL]
    assert run_forecast(out, *options) == 0
    whole = waves.read_text()
    lines = whole.splitlines()
    for changed in ([*lines, "d200,3.0,0"], lines[:-80], [*lines[:50], lines[51], lines[50], *lines[52:]]):
        waves.write_text("\n".join(changed))
        assert run_forecast(out, "--resume", "--epochs", "3") == 2
        assert f"has changed since the run in {out} began" in " ".join(capsys.readouterr().err.split())
    waves.write_text(whole)
    assert run_forecast(out, "--resume", "--epochs", "3") == 0


def test_checkpoints_without_a_run_are_not_mixed_with_new_ones(tmp_path, capsys):
    out = tmp_path / "run"
    assert run_forecast(out, *SMALL) == 0
    (out / "config.json").unlink()
    assert run_forecast(out, *SMALL) == 2
    assert "holds checkpoints of another run" in capsys.readouterr().err


def test_of_two_runs_at_once_in_one_folder_one_trains_and_the_other_is_refused(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.forecast", *SMALL, "--out", str(out)]
    both = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], errors
    assert "holds another run" in " ".join("".join(errors).split())
    assert predict.main([str(out)]) == 0


def test_ctrl_c_before_training_ends_with_130_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "experiments.forecast", "--out", str(tmp_path / "run")]
    for delay in (0, 1):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        # Not while the interpreter itself starts, which Ctrl-C ends with a traceback.
        libraries = Path(f"/proc/{process.pid}/maps")
        while libraries.exists() and "jaxlib" not in libraries.read_text():
            time.sleep(0.01)
        time.sleep(delay if libraries.exists() else delay + 1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
        assert process.returncode in (-signal.SIGINT, 130)  # a shell shows both as 130
        assert "Traceback" not in error


CTRL_C_IN_THE_GARBAGE_COLLECTOR = """
import gc, os, runpy, signal, sys
handlers = []
def callback(*_):
    if (handler := signal.getsignal(signal.SIGINT)) not in handlers[-1:]:
        handlers.append(handler)
        if len(handlers) == 3:  # Python's own, none while modules are imported, and then the program's
            os.kill(os.getpid(), signal.SIGINT)
gc.callbacks.append(callback)
gc.collect()
sys.argv = ["forecast", "--epochs", "1", "--hidden", "3", "--out", sys.argv[1]]
runpy.run_module("experiments.forecast", run_name="__main__")
"""


def test_ctrl_c_is_not_lost_where_python_ignores_exceptions(tmp_path):
    command = [sys.executable, "-c", CTRL_C_IN_THE_GARBAGE_COLLECTOR, str(tmp_path / "run")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (130, "error: interrupted before there was anything to save\n")


def test_a_folder_with_another_run_is_refused(tmp_path, capsys):
    out = tmp_path / "run"
    assert run_forecast(out, *SMALL) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert run_forecast(out, *SMALL) == 2
    assert "holds another run" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--series", "nowhere.csv"], "nowhere.csv does not exist"),
        (["--series", "nowhere"], "available: course, seattle, melbourne"),
        (["--series", "seattle", "--column", "snow"], "unknown column 'snow'; available"),
        (["--cell", "lstmm"], "unknown cell 'lstmm'; available: simple_rnn"),
        (["--activation", "tahn"], "unknown activation 'tahn'; available: tanh"),
        (["--optimizer", "sdg"], "unknown optimizer 'sdg'; available: sgd"),
        (["--window", "2000"], "--window 2000 is too long for the training part"),
        (["--window", "990"], "no values are left for validation"),
        (["--window", "0"], "--window must be positive and finite, not 0"),
        (["--season", "7"], "belong to the tuned recipe"),
        (["--seed", "99999999999999999999"], "--seed must be between 0 and"),
        (["--hidden", "0"], "--hidden must have at least one layer"),
        (["--epochs", "-1"], "--epochs must be positive and finite, not -1"),
        (["--learning-rate", "nan"], "--learning-rate must be positive and finite, not nan"),
        (["--learning-rate", "inf"], "--learning-rate must be positive and finite, not inf"),
        (["--split", "5000"], "split=5000 must lie within the 1461 steps"),
        (["--task", "stateful", "--batch-size", "500"], "at most batch_size=33"),
        (["--recipe", "tuned", "--season", "900"], "the training part has"),
        (["--devices", "100000"], "--devices 100000 is too many for this machine"),
        (["--hidden", "1000000"], "--hidden 1000000 makes a network of 1e+12 parameters"),
        (
            ["--epochs", "99999999999999999999"],
            "--epochs 99999999999999999999 makes 799999999999999999992 training",
        ),
        (["--column", ""], "--column is given an empty value"),
    ],
)
def test_what_does_not_fit_is_said_and_leaves_no_run(options, message, tmp_path, capsys):
    out = tmp_path / "run"
    assert run_forecast(out, *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_a_bad_cell_of_a_file_is_named(waves, tmp_path, capsys):
    lines = waves.read_text().splitlines()
    lines[7] = "d6,nan,1"
    waves.write_text("\n".join(lines))
    assert run_forecast(tmp_path / "run", "--series", str(waves), "--column", "height") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "row 8, column 'height' holds 'nan'" in error


def test_a_forecast_that_is_worse_than_simple_ones_says_so_and_comes_with_advice(tmp_path, capsys):
    run_forecast(tmp_path / "short", "--epochs", "1", "--hidden", "3", "--learning-rate", "1e-9")
    printed = " ".join(capsys.readouterr().out.split())
    assert "worse than that of forecasts without a network: naive: the last value (5.938)" in printed
    assert "moving average of 5 (4.889)" in printed and "least-squares AR(30) (4.990)" in printed
    assert "more --epochs may help" in printed
    run_forecast(tmp_path / "high", "--epochs", "3", "--hidden", "3", "--learning-rate", "1")
    printed = " ".join(capsys.readouterr().out.split())
    assert "the learning rate of 1 is too high. Try --learning-rate 0.1" in printed
    assert "more --epochs" not in printed


def test_divergence_is_named_and_keeps_the_best_model(tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--activation", "relu", "--learning-rate", "1e3", "--clip-norm", "0", "--hidden", "6"]
    assert run_forecast(out, *options, "--epochs", "50") == 1
    captured = capsys.readouterr()
    metrics = read_json(out / "metrics.json")
    assert metrics["stopped"] == "diverged"
    assert metrics["skipped_steps"] > 0
    assert f"steps were not finite in epoch {metrics['epochs_run']}" in " ".join(captured.err.split())
    assert "learning rate of 1e+03" in " ".join(captured.err.split())
    assert np.isfinite(metrics["valid_mae"])


def test_ctrl_c_saves_and_exits_with_130_and_resume_goes_on(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.forecast", "--hidden", "5", "--patience", "0", "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--epochs", "1000000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith("epoch"):
        assert line, "the run ended before its first epoch"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Ctrl-C" in printed
    metrics = read_json(out / "metrics.json")
    assert metrics["stopped"] == "interrupted"
    assert (out / "forecast.png").exists()
    done = metrics["epochs_run"]
    assert done > 1
    assert run_forecast(out, "--resume", "--epochs", str(done + 2)) == 0
    assert read_json(out / "metrics.json")["epochs_run"] == done + 2


def test_further_columns_are_read(waves, tmp_path):
    out = tmp_path / "run"
    options = ["--level-width", "10", "--window", "5", "--hidden", "4", "--epochs", "1", "--split", "140"]
    columns = ["--column", "height", "--further-columns", "wind"]
    assert run_forecast(out, "--series", str(waves), *columns, *options) == 0
    assert predict.main([str(out)]) == 0


def test_an_empty_out_does_not_train_into_the_current_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_forecast("", *SMALL) == 2  # pyright: ignore[reportArgumentType]
    assert "--out is given an empty value" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_paths_and_names_that_look_like_markup_are_printed_as_they_are(waves, tmp_path, capsys):
    series, out = tmp_path / "[red]$_{.csv", tmp_path / "q[" / "x]"
    waves.rename(series)
    options = ["--column", "height", "--level-width", "10", "--window", "5", *SMALL]
    assert run_forecast(out, "--series", str(series), *options) == 0
    printed = capsys.readouterr().out
    assert f"everything is in {out}\n" in printed
    assert "[red]$_{: the last 60 values" in printed
    assert predict.main([str(out), "--out", str(out / "[x].csv")]) == 0
    assert f"forecasts are in {out}/[x].csv\n" in capsys.readouterr().out
    assert run_forecast(out, "--series", str(series), *options) == 2
    assert f"{out} holds another run" in capsys.readouterr().err


def test_a_run_whose_folder_is_deleted_writes_it_anew_and_can_be_resumed(tmp_path, monkeypatch):
    out, show = tmp_path / "run", report.epoch_progress
    deleted = []

    @contextmanager
    def deleting(*arguments, **options):
        with show(*arguments, **options) as shown:

            def delete(run):
                shown(run)
                if run.epochs_run == 2 and not deleted:
                    deleted.append(shutil.rmtree(out))

            yield delete

    monkeypatch.setattr(forecast, "epoch_progress", deleting)
    with pytest.warns(UserWarning, match=r"config.json and its checkpoints were deleted while the run"):
        assert run_forecast(out, "--hidden", "5", "--epochs", "4") == 0
    assert deleted
    assert predict.main([str(out)]) == 0
    assert run_forecast(out, "--resume", "--epochs", "5") == 0
    assert len(read_json(out / "history.json")) == 5


def test_gated_cells_have_a_learning_rate_of_their_own_on_the_course_recipe(tmp_path):
    rates = [resolve(Settings(cell=cell)).learning_rate for cell in (None, "lstm", "gru")]
    assert rates == [1.5e-6, 1.5e-5, 1.5e-5]
    assert resolve(Settings(cell="lstm", learning_rate=1e-6)).learning_rate == 1e-6


def test_a_failed_write_leaves_no_temporary_file(tmp_path, monkeypatch):
    def full(path):
        raise OSError("no space left on device")

    monkeypatch.setattr(runs, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        runs.write_json(tmp_path / "metrics.json", {})
    assert not list(tmp_path.iterdir())
