"""Trainings that are watched: an interrupted one goes on from its checkpoints and ends with the same bits."""

import os
import signal

import numpy as np
import pytest

from jaxrnn.forecasting import Forecaster, TrainingStopped, Watch

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


def test_a_backtest_whose_training_was_stopped_has_no_result(monkeypatch):
    def fit(self, *_args, **_options):
        self.stopped = "terminated"
        return self

    monkeypatch.setattr(Forecaster, "fit", fit)
    with pytest.raises(TrainingStopped, match="the training was terminated"):
        Forecaster(2, 1).backtest(VALUES)
