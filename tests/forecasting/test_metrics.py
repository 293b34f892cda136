"""Errors of forecasts against loops that follow their definitions."""

import numpy as np
import pytest

from jaxrnn.forecasting import metrics, read_panel
from jaxrnn.forecasting.backtests import mase_unit

RANDOM = np.random.RandomState(0)
ACTUAL = RANDOM.randn(5, 3) + 4
LEVELS = (0.025, 0.1, 0.5, 0.9, 0.975)
QUANTILES = np.sort(4 + 2 * RANDOM.randn(5, 3, 5), axis=-1)
SCALE = np.arange(1.0, 6)


def test_every_error_equals_a_loop():
    middle = QUANTILES[..., 2]
    by_series = [np.mean([abs(ACTUAL[i, h] - middle[i, h]) for h in range(3)]) / SCALE[i] for i in range(5)]
    percent = [200 * abs(a - f) / (abs(a) + abs(f)) for a, f in zip(ACTUAL.ravel(), middle.ravel())]
    losses = dict.fromkeys((0.1, 0.5, 0.9), 0.0)
    for level in losses:
        for a, q in zip(ACTUAL.ravel(), QUANTILES[..., LEVELS.index(level)].ravel()):
            losses[level] += 2 * (level * (a - q) if a > q else (1 - level) * (q - a))
    inside = np.mean([q[1] <= a <= q[3] for a, q in zip(ACTUAL.ravel(), QUANTILES.reshape(-1, 5))])
    measured = metrics.measure(ACTUAL, QUANTILES, SCALE, LEVELS)
    assert measured["mase"] == pytest.approx(np.mean(by_series))
    assert measured["smape"] == pytest.approx(np.mean(percent))
    assert measured["wql"] == pytest.approx(np.mean(list(losses.values())) / np.abs(ACTUAL).sum())
    assert measured["coverage_80"] == pytest.approx(inside) and measured["coverage_95"] >= inside
    by_step = metrics.compare({"model": QUANTILES}, ACTUAL, SCALE, LEVELS)["by_step"]["model"]
    assert np.mean([step["mase"] for step in by_step]) == pytest.approx(measured["mase"])


def test_missing_values_do_not_count():
    actual = np.where(np.arange(3) == 1, np.nan, ACTUAL)
    kept = metrics.measure(ACTUAL[:, [0, 2]], QUANTILES[:, [0, 2]], SCALE, LEVELS)
    assert metrics.measure(actual, QUANTILES, SCALE, LEVELS) == pytest.approx(kept)


def test_the_unit_of_a_constant_series_is_not_zero():
    assert metrics.seasonal_error(np.full(9, 4.0), 3) == 4 and metrics.seasonal_error(np.zeros(9), 3) == 1
    assert metrics.seasonal_error(np.array([1.0, 3.0]), 12) == 2


def test_the_unit_of_a_series_with_missing_values_is_that_of_the_known_ones():
    values = np.array([1.0, np.nan, 4.0, 9.0, np.nan, 5.0, 3.0])
    (one,) = read_panel({"a": values})
    assert mase_unit(one, 2) == pytest.approx(np.mean([3, 4]))  # 1 and 4, 9 and 5
    (whole,) = read_panel({"a": np.arange(7.0) ** 2})
    assert mase_unit(whole, 2) == metrics.seasonal_error(whole.values, 2)
    (alternate,) = read_panel({"a": np.where(np.arange(7) % 2, np.nan, np.arange(7.0))})
    assert mase_unit(alternate, 3) == 3  # no two known values are three steps apart


def test_a_series_that_repeats_up_to_rounding_has_the_unit_of_its_values():
    wave = 10 + np.sin(np.arange(100) * 2 * np.pi / 7)
    assert 0 < np.abs(wave[7:] - wave[:-7]).max() < 1e-13
    assert metrics.seasonal_error(wave, 7) == pytest.approx(np.abs(wave).mean())
    assert metrics.seasonal_error(1e9 + np.arange(100.0), 7) == 7  # little beside its level, but no rounding
