"""What is known in advance: calendar, columns, their effects, and where networks find them in a window."""

from typing import Any

import numpy as np
import pytest

from jaxrnn.data import Step
from jaxrnn.forecasting import Columns, Forecaster, read_panel
from jaxrnn.forecasting.as_known import AsKnown
from jaxrnn.forecasting.autoregression import Autoregression
from jaxrnn.forecasting.calendar_features import calendar_features
from jaxrnn.forecasting.covariates import Encoder
from jaxrnn.forecasting.effects import Effects
from jaxrnn.forecasting.known import Known
from jaxrnn.forecasting.simple import simple_forecasts
from jaxrnn.forecasting.windows import FEATURES

SERIES, COUNT, HORIZON = 12, 90, 4
EFFECT, NOISE = 0.6, 0.04


def promotions(seed: int) -> dict[str, Any]:
    """Shops of different sizes, with a weekly season and promotions on random days."""
    random, steps = np.random.RandomState(seed), np.arange(COUNT)
    size = 10.0 ** random.uniform(0, 3, (SERIES, 1))
    promo = (random.rand(SERIES, COUNT) < 0.2).astype(float)
    season = 1 + 0.3 * np.sin(2 * np.pi * steps / 7)
    y = size * (season + EFFECT * promo + NOISE * random.randn(SERIES, COUNT))
    return {
        "unique_id": np.repeat([f"s{i}" for i in range(SERIES)], COUNT),
        "ds": np.tile(np.datetime64("2024-01-01") + steps, SERIES),
        "y": y.ravel(),
        "promo": promo.ravel(),
        "visitors": y.ravel(),
        "region": np.repeat(["north", "south"] * (SERIES // 2), COUNT),
    }


FRAME = promotions(0)
SMALL: dict[str, Any] = dict(hidden=(4,), steps=60, seeds=1, window=14, calendar=False)


@pytest.fixture(scope="module")
def fitted() -> Forecaster:
    columns: dict[str, Any] = dict(future_columns=["promo"], past_columns=["visitors"], static_columns=["region"])
    return Forecaster(HORIZON, 7, **{**SMALL, "calendar": True}, **columns, quantiles=[0.05, 0.5]).fit(FRAME)


def ahead(promo: float) -> dict[str, Any]:
    names = [f"s{i}" for i in range(SERIES)]
    days = np.datetime64("2024-01-01") + np.arange(COUNT, COUNT + HORIZON)
    return {
        "unique_id": np.repeat(names, HORIZON),
        "ds": np.tile(days, SERIES),
        "promo": np.full(SERIES * HORIZON, promo),
    }


def test_a_column_that_is_known_in_advance_halves_the_error_and_more(fitted):
    """The oracle: without the column, each promotion of the horizon is missed by its effect on most days."""
    with_column = fitted.backtest(FRAME, origins=5, refit=False)["metrics"]
    without = Forecaster(HORIZON, 7, **SMALL).backtest(FRAME, origins=5)["metrics"]
    assert with_column["model"]["mase"] < 0.5 * without["model"]["mase"]
    assert with_column["model"]["mase"] < 0.5 * min(without[n]["mase"] for n in ("seasonal_naive", "naive", "ar"))


def test_the_simple_forecasts_that_a_measure_compares_with_are_those_of_the_whole_values(fitted):
    values = FRAME["y"].reshape(SERIES, COUNT)
    rows = {name: np.reshape(column, (SERIES, COUNT))[:, :-HORIZON].ravel() for name, column in FRAME.items()}
    found = fitted.measure(rows, values[:, -HORIZON:], np.ones(SERIES))["seasonal_naive"]["mase"]
    assert found == pytest.approx(np.abs(values[:, -HORIZON:] - values[:, -HORIZON - 7 : -7]).mean())


def test_a_promotion_ahead_adds_its_effect(fitted):
    none, all_days = (fitted.predict(future=ahead(promo)) for promo in (0.0, 1.0))
    size = np.array([np.median(FRAME["y"].reshape(SERIES, COUNT)[i]) for i in range(SERIES)]).repeat(HORIZON)
    added = (all_days["yhat"] - none["yhat"]) / size
    assert added.mean() == pytest.approx(EFFECT, rel=0.2)
    assert list(none)[-2:] == ["q-0.05", "q-0.5"] and (none["q-0.5"] == none["yhat"]).all()
    assert ((none["lo-95"] <= none["q-0.05"]) & (none["q-0.05"] <= none["lo-80"])).all()


def test_a_stored_model_reads_columns_of_new_series_and_refuses_a_horizon_without_values(fitted, tmp_path):
    fitted.save(tmp_path)
    again = Forecaster.load(tmp_path)
    assert again.settings == fitted.settings and again.season_choice is None
    (again_ahead, before) = (model.predict(FRAME, future=ahead(1.0)) for model in (again, fitted))
    assert all((again_ahead[name] == before[name]).all() for name in before)
    with pytest.raises(
        ValueError, match="series 's0': the column 'promo' has no value at 2024-03-31, step 1 of the 4"
    ):
        again.predict(FRAME)
    fresh = {"unique_id": ["new"] * 9, "ds": np.arange("2024-05-01", "2024-05-10", dtype="datetime64[D]")}
    fresh |= {
        "y": [5.0, 6, 5, 6, 5] + [np.nan] * 4,
        "promo": [0.0] * 9,
        "visitors": [1.0] * 9,
        "region": ["west"] * 9,
    }
    forecast = again.predict(fresh)
    assert forecast["ds"][0] == np.datetime64("2024-05-06") and np.isfinite(forecast["yhat"]).all()
    (tmp_path / "forecaster.json").write_text("{}")
    with pytest.raises(ValueError, match=r"forecaster\.json is damaged, or was written by another version"):
        Forecaster.load(tmp_path)


def test_what_comes_after_the_first_origin_changes_no_forecast_from_it(fitted):
    changed = {**FRAME, "y": FRAME["y"].reshape(SERIES, COUNT).copy(), "visitors": FRAME["visitors"].copy()}
    changed["y"][:, -6:] *= 3
    changed["y"] = changed["y"].ravel()
    changed["visitors"].reshape(SERIES, COUNT)[:, -6:] *= 3
    one, other = (fitted.backtest(frame, origins=3, refit=False)["rows"] for frame in (FRAME, changed))
    first = one["origin"] == COUNT - 7
    np.testing.assert_array_equal(one["yhat"][first], other["yhat"][first])
    assert (one["yhat"][~first] != other["yhat"][~first]).any()


def test_the_windows_hold_what_a_loop_finds():
    panel = read_panel(FRAME, columns=Columns(future=("promo",), past=("visitors",), static=("region",)))[:3]
    known = Known.fit(panel, Columns(("promo",), ("visitors",), ("region",)), calendar=True, season=7)
    windows = known.windows(panel, window=10, horizon=HORIZON, season=7)
    assert known.effects.used and windows.offset is not None
    ahead, past = known.covariates.future_size, known.covariates.past_size
    assert (ahead, past) == (5, 5 + 1 + 2) and windows.features.shape[1] == FEATURES + past + ahead
    promo = known.covariates.encoders["promo"]
    for end, one in zip(windows.ends, panel):
        for t in (0, 20, COUNT - HORIZON - 1):
            place = end - COUNT + 1 + t
            window = windows.features[place - 9 : place + 1]
            known_ahead = window[-HORIZON:, FEATURES + past :]
            flags = (one.future["promo"][t + 1 : t + 1 + HORIZON] - promo.mean) / promo.deviation
            np.testing.assert_allclose(known_ahead[:, 0], flags, rtol=1e-5)
            days = one.times[t + 1 : t + 1 + HORIZON]
            np.testing.assert_allclose(
                known_ahead[:, 1:], calendar_features(days, ["weekday", "month"]), atol=1e-6
            )
            regions = window[-1, FEATURES + ahead + 1 : FEATURES + past].tolist()
            assert regions == [one.name in ("s0", "s2"), one.name == "s1"]
            # Whatever is taken out of the values, base, target and offset together are the value.
            assert windows.offset is not None
            target = windows.scale[place] * windows.targets[place].astype(np.float64)
            found = windows.last[place] + target + windows.offset[place]
            np.testing.assert_allclose(found, one.values[t + 1 : t + 1 + HORIZON], rtol=1e-4)


def test_the_effects_of_a_regression_are_those_that_made_the_series():
    panel = read_panel(FRAME, columns=Columns(future=("promo",)))
    columns = [one.future["promo"][:, None] for one in panel]
    effects = Effects.fit(panel, columns, 7)
    assert effects.used and effects.error < 0.6 * effects.error_without
    for one, column in zip(panel, columns):
        unit, pull = effects.of(one, column)
        assert (unit[:-1] * pull)[column[:, 0] == 1].mean() == pytest.approx(
            EFFECT * np.median(one.values), rel=0.2
        )
        assert not pull[column[:, 0] == 0].any()
    noise = [np.random.RandomState(1).randn(COUNT, 1) for _ in panel]
    unrelated = Effects.fit(panel, noise, 7)
    assert abs(unrelated.coefficients[0]) < 0.02
    assert not Effects.fit(panel, [np.zeros((COUNT, 0))] * len(panel), 7).used


def test_numbers_are_standardised_and_texts_have_a_number_each():
    numbers = Encoder.fit("z", np.array([1.0, 3.0, np.nan]))
    assert numbers.encode(np.array([1.0, np.nan, 1e9]))[:, 0].tolist() == [-1, 0, 5]
    texts = Encoder.fit("z", np.array(["a", "b", ""]))
    assert texts.encode(np.array(["b", "new", ""])).tolist() == [[0, 1], [0, 0], [0, 0]]
    with pytest.raises(ValueError, match="'z' holds 101 different texts"):
        Encoder.fit("z", np.array([str(i) for i in range(101)]))


def test_simple_forecasts_equal_loops():
    random = np.random.RandomState(0)
    values = np.zeros(80)
    for t in range(2, 80):
        values[t] = 1.2 * values[t - 1] - 0.5 * values[t - 2] + 0.01 * random.randn()
    (one,) = read_panel(values)
    found = simple_forecasts([AsKnown(one, 71 + np.arange(4))], horizon=6, season=3)
    model = Autoregression.fit(values[:71], lags=tuple(range(1, 24)))
    assert model is not None
    for origin in range(4):
        place = 80 - 9 + origin
        np.testing.assert_array_equal(found["naive"][origin], np.full(6, values[place - 1]))
        np.testing.assert_array_equal(found["seasonal_naive"][origin], np.resize(values[place - 3 : place], 6))
        path = list(values[:place])
        for _ in range(6):
            path.append(model.intercept + np.array(path[:-24:-1]) @ np.array(model.coefficients))
        np.testing.assert_allclose(found["ar"][origin], path[place:])


def test_roles_levels_and_signs_are_checked():
    with pytest.raises(ValueError, match="the column 'y' has two roles"):
        Forecaster(1, past_columns=["y"])
    with pytest.raises(ValueError, match=r"quantiles must be levels from 0.01 to 0.99, for example 0.05, not 5"):
        Forecaster(1, quantiles=[5])
    with pytest.raises(ValueError, match="series 'value' holds -1 at 3, but non_negative says"):
        Forecaster(1, non_negative=True).fit(np.array([1.0, 2, 3, -1, 5]))
    with pytest.raises(ValueError, match="future= needs a model with future_columns"):
        model = Forecaster(1, 1)
        model.calibration = object()  # type: ignore[assignment]
        model.predict(np.arange(5.0), future={})


def test_steps_of_numbers_have_no_calendar():
    panel = read_panel({"ds": [1, 2, 3], "y": [1.0, 2, 3]})
    assert panel[0].step == Step("steps", 1)
    assert not Known.fit(panel, Columns(), calendar=True, season=1).covariates.phases
