"""Panels from frames as people have them: order, duplicates, gaps, further columns, and what is refused."""

from typing import Any

import numpy as np
import pytest

from jaxrnn.data import Step
from jaxrnn.forecasting import Columns, choose_season, describe_panel, read_panel, with_future
from jaxrnn.forecasting.as_known import shortened
from jaxrnn.forecasting.covariates import require_future
from jaxrnn.forecasting.one_series import Repairs

DAYS = np.datetime64("2024-01-01") + np.arange(6)


def frame(**columns: Any) -> dict[str, Any]:
    return {"unique_id": ["a"] * len(columns["ds"]), **columns}


def test_rows_are_sorted_combined_and_inserted_and_it_is_said():
    rows = frame(ds=DAYS[[4, 0, 1, 1, 3]], y=[5.0, 1, 2, 4, 3], z=[1.0, 0, 2, 4, 9])
    with pytest.raises(
        ValueError, match=r"series 'a': rows 12 and 13 have the same ds, 2024-01-02\. Keep one row"
    ):
        read_panel(rows, rows=np.arange(10, 15))
    (one,) = read_panel(rows, aggregate="sum", columns=Columns(past=("z",)))
    assert one.values.tolist() == [1, 6, 4.5, 3, 5] and one.observed.tolist() == [True, True, False, True, True]
    np.testing.assert_array_equal(one.past["z"], [0, 3, np.nan, 9, 1])
    assert one.repairs == Repairs(1, 1, 1)
    said = describe_panel([one])
    assert [words.split("1 series ('a')")[0] for words in said] == [
        "the rows of ",
        "1 rows of ",
        "1 steps of ",
    ]


def test_a_series_of_one_row_has_the_step_of_the_others():
    rows = {"unique_id": ["a", "b", "b", "b"], "ds": ["2024-05-01", *["2024-01-01", "2024-02-01", "2024-03-01"]]}
    one, other = read_panel({**rows, "y": [1.0, 2, 3, 4]})
    assert one.step == other.step == Step("months", 1)


def test_rows_after_the_last_value_give_what_is_known_in_advance_and_a_frame_gives_more():
    rows = frame(ds=DAYS, y=[1.0, 2, 3, None, np.nan, np.nan], promo=[0, 1, 0, 1, np.nan, np.nan])
    (one,) = panel = read_panel(rows, columns=Columns(future=("promo",)))
    assert one.values.tolist() == [1, 2, 3] and len(one.future["promo"]) == 6
    require_future(panel, ["promo"], 1)
    with pytest.raises(
        ValueError, match="series 'a': the column 'promo' has no value at 2024-01-05, step 2 of the 3"
    ):
        require_future(panel, ["promo"], 3)
    more = {"unique_id": ["b", "a", "a"], "ds": DAYS[[4, 5, 4]], "promo": [9.0, 7, 8]}
    future = read_panel(more, columns=Columns(future=("promo",)), with_values=False)
    (joined,) = with_future(panel, future, 3)
    assert joined.future["promo"].tolist() == [0, 1, 0, 1, 8, 7]
    require_future([joined], ["promo"], 3)
    short = shortened(joined, 2)
    assert short.values.tolist() == [1, 2] and len(short.future["promo"]) == 6
    assert read_panel([short]) == [short]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({"ds": DAYS[:2], "y": [1.0, 2], "z": ["x", "y"]}, "static", "static column 'z' holds 'x' and 'y'"),
        ({"ds": DAYS[:2], "y": [1.0, np.inf]}, "", "series 'a': y must be finite, but holds inf"),
        ({"ds": DAYS[:2], "y": [np.nan, np.nan]}, "", "series 'a': y must have a finite value"),
        ({"ds": [*DAYS[:3], "2204-01-01"], "y": [1.0, 2, 3, 4]}, "", "between 2024-01-03 and 2204-01-01: is one"),
        ({"ds": DAYS[:1], "y": [1.0]}, "past", "the frame has no column 'z'"),
        ({"ds": [], "y": []}, "", "has no rows"),
        ({"ds": DAYS[:2], "sales": [1.0, 2]}, "", "needs unique_id, ds and y"),
        ({"ds": DAYS[:2], "y": [1.0]}, "", "one length, but have {'unique_id': 2, 'ds': 2, 'y': 1}"),
    ],
)
def test_what_cannot_be_used_names_series_and_column(rows, options, message):
    columns = Columns(**{options: ("z",)}) if options else Columns()
    with pytest.raises(ValueError, match=message):
        read_panel(frame(**rows), columns=columns)


def test_a_dictionary_that_may_be_two_series_or_two_columns_is_refused():
    two = {"x": np.arange(6.0), "y": np.arange(6.0)}
    with pytest.raises(ValueError, match="the dictionary has 'y' and 'x', which may be two series"):
        read_panel(two)
    (one,) = read_panel(two, columns=Columns(past=("x",)))
    assert one.past["x"].tolist() == one.values.tolist()
    assert len(read_panel({"y": np.arange(6.0)})) == len(read_panel({**two, "ds": DAYS})) == 1


def test_times_without_values_are_no_series():
    with pytest.raises(ValueError, match="needs unique_id, ds and y"):
        read_panel({"ds": DAYS, "sales": np.arange(6.0)})


def test_an_unknown_way_to_combine_rows_and_columns_of_arrays_are_refused():
    with pytest.raises(ValueError, match="unknown aggregate 'total'; available: sum, mean"):
        read_panel(frame(ds=DAYS, y=np.arange(6.0)), aggregate="total")
    with pytest.raises(ValueError, match="need a frame with unique_id, ds and y"):
        read_panel({"a": np.arange(6.0)}, columns=Columns(past=("z",)))


def test_the_season_of_a_mixed_panel_is_that_of_most_series_in_any_order():
    days, random = np.datetime64("2024-01-01") + np.arange(140), np.random.RandomState(0)
    months = np.datetime64("2015-01") + np.arange(60)
    weekly = [3 * np.sin(2 * np.pi * np.arange(140) / 7) + random.randn(140) for _ in range(2)]
    parts = [("m", months, random.randn(60)), ("a", days, weekly[0]), ("b", days, weekly[1])]
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        panel = [one for place in order for one in read_panel(frame_of(*parts[place]))]
        assert choose_season(panel).season == 7


def frame_of(name: str, ds: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    return {"unique_id": [name] * len(ds), "ds": ds, "y": y}


def test_the_season_of_dates_and_of_steps_is_found_and_noise_has_none():
    random, steps = np.random.RandomState(0), np.arange(140)
    weekly = 3 * np.sin(2 * np.pi * steps / 7) + random.randn(140) + 0.1 * steps
    days = np.datetime64("2024-01-01") + steps
    assert choose_season(read_panel({"ds": days, "y": weekly})).season == 7
    assert choose_season(read_panel(weekly)).season == 7
    found = 0
    for seed in range(20):
        noise = np.random.RandomState(seed).randn(140)
        for values in (noise, np.cumsum(noise)):
            found += choose_season(read_panel(values)).season > 1
            found += choose_season(read_panel({"ds": days, "y": values})).season > 1
    assert found <= 2  # of 80
    hours = np.datetime64("2024-01-01T00", "h") + np.arange(500)
    assert choose_season(read_panel({"ds": hours, "y": np.cos(np.arange(500) * np.pi / 12)})).season == 24
