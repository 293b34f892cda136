"""Trainings that are watched: an interrupted one goes on from its checkpoints and ends with the same bits."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrnn.forecasting import Forecaster, TrainingStopped, Watch, read_panel
from jaxrnn.forecasting.one_series import Columns

VALUES = 10 + np.sin(np.arange(70) / 2) + 0.1 * np.random.RandomState(0).randn(70)


def test_an_interrupted_training_ends_with_the_same_bits(tmp_path):
    shares: list[float] = []
    interrupted = True

    def report(share: float, number: int, count: int) -> None:
        nonlocal interrupted
        shares.append(share)
        assert (number, count) == (1, 1)
        if share > 0.4 and not interrupted:
            interrupted = True
            os.kill(os.getpid(), signal.SIGINT)

    def fitted(folder: str) -> Forecaster:
        model = Forecaster(2, 1, window=8, hidden=(3,), steps=20, seeds=1)
        return model.fit(VALUES, watch=Watch(tmp_path / folder, report))

    whole = fitted("whole")
    assert shares == sorted(shares) and shares[0] == 0 and 0.6 < shares[-1] < 1 and whole.stopped is None
    interrupted = False
    assert fitted("parts").stopped == "interrupted"
    shares.clear()
    again = fitted("parts")
    assert again.stopped is None and shares[0] > 0.3  # what was done is not done again
    for name, values in whole.predict().items():
        assert (values == again.predict()[name]).all()


def test_each_training_has_checkpoints_of_its_own(tmp_path):
    """In one folder: the same again goes on from them, one of other values does not, as that of a backtest."""
    trained: list[float] = []
    watch = Watch(tmp_path, lambda share, *_: trained.append(share))
    counts = []
    for values in (VALUES, VALUES, VALUES[:-2]):
        trained.clear()
        Forecaster(2, 1, window=8, hidden=(3,), steps=4, seeds=1).fit(values, watch=watch)
        counts.append(len(trained))
    assert counts[0] > 0 and counts[1] == 0 and counts[2] > 0


def test_a_training_is_another_one_with_other_series_or_settings(tmp_path):
    days = np.datetime64("2024-01-01") + np.arange(30)
    frame = {"ds": np.append(days, days[-1] + 1), "y": np.arange(31.0), "x": np.arange(31.0)}
    frame["y"][-1] = np.nan

    def folder(name: str = "", place: int = 0, value: float = 99, **options: Any) -> Path:
        changed = frame | ({name: np.where(np.arange(31) == place, value, frame[name])} if name else {})
        panel = read_panel(changed, columns=Columns(future=("x",)))
        found = Watch(tmp_path).of(Forecaster(1, 7, future_columns="x", **options).settings, panel).folder
        assert found is not None and found.parent == tmp_path
        return found

    same = folder(), folder("x", 30), folder(quantiles=0.3)  # what comes after the values is not learned
    others = folder("y", 3), folder("y", 3, np.nan), folder("x", 29), folder(learning_rate=0.1), folder(steps=7)
    assert len({*same}) == 1 and len({same[0], *others}) == 6
    assert Watch().of(Forecaster(1).settings, []).folder is None


def test_a_backtest_whose_training_was_stopped_has_no_result(monkeypatch):
    def fit(self, *_args, **_options):
        self.stopped = "terminated"
        return self

    monkeypatch.setattr(Forecaster, "fit", fit)
    with pytest.raises(TrainingStopped, match="the training was terminated"):
        Forecaster(2, 1).backtest(VALUES)
