"""Averages of simple forecasts: each method equals a loop, nothing reads later values, odd series are survived."""

import json

import numpy as np
import pytest

from jaxrnn.data import autoregressive_forecast
from jaxrnn.forecasting import Combination
from jaxrnn.forecasting.autoregression import Autoregression, robust_ridge
from jaxrnn.forecasting.smoothing import Smoothing

RANDOM = np.random.RandomState(0)
STEPS = np.arange(240)
WAVE = 50 + 0.1 * STEPS + 8 * np.sin(2 * np.pi * STEPS / 12) + RANDOM.randn(240)
WALK = 100 + np.cumsum(RANDOM.randn(240))


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("differences", [(), (1,), (12,), (1, 12)], ids=str)
def test_an_autoregression_equals_a_loop(differences, log):
    model = Autoregression((1, 2, 5), (0.5, -0.2, 0.1), 0.01, log, differences)
    z = np.log(WAVE) if log else WAVE

    def base(t):
        earlier = [z[t - lag] for lag in differences]
        return sum(earlier) - (z[t - sum(differences)] if len(differences) == 2 else 0)

    first = 5 + sum(differences)
    for t in range(first, 241, 17):
        w = {lag: z[t - lag] - base(t - lag) for lag in model.lags}
        expected = base(t) + 0.01 + sum(c * w[lag] for c, lag in zip(model.coefficients, model.lags))
        assert model.forecast(WAVE)[t] == pytest.approx(np.exp(expected) if log else expected, rel=1e-9)
    assert np.isnan(model.forecast(WAVE)[:first]).all() and len(model.forecast(WAVE)) == 241


def test_the_penalty_is_the_one_with_the_lowest_error_of_left_out_rows():
    """Against a loop that leaves out each row, for the penalties that are tried."""
    rows, few = RANDOM.randn(30, 6), 30
    targets = rows @ np.array([1.0, -1, 0, 0, 0, 0]) + 0.5 * RANDOM.randn(30)
    centred = rows - rows.mean(axis=0)
    largest = np.linalg.eigvalsh(centred.T @ centred)[-1]

    def fitted(kept, penalty):
        x, y = rows[kept], targets[kept]
        c = x - x.mean(axis=0)
        b = np.linalg.solve(c.T @ c + penalty * np.eye(6), c.T @ (y - y.mean()))
        return b, y.mean() - x.mean(axis=0) @ b

    errors = {}
    for share in (1e-3, 1e-2, 0.1, 1.0, 10.0):
        left_out = []
        for i in range(few):
            b, intercept = fitted(np.arange(few) != i, share * largest)
            left_out.append(abs(targets[i] - rows[i] @ b - intercept))
        errors[share] = np.mean(left_out)
    best = min(errors, key=errors.__getitem__)
    expected = fitted(np.ones(few, bool), best * largest)[0]
    got, _ = robust_ridge(rows, targets)
    np.testing.assert_allclose(got, expected, atol=0.15)  # the rounds of reweighting move it a little
    assert np.abs(got - fitted(np.ones(few, bool), 10.0 * largest)[0]).max() > 0.3


def test_outliers_do_not_decide_the_coefficients():
    rows = RANDOM.randn(400, 2)
    targets = rows @ np.array([2.0, -1.0]) + 0.1 * RANDOM.randn(400)
    targets[::40] += 1e3
    np.testing.assert_allclose(robust_ridge(rows, targets)[0], [2, -1], atol=0.1)


@pytest.mark.parametrize(("trend", "season"), [(False, 1), (True, 1), (False, 12), (True, 12)])
def test_smoothing_equals_a_loop(trend, season):
    model = Smoothing(0.3, 0.1 * trend, 0.2 * (season > 1), trend, season)
    level, slope, damping = WAVE[:season].mean() if season > 1 else WAVE[:5].mean(), 0.0, 0.95 * trend
    pattern = WAVE[:36].reshape(3, 12) - WAVE[:36].reshape(3, 12).mean(axis=1, keepdims=True)
    seasonal = pattern.mean(axis=0) if season > 1 else np.zeros(1)
    expected = []
    for t, value in enumerate(WAVE):
        expected.append(level + damping * slope + seasonal[t % season])
        error = value - expected[-1]
        level, slope = level + damping * slope + 0.3 * error, damping * slope + 0.3 * model.trend_rate * error
        seasonal[t % season] += model.season_rate * 0.7 * error
    np.testing.assert_allclose(model.forecast(WAVE)[:-1], expected, rtol=1e-9)


def test_the_plain_autoregression_is_that_of_the_baselines():
    average = Combination.fit(WALK[:150])
    model = next(m.model for m in average.methods if m.name == "least-squares AR(30)")
    np.testing.assert_allclose(model.forecast(WALK)[150:-1], autoregressive_forecast(WALK, 150, 30), rtol=1e-8)


@pytest.mark.parametrize("season", [None, 12])
def test_a_forecast_reads_earlier_values_only_and_can_be_stored(season):
    average = Combination.fit(WAVE[:160], season=season)
    before, changed = average.forecast(WAVE), WAVE.copy()
    changed[200:] = RANDOM.randn(40)
    after = average.forecast(changed)
    np.testing.assert_array_equal(before[:201], after[:201])
    assert (before[201:] != after[201:]).all()
    again = Combination.from_json(json.loads(json.dumps(average.to_json())))
    assert again == average and (again.forecast(WAVE) == before).all()


def test_the_weights_follow_the_errors_over_the_second_half():
    average = Combination.fit(WAVE[:160], season=12)
    assert average.held_out == 80
    errors = {m.name: m.error for m in average.methods}
    seasonal = np.abs(WAVE[80:160] - WAVE[68:148]).mean()
    assert errors["seasonal naive"] == pytest.approx(seasonal) and errors["naive"] > 1.5 * seasonal
    assert sum(m.weight for m in average.methods) == pytest.approx(1)
    weights = {m.name: m.weight for m in average.methods if m.weight}
    kept = list(weights)
    assert len(kept) > 1 and "naive" not in kept
    ratio = np.exp(-1.5 * np.sqrt(80) * (errors[kept[1]] - errors[kept[0]]) / min(errors.values()))
    assert weights[kept[1]] / weights[kept[0]] == pytest.approx(ratio)


@pytest.mark.parametrize("name", ["wave", "walk", "noise", "shift", "counts", "short"])
def test_it_is_never_much_worse_than_the_best_simple_forecast(name):
    values, season = {
        "wave": (WAVE, 12),
        "walk": (WALK, None),
        "noise": (RANDOM.randn(240), None),
        "shift": (np.repeat([10.0, 30.0, 15.0, 20.0], 60) + RANDOM.randn(240), None),
        "counts": (RANDOM.poisson(3 + 2 * np.sin(2 * np.pi * STEPS / 7)).astype(float), 7),
        "short": (WALK[:100], None),
    }[name]
    split = int(0.7 * len(values))
    forecasts = Combination.fit(values[:split], season=season).forecast(values)[split:-1]
    wanted = values[split:]
    others = [values[split - 1 : -1], autoregressive_forecast(values, split, 30)]
    others += [values[split - season : -season]] if season else []
    best = min(np.abs(f - wanted).mean() for f in others)
    assert np.abs(forecasts - wanted).mean() < 1.03 * best


@pytest.mark.parametrize("values", [np.full(100, 7.0), np.zeros(30), WALK[:4], WALK[:12]], ids=len)
def test_constant_and_short_series_get_a_forecast(values):
    forecasts = Combination.fit(values).forecast(values)
    assert np.isfinite(forecasts).all() and len(forecasts) == len(values) + 1
    if np.ptp(values) == 0:
        np.testing.assert_allclose(forecasts, values[0], rtol=1e-12)


def test_one_huge_outlier_does_not_spoil_the_rest():
    values = WALK.copy()
    values[100] = 1e9
    forecasts = Combination.fit(values[:168]).forecast(values)
    assert np.abs(forecasts[168:-1] - values[168:]).mean() < 2 * np.abs(np.diff(values[167:])).mean()


def test_filled_in_values_do_not_count():
    values, observed = WAVE.copy(), np.ones(240, bool)
    observed[130:140] = False
    values[~observed] += 7
    average = Combination.fit(values, season=12, observed=observed)
    assert average.held_out == 110
    errors = {m.name: m.error for m in average.methods}
    known = np.flatnonzero(observed[120:]) + 120
    assert errors["seasonal naive"] == pytest.approx(np.abs(values[known] - values[known - 12]).mean(), rel=1e-6)


def test_what_cannot_be_fitted_is_an_error():
    with pytest.raises(ValueError, match="has 3 steps, but at least 4"):
        Combination.fit(WALK[:3])
    with pytest.raises(ValueError, match="season=50 must be shorter than the training part, which has 40"):
        Combination.fit(WALK[:40], season=50)
