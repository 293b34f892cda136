"""Series that begin with zeros, hold many in a row, or nothing else: their unit is that of their values."""

from typing import Any

import numpy as np
import pytest

from jaxrnn.forecasting import Forecaster, read_panel
from jaxrnn.forecasting.windows import Windows

SMALL: dict[str, Any] = dict(steps=10, seeds=1, hidden=(4,), window=8)
RANDOM = np.random.RandomState(0)
SOLD = 100 + 5 * RANDOM.randn(60)
ZEROS = np.zeros(30)
PROMOTION = (RANDOM.rand(60) < 0.3).astype(float)
SERIES = {
    "zeros at the beginning": np.append(ZEROS, SOLD[:30]),
    "zeros for longer than a window": np.concatenate([SOLD[:20], ZEROS, SOLD[20:30]]),
}


@pytest.mark.parametrize("name", SERIES)
def test_the_forecast_has_the_unit_of_the_values(name):
    """Of the series itself, of others beside it, and of a new one that has been zero so far."""
    forecasts = []
    for unit in (1.0, 2.0**-20):
        model = Forecaster(3, 1, **SMALL).fit({"a": unit * SERIES[name], "b": unit * SOLD})
        assert model.calibration is not None and model.calibration.origins > 0
        found = [model.predict(), model.predict({"zeros": ZEROS})]
        forecasts.append([forecast[column] / unit for forecast in found for column in ("yhat", "lo-95", "hi-95")])
    for one, other in zip(*forecasts):
        assert (one == other).all()
    assert 0 < forecasts[0][-1].max() < 200


def test_effects_of_columns_have_the_unit_of_the_values():
    forecasts = []
    for unit in (1.0, 2.0**-20):
        frame = {"ds": np.arange(60), "y": unit * SOLD * (1 + PROMOTION), "promotion": PROMOTION}
        model = Forecaster(2, 1, future_columns="promotion", **SMALL).fit(frame)
        assert model.known.effects.used
        fresh = {name: values[:10] for name, values in frame.items()} | {"y": np.append(np.zeros(8), [np.nan] * 2)}
        forecasts.append(model.predict(fresh)["hi-95"] / unit)
    assert (forecasts[0] == forecasts[1]).all()


def test_nothing_is_learned_or_judged_before_the_first_value():
    panel = read_panel({"a": SERIES["zeros at the beginning"], "b": ZEROS, "c": 1e-6 * SOLD})
    sizes: dict[str, Any] = dict(window=8, horizon=3, season=1)
    windows = Windows.of(panel, **sizes, usual_noise=0.1, usual_size=100.0)
    first, zeros, small = (
        windows.targets[end - length + 1 : end + 1] for end, length in zip(windows.ends, windows.lengths)
    )
    assert np.isnan(first[:30]).all() and np.isfinite(first[30:-3]).all()
    assert (zeros[:-3] == 0).all() and np.isfinite(small[:-3]).all()
    judged = windows.judged(np.array([[20, 60], [10, 30], [20, 60]]))
    places = [
        judged[(judged > end - length) & (judged <= end)] - (end - length + 1)
        for end, length in zip(windows.ends, windows.lengths)
    ]
    assert places[0].tolist() == list(range(30, 57)) and places[1].tolist() == list(range(9, 27))
    assert places[2].tolist() == list(range(19, 57))


def test_where_all_is_zero_the_forecast_is_zero():
    forecast = Forecaster(2, 1, **{**SMALL, "steps": 200}).fit(np.zeros(60)).predict()
    assert np.abs([forecast["yhat"], forecast["lo-95"], forecast["hi-95"]]).max() < 0.3
