"""A forecast reads what was known before its step, and values that were missing do not count."""

import csv

import jax
import numpy as np
import pytest

from experiments import compare
from experiments.common.config import Settings, resolve
from experiments.common.pipeline import Forecasting, load
from tests.experiments.runs_of_tests import read_json, run_forecast

WALK = 50 + np.random.RandomState(0).randn(120).cumsum()


def write(path, values, missing):
    days = np.datetime64("2024-01-01") + np.arange(len(values))
    cells = ["" if step in missing else repr(value) for step, value in enumerate(values.tolist())]
    path.write_text("date,value\n" + "".join(f"{day},{cell}\n" for day, cell in zip(days, cells)))
    return str(path)


@pytest.fixture
def forecasting(tmp_path):
    def made(task, missing):
        path = write(tmp_path / "walk.csv", WALK, missing)
        config = resolve(Settings(task=task, series=path, hidden=(4,), epochs=1, window=8, batch_size=4))
        return Forecasting(config, load(config))

    return made


def test_no_forecast_and_no_choice_depends_on_the_value_that_it_forecasts(tmp_path):
    missing = [59, 79, 99]
    found = []
    for name, added in (("one", 0.0), ("other", 1000.0)):
        values = WALK.copy()
        values[[80, 100]] += added
        out = tmp_path / name
        path = write(tmp_path / f"{name}.csv", values, missing)
        assert run_forecast(out, "--series", path, "--split", "80", "--hidden", "4", "--epochs", "1") == 0
        with (out / "forecast.csv").open() as file:
            rows = list(csv.DictReader(file))
        found.append((rows[0]["forecast"], read_json(out / "metrics.json")["choice"]))
    assert found[0] == found[1]
    naive = np.abs(WALK[80:] - np.where(np.isin(np.arange(79, 119), missing), WALK[78:118], WALK[79:119]))
    maes = read_json(tmp_path / "one" / "metrics.json")["baselines"]
    assert maes["naive"] == pytest.approx(np.delete(naive, 99 - 80).mean())


@pytest.mark.parametrize("task", ["seq2vec", "seq2seq", "stateful"])
def test_missing_values_decide_neither_what_is_learned_nor_which_epoch_is_best(task, forecasting):
    missing = [20, 21, 40, 75, 76, 77]
    made, results = forecasting(task, missing), []
    begin, end = made.parts.monitor
    assert begin < 75 and end > 77
    known = made.observed[begin:end]
    rests = (made.series.values[:, 0] - np.append(np.nan, made.prepared.baseline[:-1]))[begin:end]
    state = made.new_state(made.optimizer())  # its head is zero: it forecasts the baseline
    assert float(made.evaluate(state)["valid_mae"]) == pytest.approx(np.abs(rests[known]).mean(), rel=1e-5)
    for fill in (0.0, 1000.0):
        made = forecasting(task, missing)
        made.targets = made.targets.at[np.array(missing) - 1].set(fill)
        state, epoch = made.start(made.optimizer())
        state, metrics = epoch(state)
        results.append((state.params, metrics.loss, made.evaluate(state)))
    assert np.isfinite(np.asarray(results[0][1])).all()
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_a_monitored_part_without_a_value_is_said(tmp_path, capsys):
    for name, missing in (("some", range(70, 83)), ("all", range(66, 84))):
        path = write(tmp_path / f"{name}.csv", WALK, list(missing))
        assert run_forecast(tmp_path / name, "--series", path, "--hidden", "4", "--epochs", "1") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "over the 13 values from step 71 on, of which 12 are missing and do not count" in printed
    assert "over the 13 values from step 71 on, all of which are missing" in printed


def test_a_comparison_leaves_out_what_is_missing(tmp_path):
    config = resolve(Settings(series=write(tmp_path / "walk.csv", WALK, [100]), hidden=(4,), epochs=1))
    assert np.isfinite([compare.train_once(config)["mae"], *compare.baseline_maes(config).values()]).all()
