"""The step of fresh rows beside that of the training: some rows, weekdays, numbered rows."""

from typing import Any

import numpy as np
import pytest

from jaxrnn.data import WEEKDAYS, Step
from jaxrnn.forecasting import Forecaster, read_panel

SMALL: dict[str, Any] = dict(steps=4, seeds=1, hidden=(4,))
DAYS = np.datetime64("2024-01-01") + np.arange(200)
VALUES = 10 + np.sin(2 * np.pi * np.arange(200) / 7)
MONDAY_TO_FRIDAY = DAYS[np.is_busday(DAYS)]


def fitted(days: np.ndarray, **arguments: Any) -> Forecaster:
    return Forecaster(3, **SMALL, **arguments).fit({"ds": days, "y": VALUES[: len(days)]})


def test_fresh_rows_at_some_steps_of_the_training_are_read_in_its_steps():
    days, values = DAYS, 10 + np.sin(2 * np.pi * np.arange(200) / 7)
    model = Forecaster(3, season=7, steps=2, seeds=1, hidden=4).fit({"ds": days[:120], "y": values[:120]})
    for places in (
        np.arange(120, 200, 2),
        np.sort(np.random.RandomState(0).permutation(np.arange(120, 200))[:50]),
    ):
        all_days = np.arange(places[0], places[-1] + 1)
        whole = {"ds": days[all_days], "y": np.where(np.isin(all_days, places), values[all_days], np.nan)}
        found = model.predict({"ds": days[places], "y": values[places]})
        for name, expected in model.predict(whole).items():
            np.testing.assert_array_equal(found[name], expected)
    # Months lie on days, too, but most days have no row then.
    months = np.datetime64("2024-01") + np.arange(30)
    with pytest.raises(ValueError, match=r"rows that are 1 month apart.*those of missing steps without a value"):
        model.predict({"ds": months, "y": np.ones(30)})


def test_a_step_that_some_series_of_the_training_have_is_kept():
    rows = {"days": 60, "more days": 61, "every second day": 30}
    frame = {
        "unique_id": np.repeat(list(rows), list(rows.values())),
        "ds": np.concatenate([DAYS[:60], DAYS[:61], DAYS[:60:2]]),
        "y": np.concatenate([VALUES[:60], VALUES[:61], VALUES[:60:2]]),
    }
    model = Forecaster(3, 7, **SMALL).fit(frame)
    known, fresh = model.predict(), model.predict(frame)
    assert known["ds"][-1] == np.datetime64("2024-01-01") + 64
    for name, expected in known.items():
        assert (fresh[name] == expected).all()
    one = {name: column[-30:] for name, column in frame.items()}
    assert [series.step.size for series in read_panel(one, known=model.known.times)] == [2 * 86_400]


@pytest.mark.parametrize("count", [1, 4, 5, 9, 12])
def test_a_model_of_weekdays_forecasts_weekdays_after_any_number_of_rows(count):
    model = fitted(MONDAY_TO_FRIDAY, season=5)
    assert model.known.steps == (WEEKDAYS,)
    forecast = model.predict({"ds": MONDAY_TO_FRIDAY[:count], "y": VALUES[:count]})
    assert forecast["ds"].astype("datetime64[D]").tolist() == MONDAY_TO_FRIDAY[count : count + 3].tolist()


def test_a_short_series_of_weekdays_among_others_has_no_weekends():
    names = np.repeat(["long", "longer", "short"], [30, 40, 7])
    days = np.concatenate([MONDAY_TO_FRIDAY[:count] for count in (30, 40, 7)])
    panel = read_panel({"unique_id": names, "ds": days, "y": np.ones(77)})
    assert [one.step for one in panel] == [WEEKDAYS] * 3 and len(panel[2].values) == 7


def test_a_model_of_weekdays_refuses_weekends():
    model = fitted(MONDAY_TO_FRIDAY, season=5)
    with pytest.raises(ValueError, match=r"rows that are 1 day apart, but .* on rows that are 1 weekday apart"):
        model.predict({"ds": DAYS[:60], "y": VALUES[:60]})
    any_distance = fitted(MONDAY_TO_FRIDAY, season=1, calendar=False)
    assert len(any_distance.predict({"ds": DAYS[:60], "y": VALUES[:60]})["ds"]) == 3


def test_a_model_of_days_reads_weekdays_as_days_whose_weekends_are_missing():
    model, weekday = fitted(DAYS[:150], season=7), np.is_busday(DAYS[:60])
    whole = model.predict({"ds": DAYS[:60], "y": np.where(weekday, VALUES[:60], np.nan)})
    found = model.predict({"ds": DAYS[:60][weekday], "y": VALUES[:60][weekday]})
    for name, expected in whole.items():
        np.testing.assert_array_equal(found[name], expected)


def test_numbered_rows_have_the_step_of_the_training():
    model = Forecaster(3, season=7, **SMALL).fit({"ds": np.arange(120), "y": VALUES[:120]})
    numbers = np.arange(120, 180, 2)
    found = model.predict({"ds": numbers, "y": VALUES[numbers]})
    every = np.arange(120, 179)
    whole = model.predict({"ds": every, "y": np.where(every % 2 == 0, VALUES[every], np.nan)})
    assert found["ds"].tolist() == [179, 180, 181] and (found["yhat"] == whole["yhat"]).all()
    with pytest.raises(
        ValueError, match=r"has rows that are 7 steps apart.*rows that are 1 step apart.*leave out ds"
    ):
        model.predict({"ds": np.arange(0, 140, 7), "y": VALUES[:20]})
    assert len(model.predict(VALUES[:20])["ds"]) == 3
    model = Forecaster(3, season=7, **SMALL).fit({"ds": 2 * np.arange(120), "y": VALUES[:120]})
    assert model.known.steps == (Step("steps", 2),) and len(model.predict(VALUES[:20])["ds"]) == 3


@pytest.mark.parametrize(
    ("first", "style", "fresh", "after"),
    [
        ("2015-01-01", "quarters", [20241, 20242, 20243], "2024-10-01"),
        ("2021-07-05", "weeks", [202401, 202402, 202403], "2024-01-22"),
        ("2021-07-05", "weeks", [202401], "2024-01-08"),
        ("2020-01-01", "months", [202401, 202402], "2024-03-01"),
    ],
)
def test_numbers_of_a_single_year_are_dates_as_those_of_the_training(first, style, fresh, after):
    step = {"quarters": np.timedelta64(3, "M"), "weeks": np.timedelta64(7, "D"), "months": np.timedelta64(1, "M")}
    unit = "M" if style != "weeks" else "D"
    days = (np.datetime64(first, unit) + step[style] * np.arange(36)).astype("datetime64[D]").tolist()
    write = {
        "quarters": lambda day: 10 * day.year + (day.month + 2) // 3,
        "weeks": lambda day: 100 * day.isocalendar()[0] + day.isocalendar()[1],
        "months": lambda day: 100 * day.year + day.month,
    }[style]
    numbers = np.array([write(day) for day in days])
    model = Forecaster(1, season=1, future_columns="x", **SMALL)
    model.fit({"ds": numbers, "y": VALUES[:36], "x": VALUES[:36]})
    assert model.known.steps[0].unit != "steps"
    frame = {"ds": np.array(fresh), "y": np.ones(len(fresh)), "x": np.ones(len(fresh))}
    ahead = np.datetime64(after).item()
    forecast = model.predict(frame, future={"ds": np.array([write(ahead)]), "x": [1.0]})
    assert forecast["ds"].astype("datetime64[D]").tolist() == [ahead]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_fresh_rows_are_rounded_as_those_of_the_training(count, tmp_path):
    random = np.random.RandomState(0)
    nine = DAYS[:40].astype("datetime64[s]") + random.randint(32_400, 33_000, 40)
    frame = {"ds": nine, "y": VALUES[:40], "x": random.rand(40)}
    Forecaster(2, 7, future_columns="x", **SMALL).fit(frame).save(tmp_path)
    model = Forecaster.load(tmp_path)
    future = {"ds": DAYS[40:42].astype("datetime64[s]") + 32_555, "x": np.ones(2)}
    forecast = model.predict({name: column[40 - count :] for name, column in frame.items()}, future=future)
    assert (forecast["ds"] == DAYS[40:42]).all()
