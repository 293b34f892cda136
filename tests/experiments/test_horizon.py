"""Many steps ahead from the command line: one series, a panel, a backtest, new rows with a trained model."""

import csv
import errno
import os
import re
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from experiments import backtest, export, forecast, predict
from experiments.common.command import error_message
from experiments.common.many_steps import pipeline
from jaxrnn.forecasting import CalibratedNetworks, Forecaster
from tests.experiments.runs_of_tests import read_json, without_jax

QUICK = ["--steps", "30", "--seeds", "1"]
HEADER = ["unique_id", "ds", "yhat", "lo-80", "hi-80", "lo-95", "hi-95"]


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def shops(tmp_path):
    """A panel of three shops; the last has few days."""
    path, random = tmp_path / "shops.csv", np.random.RandomState(0)
    lines = ["unique_id,ds,y"]
    for name, count in (("a", 90), ("b", 80), ("c", 9)):
        days = np.datetime64("2024-01-01") + np.arange(count)
        values = 50 + 10 * np.sin(2 * np.pi * np.arange(count) / 7) + random.randn(count)
        lines += [f"{name},{day},{value:.2f}" for day, value in zip(days, values)]
    path.write_text("\n".join(lines))
    return path


def interrupting(monkeypatch, what):
    """Ctrl-C when a training for ``what`` begins its second part."""
    calls = []

    @contextmanager
    def progress(name):
        def report(share, number, count):
            calls.append(name)
            if calls.count(what) == 2:
                os.kill(os.getpid(), signal.SIGINT)

        yield report

    monkeypatch.setattr(pipeline, "training_progress", progress)


def test_a_panel_is_forecast_backtested_interrupted_resumed_and_new_rows_are_predicted(
    shops, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "run"
    options = ["--series", str(shops), "--horizon", "5", "--season", "7", "--quantiles", "0.05", *QUICK]
    with monkeypatch.context() as patch:
        interrupting(patch, "training")
        assert forecast.main([*options, "--out", str(out)]) == 130
    assert "interrupted: the forecast is that of the training so far" in " ".join(capsys.readouterr().err.split())
    before, tested = (out / "forecast.csv").read_bytes(), (out / "backtest.csv").read_bytes()
    assert forecast.main([*options, "--out", str(out), "--resume"]) == 0
    assert (out / "forecast.csv").read_bytes() != before and (out / "backtest.csv").read_bytes() == tested
    rows = rows_of(out / "forecast.csv")
    assert list(rows[0]) == [*HEADER, "q-0.05"] and [row["unique_id"] for row in rows] == [*"aaaaabbbbbccccc"]
    assert rows[0]["ds"] == "2024-03-31" and rows[-1]["ds"] == "2024-01-14"
    assert all(float(row["lo-95"]) <= float(row["q-0.05"]) <= float(row["lo-80"]) for row in rows)
    metrics = read_json(out / "metrics.json")
    assert {"mase", "smape", "wql", "coverage_80", "coverage_95"} == set(metrics["model"])
    assert {name: len(steps) for name, steps in metrics["by_step"].items()} == dict.fromkeys(
        ("model", "seasonal_naive", "naive", "ar"), 5
    )
    assert metrics["origins"] == 18 and metrics["model"]["mase"] < 1.3 * metrics["seasonal_naive"]["mase"]
    assert set(metrics["mase_by_series"]) == {"a", "b"}
    assert (out / "forecast.png").stat().st_size > 0
    assert len(rows_of(out / "backtest.csv")) == 2 * 18 * 5  # the third series is too short to be judged
    said = capsys.readouterr()
    printed = " ".join(said.out.split())
    assert metrics["series"] == 2 and "backtest of 2 series, 18 origins" in printed
    assert "1 series ('c') are not judged: too few values" in printed
    assert "of the median, simple forecasts the rest" in " ".join(said.out.split())
    assert metrics["choice"]["season"] == 7 and metrics["choice"]["calendar"] == ["weekday", "month"]

    again = tmp_path / "again.csv"
    assert predict.main([str(out), "--series", str(shops), "--out", str(again), "--sample-paths", "50"]) == 0
    paths, forecasts = (rows_of(path) for path in (tmp_path / "again-paths.csv", again))
    assert list(paths[0]) == ["unique_id", "ds", *(f"path-{number}" for number in range(1, 51))]
    assert [(row["unique_id"], row["ds"]) for row in paths] == [(row["unique_id"], row["ds"]) for row in forecasts]
    assert again.read_bytes() == (out / "forecast.csv").read_bytes()
    fresh = tmp_path / "fresh.csv"
    fresh.write_text("shop,day,y\nnew,2025-01-01,5\nnew,2025-01-02,6\nnew,2025-01-02,8\n")
    names = ["--id-column", "shop", "--time-column", "day", "--aggregate", "mean", "--overwrite"]
    assert predict.main([str(out), "--series", str(fresh), "--out", str(again), *names]) == 0
    assert rows_of(again)[0]["ds"] == "2025-01-03" and len(rows_of(again)) == 5
    fresh.write_text("day,y\n2025-01-01,5\n2025-01-02,6\n2025-01-03,8\n2025-01-04,\n")
    config, of_run = out / "horizon.json", (out / "horizon.json").read_text()
    config.write_text(
        of_run.replace('"id_column": null', '"id_column": "shop"').replace(
            '"time_column": null', '"time_column": "ds"'
        )
    )
    assert predict.main([str(out), "--series", str(fresh), "--out", str(again), "--overwrite"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "has no column 'shop' (--id-column), so it is read as one series" in said
    assert "has no column 'ds' (--time-column), so its dates are looked for" in said
    assert "the last 1 rows of 1 series ('value') have no value" in said
    assert [row["ds"] for row in rows_of(again)] == [f"2025-01-0{day}" for day in range(4, 9)]
    config.write_text(of_run.replace('"column": null', '"column": "sales"'))
    assert predict.main([str(out), "--series", str(fresh), "--out", str(again), "--overwrite"]) == 2
    assert "has no column 'sales', which the run forecasts: choose one of its columns with --column (day, y)" in (
        " ".join(capsys.readouterr().err.split())
    )
    config.write_text(of_run)
    for other, message in (
        ([], "is a run with --horizon: give the --series"),
        (["--series", str(shops), "--out", str(tmp_path / "no" / "x.csv")], "which does not exist: make it first"),
        (["--series", str(fresh)], "unknown column"),
        (["--series", str(shops), "--future", str(fresh)], "needs a run with --future-columns"),
    ):
        assert predict.main([str(out), *other, *(["--id-column", "store"] if other else [])]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'jaxrnn[export]'")
    for options_of_export, file, tolerance in (([], "model", 1e-5), (["--int8"], "model-int8", 0.01)):
        assert export.main([str(out), "--to", "onnx", *options_of_export]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"the network is in {out / file}.onnx; it reads [batch, " in said
        assert "anchors [batch, 5] and naive [batch, 5], float32" in said
        assert "it returns yhat, lo-80, hi-80, lo-95, hi-95, q-0.05 of every step" in said
        feed = CalibratedNetworks(Forecaster.load(out / "model")).inputs(
            {
                name: np.array([row[name] for row in rows_of(shops)], kind)
                for name, kind in (("unique_id", str), ("ds", "M8[D]"), ("y", float))
            }
        )
        found = without_jax(out / f"{file}.onnx", feed, tmp_path, "forecasts").reshape(-1, 6)
        expected = [[float(row[name]) for name in (*HEADER[2:], "q-0.05")] for row in rows]
        np.testing.assert_allclose(found, expected, rtol=tolerance)
    assert forecast.main([*options, "--out", str(out), "--resume"]) == 0
    assert "is complete: nothing is left to train" in " ".join(capsys.readouterr().out.split())
    for changed, message in (
        (["--seeds", "2"], "--seeds is 2, but was 1: resume the run in"),
        (
            ["--aggregate", "sum", "--horizon", "6"],
            "--aggregate is 'sum', but was not given, --horizon is 6, but was 5: resume the run in",
        ),
    ):
        assert forecast.main([*options, *changed, "--out", str(out), "--resume"]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_one_series_continues_its_dates_and_backtest_writes_no_forecast(tmp_path, capsys):
    months = np.datetime64("2015-01") + np.arange(60)
    path, out = tmp_path / "sales.csv", tmp_path / "run"
    path.write_text("month,sales\n" + "".join(f"{month},{100 + i % 12}\n" for i, month in enumerate(months)))
    options = ["--series", str(path), "--horizon", "3", "--season", "12", "--origins", "2", *QUICK]
    assert backtest.main([*options, "--out", str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "backtest.csv",
        "checkpoints",
        "horizon.json",
        "metrics.json",
    ]
    tested = rows_of(out / "backtest.csv")
    assert [(row["origin"], row["step"]) for row in tested] == [
        (str(origin), str(step)) for origin in (55, 56) for step in (1, 2, 3)
    ]
    assert float(tested[0]["y"]) == 100 + 56 % 12
    assert predict.main([str(out), "--series", str(path)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "has no model: it is a backtest alone" in said
        and "give python -m experiments.forecast the options" in said
    )
    assert forecast.main([*options, "--resume", "--out", str(out)]) == 0
    assert predict.main([str(out), "--series", str(path)]) == 0


@pytest.mark.parametrize(
    ("place", "shown"), [(76, "there are no errors, since no origin with a value"), (78, "2 │ -")]
)
def test_a_backtest_with_missing_values_says_what_is_not_judged(place, shown, tmp_path, capsys):
    path, out, days = tmp_path / "days.csv", tmp_path / "run", np.datetime64("2024-01-01") + np.arange(80)
    values = ["" if row == place else str(50 + row % 7) for row in range(80)]
    path.write_text("\n".join(["ds,y", *(f"{day},{value}" for day, value in zip(days, values))]))
    options = ["--series", str(path), "--horizon", "3", "--season", "7", "--origins", "1", *QUICK]
    assert backtest.main([*options, "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert shown in said and "nan" not in said and "all of these are 0" not in said
    assert [row["y"] for row in rows_of(out / "backtest.csv")] == [
        "" if row == place else f"{50 + row % 7}.0" for row in (77, 78, 79)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--horizon", "5", "--resume"],
            "run does not exist: check --out, or leave out --resume to begin one",
        ),
        (["--horizon", "5", "--id-column", "shop"], "If the file holds a single series, leave out --id-column"),
        (["--horizon", "5", "--future", "none.csv"], "--future none.csv needs --future-columns"),
        (["--horizon", "5", "--aggregate", "total"], "unknown aggregate 'total'; available: sum"),
        (["--horizon", "5", "--future-columns", "promo"], "unknown column 'promo'; available in"),
        (["--horizon", "5", "--non-negative", "True"], "series 'a' holds -7 at 2024-01-01, but non_negative says"),
        (
            ["--horizon", "90"],
            "--horizon 90 is too long to be judged: the longest series has 90 steps, and at least ",
        ),
        (["--horizon", "90"], "94 are needed: give fewer, or --origins 0 for a forecast without a backtest"),
        (["--horizon", "5", "--origins", "-1"], "--origins must be at least 0, not -1"),
        (["--horizon", "5", "--season", "90"], "--season 90 must be shorter than the series"),
        (["--horizon", "0"], "horizon must be a positive integer, not 0"),
        (["--horizon", "5", "--origins", "100"], "need series of at least"),
    ],
)
def test_what_does_not_fit_is_said(options, message, shops, tmp_path, capsys):
    shops.write_text(re.sub("(?<=a,2024-01-01,).*", "-7", shops.read_text()))
    assert forecast.main(["--series", str(shops), *options, "--out", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_category_that_may_be_a_missing_number_stays_one_in_new_rows_and_in_the_future(tmp_path, capsys):
    days, random = np.datetime64("2024-01-01") + np.arange(64), np.random.RandomState(0)
    promotions = random.choice(["none", "sale", "big"], 64).tolist()
    series, fresh, future, out = (tmp_path / name for name in ("series.csv", "fresh.csv", "future.csv", "run"))
    rows = [f"{day},{50 + row % 7},{promo}" for row, (day, promo) in enumerate(zip(days, promotions))]
    series.write_text("\n".join(["ds,y,promo", *rows[:60]]))
    fresh.write_text("\n".join(["ds,y,promo", *(f"{day},50,none" for day in days[:60])]))
    future.write_text("\n".join(["ds,promo", *(f"{day},none" for day in days[60:])]))
    options = ["--series", str(series), "--horizon", "4", "--season", "7", "--origins", "0", *QUICK]
    with_future = ["--future", str(future)]
    assert forecast.main([*options, "--future-columns", "promo", *with_future, "--out", str(out)]) == 0
    assert predict.main([str(out), "--series", str(fresh), *with_future]) == 0
    assert len(rows_of(out / "forecast-fresh.csv")) == 4 and "texts that" not in capsys.readouterr().out
    future.write_text(future.read_text().replace("none", "hug"))
    assert predict.main([str(out), "--series", str(fresh), *with_future, "--overwrite"]) == 0
    assert "column 'promo' holds texts that the training did not have: 'hug' (series 'value')" in " ".join(
        capsys.readouterr().out.split()
    )


def test_resume_says_what_is_wrong_with_the_folder(shops, tmp_path, capsys):
    file, empty, other = tmp_path / "file", tmp_path / "empty", tmp_path / "other"
    file.write_text("")
    for folder in (empty, other):
        folder.mkdir()
    (other / "config.json").write_text("")
    options = ["--series", str(shops), "--horizon", "5", "--resume", "--out"]
    for folder, message in (
        (file, "is a file: check --out"),
        (empty, "is empty: check --out, or leave out --resume to begin one"),
        (other, "holds no run with --horizon, but one that forecasts a single step"),
    ):
        assert forecast.main([*options, str(folder)]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("code", "path", "message"),
    [
        (errno.EISDIR, "runs", "runs is a folder: give the path of a file"),
        (errno.ENOENT, "no/x.csv", "no/x.csv needs the folder no, which does not exist: make it"),
        (errno.ENOENT, "x.csv", "x.csv does not exist: check the path"),
        (errno.ENOTDIR, "a.csv/b", "a.csv/b is no path of a file or folder, since a part of it is a file"),
        (errno.EACCES, "x.csv", "x.csv may not be opened by you: change its permissions"),
        (errno.ENOSPC, None, "a file cannot be written, since the disk is full: free some space"),
        (errno.EIO, "{x}", "{x} cannot be used (input/output error)"),
    ],
)
def test_errors_of_the_operating_system_are_sentences(code, path, message):
    assert error_message(OSError(code, os.strerror(code), path)).startswith(message)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_forecast_that_cannot_be_written_names_its_file():
    with pytest.raises(OSError, match="/dev/full"):
        pipeline.write_columns(Path("/dev/full"), {"ds": np.arange(2000)})


def test_a_long_horizon_is_forecast_without_a_backtest(shops, tmp_path, capsys):
    out = tmp_path / "run"
    options = [
        "--series",
        str(shops),
        "--horizon",
        "90",
        "--season",
        "7",
        "--origins",
        "0",
        "--out",
        str(out),
        *QUICK,
    ]
    assert forecast.main(options) == 0
    assert "how good this forecast is remains unknown" in " ".join(capsys.readouterr().out.split())
    assert len(rows_of(out / "forecast.csv")) == 3 * 90 and not (out / "backtest.csv").exists()
    assert read_json(out / "metrics.json")["origins"] == 0
    assert backtest.main(options) == 2
    assert "--origins must be at least 1, not 0" in " ".join(capsys.readouterr().err.split())
