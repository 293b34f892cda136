"""Trainings that are watched: an interrupted one goes on from its checkpoints and ends with the same bits."""

import os
import signal

import numpy as np
import pytest

from jaxrnn.forecasting import Forecaster, TrainingStopped, Watch

VALUES = 10 + np.sin(np.arange(70) / 2) + 0.1 * np.random.RandomState(0).randn(70)


def test_an_interrupted_training_ends_with_the_same_bits(quick_compilation, tmp_path):
    shares: list[float] = []

    def report(share: float, number: int, count: int) -> None:
        shares.append(share)
        assert count == 2
        if number == 2 and share > 0.7 and not interrupted:
            interrupted.append(True)
            os.kill(os.getpid(), signal.SIGINT)

    def model() -> Forecaster:
        return Forecaster(2, 1, window=8, hidden=(3,), steps=20, seeds=2)

    interrupted: list[bool] = [True]
    whole = model().fit(VALUES, watch=Watch(tmp_path / "whole", report))
    assert shares == sorted(shares) and shares[0] == 0 and 0.8 < shares[-1] < 1 and whole.stopped is None
    interrupted.clear()
    partly = model().fit(VALUES, watch=Watch(tmp_path / "parts", report))
    assert partly.stopped == "interrupted" and (partly.predict()["yhat"] != whole.predict()["yhat"]).any()
    shares.clear()
    again = model().fit(VALUES, watch=Watch(tmp_path / "parts", report))
    assert again.stopped is None and shares[0] > 0.5  # the first network is not trained again
    for name, values in whole.predict().items():
        assert (values == again.predict()[name]).all()
    interrupted.clear()
    with pytest.raises(TrainingStopped, match="the training was interrupted"):
        again.backtest(watch=Watch(None, report))
