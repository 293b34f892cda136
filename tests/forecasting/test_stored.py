"""What a forecaster keeps: after a fit that fails, in a folder, and of arguments of any number type."""

import json
from typing import Any

import numpy as np
import pytest

from jaxrnn.forecasting import Forecaster

SMALL: dict[str, Any] = dict(steps=4, seeds=1, hidden=(4,))
VALUES = 10 + np.sin(np.arange(60) * 2 * np.pi / 7)


def test_a_fit_that_fails_leaves_the_model_as_it_was():
    model = Forecaster(3, **SMALL).fit(VALUES)
    before = model.predict()
    for useless in (np.array([1.0]), np.array(["x"])):
        with pytest.raises(ValueError, match=r"long enough|must hold numbers"):
            model.fit(useless)
        assert (model.predict()["yhat"] == before["yhat"]).all()
    assert len(model.fit(np.array([1.0, 2.0])).predict()["yhat"]) == 3  # two steps are enough


def test_arguments_may_be_numbers_of_numpy(tmp_path):
    given: dict[str, Any] = dict(
        horizon=np.int64(3),
        quantiles=np.array([0.05]),
        season=np.int64(7),
        window=np.int32(14),
        hidden=np.array([4]),
        steps=np.int64(4),
        seeds=np.uint8(1),
    )
    given |= dict(
        seed=np.int64(1), learning_rate=np.float32(1e-3), non_negative=np.bool_(True), calendar=np.bool_(False)
    )
    model = Forecaster(**given).fit(VALUES)
    model.save(tmp_path)
    assert (Forecaster.load(tmp_path).predict(VALUES)["yhat"] == model.predict()["yhat"]).all()


def test_a_model_that_cannot_be_stored_leaves_no_folder(tmp_path):
    model = Forecaster(3, **SMALL).fit(VALUES)
    object.__setattr__(model.settings, "steps", object())
    with pytest.raises(TypeError):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("level", [None, "0.1", True, 0.001, np.nan])
def test_an_invalid_level_is_shown(level):
    with pytest.raises(ValueError, match=r"quantiles must be levels from 0.01 to 0.99, for example 0.05, not"):
        Forecaster(1, quantiles=[level])
    with pytest.raises(ValueError, match="seed must be an integer, not 'x'"):
        Forecaster(1, seed="x")  # pyright: ignore[reportArgumentType]


def test_a_loaded_model_finds_again_what_was_not_given(tmp_path):
    Forecaster(3, **SMALL).fit(VALUES).save(tmp_path)
    loaded = Forecaster.load(tmp_path)
    assert loaded.settings.non_negative and loaded.settings.season == 7
    noise = np.random.RandomState(0).randn(60)
    assert not loaded.fit(noise).settings.non_negative
    assert loaded.settings == Forecaster(3, **SMALL).fit(noise).settings


def test_a_folder_without_what_was_given_is_loaded(tmp_path):
    model = Forecaster(3, **SMALL).fit(VALUES)
    model.save(tmp_path)
    path = tmp_path / "forecaster.json"
    record = json.loads(path.read_text())
    del record["given"], record["known"]["utc_offset"]
    path.write_text(json.dumps(record))
    assert (Forecaster.load(tmp_path).predict(VALUES)["yhat"] == model.predict()["yhat"]).all()
