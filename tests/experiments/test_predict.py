"""Forecasts with a run that is there already, and runs that are damaged."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from experiments import predict
from experiments.common import runs
from tests.experiments.runs_of_tests import read_json, run_forecast

ROOT = Path(__file__).parents[2]


def test_predict_forecasts_another_series_with_the_run_s_scaling(waves, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--column", "height", "--level-width", "10", "--window", "5", "--hidden", "4", "--epochs", "2"]
    assert run_forecast(out, "--series", str(waves), *options) == 0
    longer = tmp_path / "longer.csv"
    longer.write_text(waves.read_text() + "d200,100.0,0\nd201,3.0,0\n")
    assert predict.main([str(out), "--series", str(longer), "--column", "height", "--split", "140"]) == 0
    capsys.readouterr()
    assert predict.main([str(out), "--series", str(longer), "--column", "depth"]) == 2
    assert "available in" in capsys.readouterr().err
    for more in ([], ["--sample-paths", "3"]):
        assert predict.main([str(tmp_path / "nothing"), *more]) == 2
        assert "holds no run" in capsys.readouterr().err


def test_predict_replaces_no_file_unasked(finished, tmp_path, capsys):
    precious = tmp_path / "sales.csv"
    precious.write_text("mine")
    assert predict.main([str(finished), "--out", str(precious)]) == 2
    assert "sales.csv exists already: give another path, or --overwrite" in " ".join(
        capsys.readouterr().err.split()
    )
    assert predict.main([str(finished), "--out", str(tmp_path)]) == 2
    assert "is a folder: give the path of a file" in " ".join(capsys.readouterr().err.split())
    assert precious.read_text() == "mine"
    assert predict.main([str(finished), "--out", str(precious), "--overwrite"]) == 0
    assert precious.read_text().startswith("step,")


def test_predict_says_when_a_run_is_damaged(finished, tmp_path, capsys):
    out = shutil.copytree(finished, tmp_path / "run")
    config = out / "config.json"
    whole = config.read_text()
    config.write_text("{")
    assert predict.main([str(out)]) == 2
    assert "config.json is damaged" in " ".join(capsys.readouterr().err.split())
    config.write_text(whole.replace('"window": 30', '"window": 31'))
    assert predict.main([str(out)]) == 2
    assert run_forecast(out, "--resume") == 2
    assert "damaged, or was edited" in " ".join(capsys.readouterr().err.split())
    forged = json.loads(whole)
    forged["config"]["window"] = "ten"
    config.write_text(json.dumps(runs.with_checksum(forged)))
    assert predict.main([str(out)]) == 2
    assert "window is 'ten' in config.json" in " ".join(capsys.readouterr().err.split())


def test_load_run_gives_the_best_model_of_a_run_folder(finished):
    run = predict.load_run(finished)
    window = run.forecasting.config.window
    last = run.forecasting.features[None, -window:]
    next_value = read_json(finished / "metrics.json")["next_value"]
    scaled = float(run.model(last)[0, 0]) * run.forecasting.prepared.scale
    assert np.isclose(run.forecasting.prepared.baseline[-1] + scaled, next_value, rtol=1e-5)
    assert run.forecasting.forecast(run.params)[-1] == next_value
    assert run.best_epoch == read_json(finished / "metrics.json")["best_epoch"]


def test_another_process_forecasts_the_same(finished, tmp_path):
    command = [sys.executable, "-m", "experiments.predict", str(finished), "--out", str(tmp_path / "again.csv")]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    metrics = read_json(finished / "metrics.json")
    assert f"the last 461 values is {metrics['valid_mae']:.3f}\n" in again.stdout
    assert (tmp_path / "again.csv").read_bytes() == (finished / "forecast.csv").read_bytes()


def test_a_series_that_is_only_forecast_needs_no_training_part(tmp_path, capsys):
    out, paths = tmp_path / "run", []
    for count in (140, 40):
        paths.append(str(tmp_path / f"{count}.csv"))
        values = 50 + np.random.RandomState(0).randn(count)
        Path(paths[-1]).write_text("step,y\n" + "".join(f"{step},{y}\n" for step, y in enumerate(values.tolist())))
    assert run_forecast(out, "--series", paths[0], "--hidden", "4", "--epochs", "1") == 0
    for split in ("35", "30"):
        assert predict.main([str(out), "--series", paths[1], "--split", split]) == 0
    assert f"MAE over the last {40 - 30} values" in capsys.readouterr().out
    assert predict.main([str(out), "--series", paths[1], "--split", "29"]) == 2
    assert "reads windows of 30 steps, and that before step 29" in " ".join(capsys.readouterr().err.split())
