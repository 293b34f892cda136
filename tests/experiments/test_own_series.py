"""A CSV file of a user, without options: the network corrects simple forecasts, and the run says what it chose."""

import csv

import numpy as np
import pytest

from experiments import predict
from experiments.common.parts import choose
from tests.experiments.runs_of_tests import read_json, run_forecast


def write(path, values, name="value"):
    path.write_text(f"step,{name}\n" + "".join(f"s{i},{value!r}\n" for i, value in enumerate(values.tolist())))
    return str(path)


def months(count: int) -> np.ndarray:
    steps = np.arange(count)
    noise = np.random.RandomState(1).randn(count)
    return 100 + steps + 20 * np.sin(2 * np.pi * steps / 12) + 3 * noise


@pytest.mark.parametrize("task", ["seq2vec", "stateful"])
def test_a_run_says_what_it_chose_and_predict_gives_the_same(task, tmp_path, capsys):
    path, out = write(tmp_path / "months.csv", months(144)), tmp_path / "run"
    options = ["--recipe", "tuned", "--column", "value", "--season", "12", "--seed", "3", "--task", task]
    assert run_forecast(out, "--series", path, *options, "--epochs", "4") == 0
    printed = " ".join(capsys.readouterr().out.split())
    metrics = read_json(out / "metrics.json")
    choice = metrics["choice"]
    assert sum(one["weight"] for one in choice["methods"].values()) == pytest.approx(1)
    assert {"naive", "seasonal naive", "least-squares AR(30)"} <= set(choice["methods"])
    assert choice["monitored_steps"] == [85, 100] and choice["held_out_steps"] == 50
    assert "simple forecasts are averaged" in printed and "over steps 85 to 99, the end of the training" in printed
    others = metrics["baselines"]
    assert others["seasonal_naive"] == pytest.approx(np.abs(months(144)[100:] - months(144)[88:-12]).mean())
    assert metrics["valid_mae"] <= 1.03 * min(others["naive"], others["seasonal_naive"], others["ar"])
    assert predict.main([str(out), "--out", str(tmp_path / "again.csv")]) == 0
    assert (tmp_path / "again.csv").read_bytes() == (out / "forecast.csv").read_bytes()


@pytest.mark.parametrize("count", [20])
def test_short_series_are_not_refused(count, tmp_path):
    path, out = write(tmp_path / "short.csv", months(count)), tmp_path / "run"
    assert run_forecast(out, "--series", path, "--epochs", "2") == 0
    metrics = read_json(out / "metrics.json")
    assert np.isfinite(metrics["valid_mae"]) and metrics["valid_mae"] <= 1.1 * metrics["baselines"]["naive"]


def test_what_comes_after_the_training_part_changes_no_choice(tmp_path):
    choices = []
    for name, last in (("one", 1.0), ("other", -5.0)):
        values = months(120)
        values[84:] *= last
        out = tmp_path / name
        assert run_forecast(out, "--series", write(tmp_path / f"{name}.csv", values), "--epochs", "2") == 0
        choices.append(read_json(out / "metrics.json")["choice"])
    assert choices[0] == choices[1]


def test_a_constant_series_is_forecast(tmp_path):
    path, out = write(tmp_path / "constant.csv", np.full(100, 5.0)), tmp_path / "run"
    assert run_forecast(out, "--series", path, "--epochs", "2") == 0
    assert read_json(out / "metrics.json")["next_value"] == pytest.approx(5)


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [(8, [], "at least 8 are needed"), (60, ["--season", "50"], "season=50 (--season) must be shorter")],
)
def test_what_is_too_short_says_so(count, options, message, tmp_path, capsys):
    path = write(tmp_path / "short.csv", months(count))
    assert run_forecast(tmp_path / "run", "--series", path, *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_the_network_is_used_as_far_as_it_is_clearly_better():
    random = np.random.RandomState(0)
    signal, noise = random.randn(400), random.randn(400)
    assert choose(signal + 0.1 * noise, signal).share > 0.9  # it explains nearly all
    assert choose(noise, signal).share == 0  # it explains nothing
    assert choose(signal + noise, 4 * signal).share == pytest.approx(0.25, abs=0.03)  # four times too large
    few = choose(signal[:12] + 1.5 * noise[:12], signal[:12])
    assert few.share < choose(signal + 1.5 * noise, signal).share
    assert choose(np.zeros(10), np.zeros(10)).share == 0


def test_dates_are_put_in_order_gaps_are_said_and_the_next_date_is_named(tmp_path, capsys):
    days = np.datetime64("2024-01-01") + np.arange(100)
    lines = [f"{day},{value}" for day, value in zip(days, months(100).tolist())]
    del lines[80:83]
    path, out = tmp_path / "days.csv", tmp_path / "run"
    path.write_text("\n".join(["date,value", *lines[::-1]]))
    assert run_forecast(out, "--series", str(path), "--epochs", "2") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "note: the newest row came first" in printed and "note: 3 dates are missing" in printed
    assert "forecast of step 100 (2024-04-10), after the series" in printed
    assert "its MAE over the last 27 values" in printed  # 30, of which three are missing
    with (out / "forecast.csv").open() as file:
        rows = list(csv.DictReader(file))
    missing = [int(row["step"]) for row in rows if not row["value"]]
    assert missing == [80, 81, 82, 100]
    errors = [abs(float(row["value"]) - float(row["forecast"])) for row in rows if row["value"]]
    assert read_json(out / "metrics.json")["valid_mae"] == pytest.approx(np.mean(errors))
