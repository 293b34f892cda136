"""A run that is exported gives its own forecasts in a process that has neither JAX nor this library."""

import csv
import functools
import json
from typing import Any

import jax
import jax.export
import numpy as np
import pytest

from experiments import export, predict
from jaxrnn.export import quantize
from tests.experiments.runs_of_tests import SMALL, run_forecast, without_jax

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'jaxrnn[export]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'jaxrnn[export]'")
pytest.importorskip("safetensors", reason="safetensors is not installed: pip install 'jaxrnn[export]'")

RUNS = {
    "course": ["--recipe", "course", "--task", "seq2vec"],
    "seq2seq": ["--recipe", "course", "--task", "seq2seq"],
    "tuned": ["--recipe", "tuned", "--task", "stateful", "--cell", "gru"],
}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """A function from a recipe to the folder of a run of it."""

    @functools.cache
    def run(recipe):
        out = tmp_path_factory.mktemp(recipe) / "run"
        assert run_forecast(out, *SMALL, *RUNS[recipe]) == 0
        return out

    return run


@pytest.mark.parametrize("recipe", RUNS)
def test_onnx_runtime_gives_the_forecasts_of_the_run(recipe, run_of, tmp_path, capsys):
    out = run_of(recipe)
    assert export.main([str(out), "--to", "onnx"]) == 0
    printed = capsys.readouterr().out
    assert f"is in {out / 'model.onnx'}" in printed
    assert ("plus the baseline" in printed) == (recipe == "tuned")
    forecasting = predict.load_run(out).forecasting
    features, begin, window = np.asarray(forecasting.features), forecasting.parts.test, forecasting.config.window
    if forecasting.stateful:
        feed: dict[str, Any] = {"inputs": features[None, forecasting.prepared.first :]}
        feed["initial_carry_0_h"] = np.zeros((1, forecasting.config.hidden[0]), np.float32)
    else:
        starts = np.arange(begin, len(features) + 1) - window
        feed = {"inputs": features[starts[:, None] + np.arange(window)]}
    outputs = without_jax(out / "model.onnx", feed, tmp_path, "forecasts")
    if recipe == "seq2seq":
        outputs = outputs[:, -1]  # a window's last step forecasts what follows it
    outputs = outputs[..., 0].reshape(-1).astype(np.float64)
    forecasts = forecasting.prepared.baseline[begin - 1 :] + outputs[-(len(features) - begin + 1) :]
    with (out / "forecast.csv").open() as file:
        expected = [float(row["forecast"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(forecasts, expected, rtol=1e-5)


def test_the_other_formats_and_what_is_refused(run_of, tmp_path, capsys):
    out = run_of("course")
    run = predict.load_run(out)
    assert export.main([str(out), "--to", "stablehlo", "--out", str(tmp_path / "program")]) == 0
    program = jax.export.deserialize(bytearray((tmp_path / "program").read_bytes()))
    window = run.forecasting.features[None, -run.forecasting.config.window :]
    np.testing.assert_allclose(program.call(window), run.model(window), rtol=1e-5)
    assert export.main([str(out), "--to", "stablehlo", "--int8"]) == 0
    program = jax.export.deserialize(bytearray((out / "model-int8.stablehlo").read_bytes()))
    np.testing.assert_allclose(program.call(window), quantize(run.model)(window), rtol=1e-3)
    assert export.main([str(out), "--to", "onnx", "--int8"]) == 0
    feed = {"inputs": np.asarray(window)}
    found = without_jax(out / "model-int8.onnx", feed, tmp_path, "forecasts")
    np.testing.assert_allclose(found, quantize(run.model)(window), rtol=1e-3)
    assert export.main([str(out), "--to", "safetensors"]) == 0
    data = (out / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["layers.cells.0.recurrent_kernel"]["shape"] == [6, 6]
    capsys.readouterr()
    assert export.main([str(out), "--to", "safetensors"]) == 2
    assert "model.safetensors exists already" in capsys.readouterr().err
    assert export.main([str(tmp_path / "nothing"), "--to", "onnx"]) == 2
    assert "holds no run" in capsys.readouterr().err
