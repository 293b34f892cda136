"""Runs of the first experiment that are interrupted and resumed, and folders that hold another run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from experiments import forecast, predict
from experiments.common import report
from tests.experiments.runs_of_tests import SMALL, read_json, run_forecast

ROOT = Path(__file__).parents[2]


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


def test_resume_refuses_other_settings(finished, capsys):
    out = finished
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


def test_checkpoints_without_a_run_are_not_mixed_with_new_ones(finished, tmp_path, capsys):
    out = shutil.copytree(finished, tmp_path / "run")
    (out / "config.json").unlink()
    assert run_forecast(out, *SMALL) == 2
    assert "holds checkpoints of another run" in capsys.readouterr().err


def test_a_run_of_another_kind_in_the_folder_is_named(tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "backtest").write_text("")
    (tmp_path / "horizon.json").write_text("{}")
    for more in ([], ["--resume"]):
        assert run_forecast(tmp_path, *more) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "holds a run with --horizon: choose another --out" in said and "config.json" not in said


def test_options_of_the_tuned_recipe_may_be_repeated(tmp_path, capsys):
    out, options = tmp_path / "run", ["--season", "7", "--hidden", "4", "--epochs", "1"]
    assert run_forecast(out, *options, "--resume") == 2  # there is nothing to resume, and the course recipe begins
    assert "belong to the tuned recipe" in " ".join(capsys.readouterr().err.split()) and not out.exists()
    assert run_forecast(out, *options, "--recipe", "tuned") == 0
    assert run_forecast(out, *options, "--resume") == 0
    assert run_forecast(out, "--season", "8", "--resume") == 2
    assert "--season is 8, but the run to be resumed has 7" in " ".join(capsys.readouterr().err.split())


def test_of_two_runs_at_once_in_one_folder_one_trains_and_the_other_is_refused(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.forecast", *SMALL, "--out", str(out)]
    both = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], errors
    assert "holds another run" in " ".join("".join(errors).split())
    assert predict.main([str(out)]) == 0


def test_ctrl_c_before_training_ends_with_130_and_no_traceback(tmp_path):
    training, predicting = ["forecast", "--out", str(tmp_path / "run")], ["predict", str(tmp_path / "run")]
    for (name, *options), delay in ((training, 0), (training, 1), (predicting, 0)):
        command = [sys.executable, "-m", f"experiments.{name}", *options]
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
    assert (run.returncode, run.stderr) == (130, "interrupted before there was anything to save\n")


def test_a_folder_with_another_run_is_refused(finished, capsys):
    out = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert run_forecast(out, *SMALL) == 2
    assert "holds another run" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


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
