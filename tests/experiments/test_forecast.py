"""The first experiment from end to end, as a user runs it: what it prints, writes, refuses and survives."""

import csv

import numpy as np
import pytest

from experiments import predict
from experiments.common import runs
from experiments.common.config import Settings, resolve
from tests.experiments.runs_of_tests import SMALL, read_json, run_forecast


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

    assert predict.main([str(out), "--out", str(tmp_path / "again.csv")]) == 0
    again = capsys.readouterr().out
    assert f"the last 461 values is {metrics['valid_mae']:.3f}\n" in again
    assert f"after the series: {metrics['next_value']:.3f}\n" in again
    assert (tmp_path / "again.csv").read_bytes() == (out / "forecast.csv").read_bytes()


# The tests of layers run every cell with outputs at every step, at the last one, and with a carry. Here every
# cell is a choice of the command, and every task trains with a carry of two parts.
TASKS_OF_CELLS = [
    ("lstm", "seq2vec"),
    ("lstm", "seq2seq"),
    ("lstm", "stateful"),
    ("gru", "seq2vec"),
    ("leaky", "stateful"),
]


@pytest.mark.parametrize(("cell", "task"), TASKS_OF_CELLS)
def test_cells_do_the_tasks(cell, task, tmp_path):
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
    lines[7] = "d6,three,1"
    waves.write_text("\n".join(lines))
    assert run_forecast(tmp_path / "run", "--series", str(waves), "--column", "height") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "row 8, column 'height' holds 'three'" in error


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
