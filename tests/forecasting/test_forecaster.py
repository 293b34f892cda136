"""Forecasts of many steps of many series: what is read, forecast, promised, stored and refused."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.forecasting import Forecaster, read_panel, smape
from jaxrnn.forecasting.as_known import shortened
from jaxrnn.forecasting.calibration import MIXTURES, Calibration
from jaxrnn.forecasting.forecaster import LEVELS
from jaxrnn.forecasting.panel_smoothing import RATES, smoothing_forecasts, smoothing_states
from jaxrnn.forecasting.windows import Windows

STEPS = np.arange(140)
RANDOM = np.random.RandomState(0)


def wave(count: int, level: float) -> np.ndarray:
    return level * (10 + 3 * np.sin(2 * np.pi * STEPS[:count] / 6) + 0.02 * STEPS[:count] + RANDOM.randn(count))


PANEL = {f"s{i}": wave(60 + i, 10.0 ** (i % 4)) for i in range(40)}
SMALL: dict[str, Any] = dict(hidden=(8,), steps=150, seeds=1, window=18)


@pytest.fixture(scope="module")
def fitted() -> Forecaster:
    return Forecaster(4, 6, **SMALL).fit(PANEL)


def test_windows_equal_a_loop():
    values = {"long": RANDOM.randn(20) + 5, "calm": 1e4 + 0.1 * RANDOM.randn(20), "short": RANDOM.randn(5) + 5}
    panel = read_panel(values)
    windows = Windows.of(panel, window=8, horizon=5, season=3, usual_noise=0.3)
    for name, end, count in zip(values, windows.ends, windows.lengths):
        x = values[name]
        for t in range(count):
            place = end - count + 1 + t
            base = [x[t + h - 3 * -(-h // 3)] if t + h - 3 * -(-h // 3) >= 0 else x[t] for h in range(1, 6)]
            np.testing.assert_allclose(windows.base[place], base)
            changes = [abs(x[s] - x[s - 3]) for s in range(max(3, t - 7), t + 1)]
            size, known = np.abs(x[max(0, t - 7) : t + 1]).mean(), min(max(t - 2, 0), 3) / 3
            noise = known * (np.mean(changes) if changes else 0.0) + (1 - known) * 0.3 * size
            assert windows.noise[place] == pytest.approx(noise)
            size = np.abs(x[max(0, t - 7) : t + 1]).mean()
            assert windows.scale[place] == pytest.approx(min(max(size / 5, noise / 4), 5 * noise))
            ahead = [x[t + h] if t + h < count else np.nan for h in range(1, 6)]
            found = windows.last[place] + windows.scale[place] * windows.targets[place].astype(np.float64)
            np.testing.assert_allclose(found, ahead, rtol=1e-5)
            assert windows.features[place, 3] == pytest.approx(x[max(0, t - 2) : t + 1].mean() - x[0], abs=1e-3)
        assert not windows.features[end - count - 6 : end - count + 1].any()  # the empty steps before it


def test_the_smoothings_equal_a_loop():
    season, horizon, series = 4, 6, [RANDOM.randn(30).cumsum(), RANDOM.randn(3)]
    states = smoothing_states(series, season)
    forecasts = smoothing_forecasts(jnp.stack([states[0][-7:], states[0][-12:-5]]), horizon, season)
    assert [len(one) for one in states] == [30, 3] and np.isfinite(states[1]).all()
    for number, (level_rate, trend_rate, damping, season_rate) in enumerate(RATES):
        for row, stop in enumerate((30, 25)):
            x = series[0][:stop]
            level, trend, seasonal = x[:season].mean(), 0.0, list(x[:season] - x[:season].mean())
            for t in range(season, stop):
                error = x[t] - level - damping * trend - seasonal[t - season]
                level, trend = level + damping * trend + level_rate * error, damping * trend
                trend += level_rate * trend_rate * error
                rate = max(season_rate, 1 / (t // season + 1)) * (1 - level_rate)
                seasonal.append(seasonal[t - season] + rate * error)
            for h in range(1, horizon + 1):
                rise = sum(damping**k for k in range(1, h + 1)) * trend
                expected = level + rise + seasonal[stop - 1 + h - season * -(-h // season)]
                assert forecasts[row, h - 1, number] == pytest.approx(expected, abs=1e-4)


def test_each_network_leaves_out_other_values():
    one = Windows.of(read_panel({"a": 1 + np.arange(100.0)}), window=6, horizon=4, season=3)
    held = np.concatenate([one.held_out(3, number, 3) for number in range(3)])
    assert held.tolist() == [[25, 50], [50, 75], [75, 100]]
    targets = one.without(held[1:2])
    for t in range(100):  # the series begins after five empty steps
        for h in range(1, 5):
            hidden = t + h >= 100 or 50 <= t + h < 75
            assert np.isnan(targets[5 + t, h - 1]) == hidden, (t, h)
    assert (one.judged(held[1:2]) == 5 + np.arange(49, 71)).all() and one.periods(3 * 22) == 16.5
    many = Windows.of(read_panel(PANEL), window=6, horizon=4, season=3)
    ends = [many.held_out(3, number, 3) for number in range(3)]
    counts = np.sum([part[:, 1] - part[:, 0] for part in ends], axis=0)
    assert (counts == 4).all() and many.periods(40) == 1
    short = Windows.of(read_panel({"a": np.arange(10.0)}), window=6, horizon=4, season=3)
    assert not len(short.judged(short.held_out(3, 0, 3)))


def test_a_forecast_has_the_promised_columns_and_is_better_than_seasonal_naive(fitted):
    forecast = fitted.predict()
    assert list(forecast) == ["unique_id", "ds", "yhat", "lo-80", "hi-80", "lo-95", "hi-95"]
    assert forecast["unique_id"][::4].tolist() == list(PANEL) and forecast["ds"][:4].tolist() == [60, 61, 62, 63]
    for low, high in (("lo-95", "lo-80"), ("lo-80", "yhat"), ("yhat", "hi-80"), ("hi-80", "hi-95")):
        assert (forecast[low] <= forecast[high]).all()
    tested = fitted.backtest(origins=3)["metrics"]
    assert tested["model"]["mase"] < 0.9 * tested["seasonal_naive"]["mase"]
    assert 0.7 < tested["model"]["coverage_80"] < 0.9 and tested["model"]["coverage_95"] > 0.88


def test_paths_keep_the_quantiles_of_the_forecast_and_the_series_keep_their_names(fitted):
    forecast, paths = fitted.predict(), fitted.sample(4000, seed=3)
    assert list(paths) == list(PANEL) and paths["s0"].shape == (4000, 4)
    width = (forecast["hi-95"] - forecast["lo-95"]).reshape(len(PANEL), 4)
    for column, level in (("lo-80", 0.1), ("yhat", 0.5), ("hi-80", 0.9)):
        found = np.stack([np.quantile(one, level, axis=0) for one in paths.values()])
        assert (np.abs(found - forecast[column].reshape(len(PANEL), 4)) < 0.05 * width).all()
    again = fitted.sample(4000, {"other": PANEL["s0"]}, seed=3)["other"]
    np.testing.assert_allclose(again, paths["s0"], rtol=1e-5)  # alone: sums of a smaller batch round differently
    with pytest.raises(ValueError, match="count must be a positive integer, not 0"):
        fitted.sample(0)


def test_what_comes_after_an_origin_changes_no_forecast_from_it(fitted):
    changed = {name: np.concatenate([values[:-7], -values[-7:]]) for name, values in PANEL.items()}
    one, other = (fitted.backtest(frame, origins=4, refit=False)["rows"] for frame in (PANEL, changed))
    first = one["origin"] == np.repeat([len(values) - 8 for values in PANEL.values()], 16)
    assert first.sum() == 4 * len(PANEL) and (one["yhat"][first] == other["yhat"][first]).all()
    assert (one["yhat"][~first] != other["yhat"][~first]).any()
    expected = np.concatenate([values[-7:-3] for values in PANEL.values()])
    np.testing.assert_allclose(one["y"][first], expected, rtol=1e-5)


def test_from_an_origin_without_a_value_nothing_is_learned_or_judged(fitted):
    values = PANEL["s0"].copy()
    values[-6] = np.nan  # the second of three origins
    windows = Windows.of(read_panel({"a": values}), window=6, horizon=4, season=6)
    unknown = np.isnan(windows.targets[5:])
    assert unknown[-6].all() and not unknown[-5, :].all() and unknown[-7, 0] and not unknown[-7, 1:].any()
    tested = fitted.backtest({"a": values}, origins=3, refit=False)
    y, yhat = (tested["rows"][name].reshape(3, 4) for name in ("y", "yhat"))
    assert np.isfinite(y).tolist() == [[False, True, True, True], [True] * 4, [True] * 4]
    judged = tested["rows"]["judged"].reshape(3, 4)
    assert judged.tolist() == [[False, True, True, True], [False] * 4, [True] * 4]
    assert tested["metrics"]["model"]["smape"] == pytest.approx(smape(np.where(judged, y, np.nan), yhat))
    one, other = (shortened(read_panel({"a": given})[0], len(values) - 5) for given in (values, -values))
    assert one.values[-1] == one.values[-2] and other.values[-1] == other.values[-2]


def test_the_unit_of_a_series_does_not_matter(fitted):
    one, other = (fitted.predict({"a": scale * PANEL["s3"]}) for scale in (1.0, 512.0))
    np.testing.assert_allclose(512 * one["yhat"], other["yhat"], rtol=1e-4)


def test_new_rows_and_new_series_of_any_length_are_forecast_and_the_model_can_be_stored(fitted, tmp_path):
    fresh = {
        "short": np.array([3.0, 4.0]),
        "one": np.array([7.0]),
        "constant": np.full(50, 2.0),
        "zero": np.zeros(30),
    }
    fresh["outlier"] = PANEL["s0"].copy()
    fresh["outlier"][20] = 1e9
    forecast = fitted.predict(fresh)
    assert all(np.isfinite(forecast[name]).all() for name in ("yhat", "lo-95", "hi-95"))
    np.testing.assert_allclose(forecast["yhat"][8:12], 2, atol=0.2)
    width = (forecast["hi-80"] - forecast["lo-80"]).reshape(-1, 4)[:, 0]
    usual = fitted.predict({"a": PANEL["s0"] + 1e6, "b": PANEL["s0"]})  # varies little beside its level, and much
    calm, restless = (usual["hi-80"] - usual["lo-80"]).reshape(-1, 4)[:, 0]
    assert 0.1 * restless < calm < 10 * restless
    own = fitted.predict()
    share = np.mean((own["hi-80"] - own["lo-80"])[::4]) / np.mean(
        [np.abs(values).mean() for values in PANEL.values()]
    )
    assert width[1] / 7 > 0.3 * share  # of a single row nothing is known but its size
    fitted.save(tmp_path / "model")
    again = Forecaster.load(tmp_path / "model")
    assert (again.predict(fresh)["yhat"] == forecast["yhat"]).all() and again.settings == fitted.settings
    with pytest.raises(ValueError, match="a loaded model keeps no series"):
        again.predict()
    with pytest.raises(ValueError, match="a loaded model keeps no series: give backtest the series"):
        again.backtest()
    with pytest.raises(FileNotFoundError, match="holds no forecaster"):
        Forecaster.load(tmp_path)


def test_the_long_format_has_dates_gaps_and_missing_values():
    days = np.datetime64("2024-01-01") + np.array([4, 0, 1, 3])
    frame = {"unique_id": ["b"] * 4 + ["a"], "ds": [*days.astype(str), "2024-05-01"], "y": [5.0, 1, np.nan, 4, 9]}
    second, first = sorted(read_panel(frame), key=lambda one: one.name)
    assert first.values.tolist() == [1, 2, 3, 4, 5] and first.observed.tolist() == [True, False, False, True, True]
    assert first.step.after(first.times[-1], 1)[0] == np.datetime64("2024-01-06")
    assert second.name == "a" and second.values.tolist() == [9]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            {"unique_id": ["a", "a"], "ds": ["2024-01-01"] * 2, "y": [1.0, 2.0]},
            "series 'a': rows 0 and 1 have the same ds, 2024-01-01. Keep one row",
        ),
        ({"unique_id": ["a"], "ds": ["soon"], "y": [1.0]}, "ds must hold dates or whole numbers, not 'soon'"),
        ({"a": np.array([1.0, np.inf])}, "series 'a': y must be"),
        ({"a": np.array(["1", "x"])}, "y must hold numbers, but row 1, of series 'a', holds 'x'"),
        (
            {"ds": ["2024-01-01"] * 2, "y": ["1", "NA"]},
            "y must hold numbers, but row 1, of series 'value', holds 'NA'",
        ),
        (
            {"ds": ["2024-01-30", "2024-01-31", "2024-02-30"], "y": [1.0, 2.0, 3.0]},
            "ds, in row 2, holds '2024-02-30', which is not a date",
        ),
        ({}, "the dictionary holds no series: give it names and arrays of values"),
        ("sales.csv", "given as a frame or arrays: read the file 'sales.csv' first"),
        (np.ones((9, 2)), r"'value': y must be \[time\], one value for each step, not values.shape=\(9, 2\)"),
        (
            {"a": np.array([1.0])},
            "no series is long enough to learn from: the longest has one step",
        ),
    ],
)
def test_what_cannot_be_read_names_the_series(frame, message):
    with pytest.raises(ValueError, match=message):
        Forecaster(4, **SMALL).fit(frame)


def test_invalid_arguments_are_refused(fitted):
    with pytest.raises(ValueError, match="horizon must be a positive integer, not 0"):
        Forecaster(0)
    with pytest.raises(ValueError, match="unknown cell 'rnn'; available: gru, lstm"):
        Forecaster(1, cell="rnn")
    with pytest.raises(ValueError, match="the model is not fitted"):
        Forecaster(1).predict()
    with pytest.raises(ValueError, match="the model is not fitted"):
        Forecaster(1).backtest()
    with pytest.raises(ValueError, match="origins=200 and horizon=4 need series of at least 206 steps"):
        fitted.backtest(origins=200)
    with pytest.raises(ValueError, match="horizon=4 need values before the last 4 steps, but no series of that"):
        fitted.backtest(np.r_[[np.nan] * 50, [1.0, 2, 3, 4]])


def test_a_model_that_never_saw_negative_values_says_so(fitted):
    with pytest.raises(ValueError, match="series 'value' has values below 0, but this model never forecasts any"):
        fitted.predict(wave(40, 0.0) - 500)
    with pytest.raises(ValueError, match="series 'value' has values below 0, but this model never forecasts any"):
        fitted.backtest(wave(40, 0.0) - 500, refit=False)
    with pytest.raises(ValueError, match="series 'value' has values below 0, but this model never forecasts any"):
        fitted.measure(wave(40, 0.0) - 500, np.zeros((1, 4)), np.ones(1))
    later = np.append(wave(40, 1.0), [-5.0] * 4)  # after the origin
    assert (fitted.backtest(later, refit=False)["rows"]["yhat"] >= 0).all()


@pytest.mark.parametrize(("horizon", "length"), [(5, 10), (20, 24)])
def test_a_backtest_of_a_very_short_series_ends(horizon, length):
    model = Forecaster(horizon, 1, steps=2, seeds=1, hidden=(4,))
    assert len(model.backtest(np.random.default_rng(0).normal(size=length))["rows"]["yhat"]) == horizon


def test_calibrated_quantiles_lie_where_their_levels_say():
    targets = 3 * RANDOM.randn(900, 2)
    narrow = np.broadcast_to(np.linspace(-0.5, 0.5, len(LEVELS)), (900, 2, len(LEVELS)))
    simple = np.zeros((900, 2, 2))
    calibration = Calibration.of(narrow[:600], simple[:600], targets[:600], LEVELS)
    after = calibration.apply(narrow[600:], simple[600:], LEVELS)
    below = (targets[600:, :, None] <= after).mean(axis=(0, 1))
    np.testing.assert_allclose(below, LEVELS, atol=0.05)
    again = Calibration.from_json(calibration.to_json())
    assert (again.apply(narrow, simple, LEVELS) == calibration.apply(narrow, simple, LEVELS)).all()
    half = Calibration.of(narrow, simple, targets, LEVELS, periods=2.0).shifts
    np.testing.assert_allclose(2 * half, Calibration.of(narrow, simple, targets, LEVELS).shifts)


@pytest.mark.parametrize("shares", MIXTURES)
def test_the_mixture_is_the_one_with_the_lowest_error(shares):
    # The target is the mixture of three forecasts that have nothing in common.
    network, smooth, naive = 3 * RANDOM.randn(3, 300, 1)
    targets = shares[0] * network + shares[1] * smooth + shares[2] * naive + 0.1 * RANDOM.randn(300, 1)
    spread = np.linspace(-0.1, 0.1, len(LEVELS))
    given = network[..., None] + spread, np.stack([smooth, naive], axis=-1), targets, LEVELS
    assert Calibration.of(*given, periods=9.0).shares == shares
    few = Calibration.of(*given, periods=1.0)
    assert few.shares == (0.75, 0.25, 0.0) and not few.errors  # one period does not say enough
    middle = Calibration.of(*given, periods=9.0).apply(*given[:2], LEVELS)[..., LEVELS.index(0.5)]
    np.testing.assert_allclose(middle, targets, atol=0.6)


def test_intervals_of_one_series_hold_on_values_that_came_later():
    random, steps = np.random.RandomState(1), np.arange(420)
    series = 30 + 0.02 * steps + 3 * np.sin(2 * np.pi * steps / 7) + random.randn(420)
    model = Forecaster(7, 7, seeds=3, hidden=(8,), steps=100, window=14).fit({"a": series[:300]})
    tested = model.backtest({"a": series}, origins=114, refit=False)["metrics"]["model"]
    assert 0.72 < tested["coverage_80"] < 0.9 and 0.9 < tested["coverage_95"] < 1, tested
    assert model.calibration is not None and model.calibration.origins == 3 * (75 - 6)


def test_a_pattern_that_repeats_exactly_for_long_has_intervals_of_its_size():
    """In windows where nothing has changed for a season, the unit of errors is nearly nothing."""
    values = (np.sin(np.arange(100) * 2 * np.pi / 7) + 10 > 10).astype(float)  # with a few changes by rounding
    assert 0 < (values[7:] != values[:-7]).sum() < 10
    forecast = Forecaster(3, season=7, **SMALL).fit(values).predict()
    assert np.abs([forecast["lo-95"], forecast["hi-95"]]).max() < 5
