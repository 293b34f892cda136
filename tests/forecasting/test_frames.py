"""Frames of pandas, and what names and times in them become and come back as."""

from typing import Any

import numpy as np
import pytest

from jaxrnn.data import Step
from jaxrnn.forecasting import Forecaster, read_panel

SMALL: dict[str, Any] = dict(steps=4, seeds=1, hidden=(4,))
DAYS = np.datetime64("2024-01-01") + np.arange(30)
IDS = np.repeat([10, 9], 30)


def frame(ids: Any = IDS, **columns: Any) -> dict[str, Any]:
    return {"unique_id": ids, "ds": np.tile(DAYS, 2), "y": np.arange(60.0) % 7, **columns}


TEXTS = IDS.astype(str)


@pytest.mark.parametrize("ids", [IDS, IDS + 0.5, IDS.astype(object), TEXTS, TEXTS.astype(object)])
def test_the_names_of_series_come_back_as_they_were_given(ids):
    forecast = Forecaster(2, 7, **SMALL).fit(frame(ids)).predict()
    assert forecast["unique_id"].tolist() == [ids[0], ids[0], ids[-1], ids[-1]]
    assert isinstance(forecast["unique_id"].tolist()[0], type(ids.tolist()[0]))


def test_the_forecast_of_a_pandas_frame_can_be_merged_with_it():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    rows = pandas.DataFrame(frame())
    forecast = Forecaster(2, 7, **SMALL).fit(rows[rows.ds < "2024-01-25"]).predict()
    merged = rows.merge(forecast.astype({"ds": rows.ds.dtype}), on=["unique_id", "ds"])
    assert len(merged) == 4 and merged.unique_id.tolist() == [10, 10, 9, 9]


@pytest.mark.parametrize(
    ("freq", "step", "first"),
    [("W", Step("seconds", 7 * 86_400), "2024-01-01"), ("Y", Step("months", 12), "2024-01-01")],
)
def test_periods_of_pandas_are_the_dates_at_which_they_begin(freq, step, first):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    periods = pandas.period_range("2024-01-01", periods=6, freq=freq)
    values = np.arange(6.0)
    for given in (
        pandas.Series(values, periods),
        pandas.DataFrame({"y": values}, periods),
        pandas.DataFrame({"ds": periods, "y": values}),
        {"ds": periods, "y": values},
    ):
        (one,) = read_panel(given)
        assert one.step == step and one.times[0] == np.datetime64(first) and one.values.tolist() == values.tolist()


def test_names_that_are_written_in_two_ways_are_both_shown():
    model = Forecaster(2, 7, future_columns="x", **SMALL).fit(frame(x=np.ones(60)))
    future = {"unique_id": [10.0, 10.0], "ds": DAYS[-1] + np.arange(1, 3), "x": [1.0, 1.0]}
    with pytest.raises(ValueError, match=r"give them as future \(--future\), which has '10.0', not '10'"):
        model.predict(future=future)


def test_times_within_one_second_are_said_to_be_too_fine():
    times = np.datetime64("2024-01-01T10:00:00") + np.arange(9) * np.timedelta64(250, "ms")
    with pytest.raises(ValueError, match=r"same ds, 2024-01-01T10:00:00 \(times are read in whole seconds"):
        read_panel({"ds": times, "y": np.arange(9.0)})
