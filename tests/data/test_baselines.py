"""Baselines equal direct loops, and give the known errors on the series that come with the package."""

import numpy as np
import pytest

from jaxrnn.data import autoregressive_forecast, load_series, moving_average_forecast, naive_forecast

VALUES = np.random.RandomState(0).randn(40).cumsum()


def test_the_naive_forecast_is_the_value_before():
    np.testing.assert_array_equal(naive_forecast(VALUES, 30), [VALUES[t - 1] for t in range(30, 40)])


@pytest.mark.parametrize(("start", "width"), [(30, 5), (1, 5), (3, 1), (10, 40)])
def test_the_moving_average_is_the_mean_of_the_values_before(start, width):
    expected = [VALUES[max(t - width, 0) : t].mean() for t in range(start, 40)]
    np.testing.assert_allclose(moving_average_forecast(VALUES, start, width), expected, rtol=1e-12)


@pytest.mark.parametrize(("start", "order"), [(30, 3), (7, 3)])
def test_the_autoregressive_forecast_is_least_squares_over_the_values_before_its_start(start, order):
    design = np.array([[*VALUES[t - order : t], 1] for t in range(order, 40)])
    training = start - order
    weights = np.linalg.pinv(design[:training]) @ VALUES[order:start]
    found = autoregressive_forecast(VALUES, start, order)
    np.testing.assert_allclose(found, design[training:] @ weights, rtol=1e-8)
    later = VALUES.copy()
    later[-1] += 100  # the value to forecast last: it may change no forecast
    np.testing.assert_array_equal(autoregressive_forecast(later, start, order), found)


def test_too_few_steps_for_the_order_are_refused():
    with pytest.raises(ValueError, match="order=3 needs at least 7 steps before start=6"):
        autoregressive_forecast(VALUES, 6, 3)


FORECASTS = {
    "naive": naive_forecast,
    "ma5": lambda values, start: moving_average_forecast(values, start, 5),
    "ma30": lambda values, start: moving_average_forecast(values, start, 30),
    "ar30": lambda values, start: autoregressive_forecast(values, start, 30),
}


@pytest.mark.parametrize(
    ("series", "forecast", "error"),
    [
        ("course", "naive", 5.938),
        ("course", "ma5", 4.889),
        ("course", "ma30", 7.142),
        ("course", "ar30", 4.990),
        ("seattle", "naive", 2.184),
        ("seattle", "ar30", 2.106),
        ("melbourne", "naive", 2.011),
        ("melbourne", "ar30", 1.801),
    ],
)
def test_the_known_mean_absolute_errors(series, forecast, error):
    loaded = load_series(series)
    values = loaded.values[:, 0]
    found = np.abs(FORECASTS[forecast](values, loaded.split) - values[loaded.split :]).mean()
    assert round(found, 3) == error


def test_a_moving_average_is_of_its_own_window_alone():
    for first in (np.nan, 1e17):
        forecast = moving_average_forecast(np.array([first, 1, 1, 1, 3, 1, 1]), 3, 2)
        np.testing.assert_array_equal(forecast, [1, 1, 2, 2])
    values = np.random.RandomState(0).rand(9)
    for start in (1, 3, 8):
        for width in (1, 3, 8, 9, 20):
            expected = [values[max(stop - width, 0) : stop].mean() for stop in range(start, 9)]
            np.testing.assert_allclose(moving_average_forecast(values, start, width), expected)
