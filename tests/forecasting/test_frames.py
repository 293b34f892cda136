"""Frames of pandas, and what names and times in them become and come back as."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from jaxrnn.data import Step
from jaxrnn.forecasting import Forecaster, read_panel
from jaxrnn.forecasting.one_series import Columns

SMALL: dict[str, Any] = dict(steps=4, seeds=1, hidden=(4,))
DAYS = np.datetime64("2024-01-01") + np.arange(30)
IDS = np.repeat([10, 9], 30)


def frame(ids: Any = IDS, **columns: Any) -> dict[str, Any]:
    return {"unique_id": ids.copy(), "ds": np.tile(DAYS, 2), "y": np.arange(60.0) % 7, **columns}


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


def test_a_dictionary_of_series_of_pandas_has_their_dates():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    one = pandas.Series(np.arange(30.0), index=pandas.DatetimeIndex(DAYS))
    alone, short = read_panel(one)[0], one[:8]
    months = pandas.Series([1.0, 2, 3, 4], index=pandas.period_range("2024-01", periods=4, freq="M"))
    frames = {"a": one[::-1], 7: short}, {"y": one, "promotion": one}, {"a": months}
    first, second = read_panel(frames[0])
    assert (first.times == alone.times).all() and (first.values == alone.values).all() and first.repairs.unsorted
    assert (second.name, second.step, len(second.values)) == ("7", Step("seconds", 86_400), 8)
    assert (read_panel(frames[1], columns=Columns(future=("promotion",)))[0].times == alone.times).all()
    assert read_panel(frames[2])[0].step == Step("months", 1)
    with pytest.raises(ValueError, match="'a' has dates in its index, but 'b' has none"):
        read_panel({"a": one, "b": one.to_numpy()})
    with pytest.raises(ValueError, match="may be two series"):
        read_panel({"y": one, "b": one})


def test_masked_values_are_missing():
    values = np.ma.masked_equal(np.where(np.arange(60) % 9 == 3, -99, np.arange(60)), -99)
    texts = np.ma.masked_array(np.arange(60).astype(str), values.mask)
    rows: dict[str, Any] = frame(y=values, number=values, text=texts)
    found = read_panel(rows, columns=Columns(future=("number", "text")))
    for one in (*found, *read_panel({"a": values}), *read_panel(values)):
        assert one.values.min() >= 0 and not one.observed.all()
    assert np.isnan(found[0].future["number"][3]) and found[0].future["text"][3] == ""
    for name in ("unique_id", "ds"):
        column = np.ma.masked_array(rows[name], np.arange(60) == 5)
        with pytest.raises(ValueError, match=f"the column {name} has no .* in row 5"):
            read_panel(rows | {name: column})


def test_decimal_numbers_are_numbers():
    prices = [Decimal("1.50"), Decimal("2.5"), None, Fraction(1, 2), np.True_] * 12
    one = read_panel(frame(price=np.array(prices, object)), columns=Columns(past=("price",)))[0]
    np.testing.assert_array_equal(one.past["price"][:5], [1.5, 2.5, np.nan, 0.5, 1.0])


def test_the_names_of_series_are_those_of_fit_whatever_became_of_the_frame():
    rows = frame()
    model = Forecaster(2, 7, **SMALL).fit(rows)
    rows["unique_id"][:] = [9, 8] * 30
    assert model.predict()["unique_id"].tolist() == [10, 10, 9, 9]


def test_times_in_one_second_are_named_with_the_reason():
    times = np.datetime64("2024-01-31", "ms") + 100 * np.arange(30)
    with pytest.raises(ValueError, match=r"same ds, 2024-01-31T00:00:00 \(times are read in whole seconds\)"):
        read_panel({"ds": times, "y": np.ones(30)})
    assert read_panel({"ds": times, "y": np.ones(30)}, aggregate="sum")[0].values.tolist() == [10.0] * 3
    with pytest.raises(
        ValueError, match=r"are 1\.5 seconds apart, but times are read in whole seconds: number the"
    ):
        read_panel({"ds": np.datetime64("2024-01-31", "ns") + 1_500_000_000 * np.arange(30), "y": np.ones(30)})
