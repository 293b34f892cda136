"""Forecasts are values that a series can have: none below 0 where none is negative, whole numbers of counts."""

from typing import Any

import numpy as np
import pytest

from jaxrnn.forecasting import Forecaster

SMALL: dict[str, Any] = dict(steps=20, seeds=1, hidden=(4,), quantiles=[0.01, 0.05, 0.33, 0.99])


@pytest.mark.parametrize("distribution", [None, "negative-binomial"])
def test_every_column_and_path_is_a_value_that_the_series_can_have(distribution):
    counts = np.random.RandomState(0).poisson(2, 90).astype(float)
    model = Forecaster(3, 1, distribution=distribution, **SMALL).fit(counts)
    forecast, rows = model.predict(), model.backtest(counts, origins=3, refit=False)["rows"]
    columns = [name for name in forecast if name not in ("unique_id", "ds")]
    assert {"q-0.01", "q-0.33"} < set(columns)
    found = np.concatenate([*(forecast[name] for name in columns), *(rows[name] for name in columns)])
    paths = model.sample(50)["value"].ravel()
    for values in (found, paths):
        assert (values >= 0).all()
        assert distribution is None or (values == np.round(values)).all()
