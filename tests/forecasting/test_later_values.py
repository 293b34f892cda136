"""What comes after an origin changes no forecast from it, and a backtest forecasts as predict does."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.forecasting import Forecaster, read_panel
from jaxrnn.forecasting.effects import Effects
from jaxrnn.forecasting.network import smooth_forecast
from jaxrnn.forecasting.windows import Windows

SMALL: dict[str, Any] = dict(steps=2, seeds=1, hidden=(4,))
RANDOM = np.random.RandomState(0)


def months(count: int) -> np.ndarray:
    return 100 + 30 * np.sin(np.arange(count) * 2 * np.pi / 12) + RANDOM.randn(count)


@pytest.mark.parametrize("refit", [True, False])
def test_of_series_with_less_than_a_season_before_an_origin(refit):
    """At the first origins less than a season is known of the new series, then a season and more."""
    panel = {"old": months(48), "new": months(18)}
    later = panel | {"new": panel["new"].copy()}
    later["new"][11:] += 1000
    model = Forecaster(3, 12, **SMALL).fit(panel)
    one, other = (model.backtest(given, refit=refit, origins=6) for given in (panel, later))
    new = one["rows"]["unique_id"] == "new"
    early = new & (one["rows"]["origin"] <= 10)
    assert early.sum() == 2 * 3 and one["rows"]["origin"][new].max() == 14
    for column in ("yhat", "lo-95", "hi-95"):
        assert (one["rows"][column][early] == other["rows"][column][early]).all()
    for origin in np.unique(one["rows"]["origin"][new]):
        expected = one["model"].predict({"new": panel["new"][: origin + 1]})["yhat"]
        found = one["rows"]["yhat"][new & (one["rows"]["origin"] == origin)]
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_of_training_windows_of_a_series_that_is_as_long_as_the_season():
    values = months(12)
    changed = np.append(values[:-1], 1000.0)
    smooth = []
    for given in (values, changed):
        windows = Windows.of(read_panel(given), window=24, horizon=4, season=12)
        inputs = np.stack([windows.features[t : t + 24] for t in range(12)])
        smooth.append(np.asarray(smooth_forecast(jnp.asarray(inputs), 4, 12)[0]))
    assert (smooth[0][:11] == smooth[1][:11]).all()
    assert np.ptp(smooth[0][11]) > 1  # a whole season is known


@pytest.mark.parametrize("values", [np.where(np.arange(60) % 6 == 0, 200.0, 5.0) + RANDOM.rand(60), np.ones(60)])
@pytest.mark.parametrize("until", [1, 2, 4, 40])
def test_sizes_of_effects(values, until):
    """Peaks are limited by what is usual, which later values must not change."""
    effects, columns = Effects(np.zeros(1), 1), np.ones((60, 1))
    sizes, changed = (
        effects.of(read_panel(given)[0], columns, until)[0]
        for given in (values, np.where(np.arange(60) >= until, 40 * values + 30, values))
    )
    assert (sizes[: until + 1] == changed[: until + 1]).all() and (
        sizes[until + 1 :] != changed[until + 1 :]
    ).all()
    for step in range(until, 61):
        expected = effects.of(read_panel(values[:step])[0], columns[:step], until)[0]
        np.testing.assert_allclose(sizes[: step + 1], expected, rtol=1e-12)


def test_effects_in_a_backtest():
    random = np.random.default_rng(5)
    promotion = (random.random(60) < 0.3).astype(float)
    values = (np.where(np.arange(60) % 6 == 0, 200.0, 5.0) + random.random(60)) * (1 + promotion)
    later = np.where(np.arange(60) >= 40, 3 * values + 30, values)
    frame = {"ds": np.arange(60), "promotion": promotion}
    model = Forecaster(4, 1, future_columns="promotion", **SMALL).fit(frame | {"y": values})
    assert model.known.effects.used
    one, other = (model.backtest(frame | {"y": y}, refit=False, origins=25)["rows"] for y in (values, later))
    early = one["origin"] < 40
    assert 0 < early.sum() < len(early)
    assert (one["yhat"] == other["yhat"])[early].all() and not (one["yhat"] == other["yhat"])[~early].all()
