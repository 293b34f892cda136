"""Rows as people have them: absurd values, other steps than in training, text for numbers, damaged models."""

import json
import shutil
from typing import Any

import numpy as np
import pytest

from jaxrnn.data import Step
from jaxrnn.forecasting import Columns, Forecaster, describe_panel, read_panel, with_future
from jaxrnn.forecasting.far_values import far_values

STEPS = np.arange(90)
DAYS = np.datetime64("2024-01-01") + STEPS
VALUES = 10 + 2 * np.sin(2 * np.pi * STEPS / 7) + 0.3 * np.random.RandomState(0).randn(90)
PROMO = (STEPS % 10 == 0) * 1.0


def rows(count: int = 90, **columns: Any) -> dict[str, Any]:
    return {"ds": DAYS[:count], "y": VALUES[:count], "promo": PROMO[:count], **columns}


@pytest.fixture(scope="module")
def fitted() -> Forecaster:
    model = Forecaster(2, 7, steps=20, seeds=1, hidden=4, past_columns="promo", quantiles=0.1)
    return model.fit(rows())


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    fitted.save(folder)
    return folder


def test_a_value_absurdly_far_from_the_others_is_left_out_of_training_and_fresh_rows(fitted):
    clean = fitted.predict(rows())["yhat"]
    for place in (89, 88, 40):
        far = rows(y=np.where(place == STEPS, 1e9, VALUES))
        np.testing.assert_allclose(fitted.predict(far)["yhat"], clean, rtol=0.1)
        (said,) = fitted.notes
        assert "has the value 1e+09 at 2024-0" in said and "it is left out, as if it were missing" in said
    (one,) = read_panel(np.where(STEPS == 40, -1e9, VALUES))
    assert one.values[40] == pytest.approx((VALUES[39] + VALUES[41]) / 2) and not one.observed[40]
    assert one.repairs.far == ((40, -1e9),) and one.observed.sum() == 89


@pytest.mark.parametrize(
    ("values", "far"),
    [
        (np.where(STEPS >= 87, 1e6, 0) + VALUES, []),  # a new level
        (np.where(STEPS >= 60, 1e6, 0) + VALUES, []),
        (np.where(STEPS == 5, 2_000, VALUES), []),  # far, but not absurdly
        (np.where(STEPS == 5, 9_000, VALUES), [5]),
        (np.where(STEPS % 15 == 0, 1e6, VALUES), []),  # they come back
        (np.where(STEPS == 30, 1e6, 10.0), [30]),
        (np.where(STEPS == 30, 1e6, 0.0), []),  # the first sale
        (np.where(STEPS % 9 == 0, STEPS, np.where(STEPS == 31, 1e9, 0.0)), [31]),
        (
            np.where(STEPS == 30, 1e308, np.where(STEPS == 50, -1e308, np.where(STEPS == 3, np.nan, VALUES))),
            [30, 50],
        ),
        (2.0**STEPS, []),
        (np.array([1.0, 2, 1e9]), []),
        (np.full(9, np.nan), []),
    ],
)
def test_only_single_values_are_absurdly_far(values, far):
    assert np.flatnonzero(far_values(values)).tolist() == far


def test_rows_without_a_value_at_the_end_are_cut_off(fitted):
    panel = read_panel(rows(y=np.where(STEPS > 80, np.nan, VALUES)))
    (said,) = describe_panel(panel)
    assert len(panel[0].values) == 81 and said.startswith(
        "the last 9 rows of 1 series ('value') have no value: they"
    )
    cut = fitted.backtest(rows(y=np.where(STEPS > 80, np.nan, VALUES)), origins=2, refit=False)
    assert np.isfinite(cut["rows"]["y"]).all() and np.isfinite(cut["metrics"]["model"]["mase"])
    # An array says in no other way that its last steps have no value, and the forecast goes on after them.
    (array,) = read_panel(np.append(VALUES, [np.nan, np.nan]))
    assert array.values[-3:].tolist() == [VALUES[-1]] * 3 and array.observed[-3:].tolist() == [True, False, False]
    (one,) = read_panel({"ds": DAYS[[0, 1, 2, 4, 6, 9]], "y": [1.0, 2, 3, 5, np.nan, np.nan]})
    assert one.values.tolist() == [1, 2, 3, 4, 5] and (one.repairs.inserted, one.repairs.cut) == (1, 2)


def test_the_step_of_fresh_rows_is_that_of_the_training(fitted):
    with pytest.raises(
        ValueError, match=r"'value' has rows that are 7 days apart, .* trained on rows that are 1 day"
    ):
        fitted.predict(rows(ds=DAYS[0] + 7 * STEPS))
    with pytest.raises(ValueError, match="has whole numbers instead of dates"):
        fitted.predict(rows(ds=STEPS))
    one = fitted.predict(rows(1, ds=["2025-02-28"]))
    assert one["ds"].astype("datetime64[D]").astype(str).tolist() == ["2025-03-01", "2025-03-02"]
    weekdays = np.busday_offset(DAYS[0], STEPS, roll="forward")
    assert len(fitted.predict(rows(ds=weekdays))["ds"]) == 2
    assert fitted.known.steps == (Step("seconds", 86_400),)


def test_months_as_numbers_go_on_in_the_next_year():
    for ds in (np.array([202410, 202411, 202412, 202501]), ["202410", "202411", "202412", "202501"]):
        (one,) = read_panel({"ds": ds, "y": np.arange(4.0)})
        assert one.step == Step("months", 1) and len(one.values) == 4
        assert one.step.after(one.times[-1], 1).astype("datetime64[D]").astype(str).tolist() == ["2025-02-01"]


def test_numbers_that_stand_for_missing_values_are_said():
    for code in (-999.0, 9999):
        (said,) = describe_panel(read_panel(np.where(STEPS % 9 == 0, code, VALUES)))
        assert said.startswith(
            f"series 'value' has the value {code:g} 10 times, far from all others: if it stands"
        )
    assert not describe_panel(read_panel(np.where(STEPS % 9 == 0, 999, 990 + VALUES)))
    assert not describe_panel(read_panel(np.full(90, 999.0)))


def test_times_without_a_common_step_are_said():
    ds = np.array(["2024-01-01", "2024-01-05", "2024-03-09", "2024-03-30"], "datetime64[s]")
    (one,) = panel = read_panel({"ds": ds, "y": np.arange(4.0)})
    (said,) = describe_panel(panel)
    assert said.startswith("the times of 1 series ('value') have no common step") and str(one.step) == "21 days"


def test_times_that_vary_within_a_day_are_days_in_the_future_rows_too():
    minutes = DAYS.astype("datetime64[m]") + np.timedelta64(9 * 60, "m") + STEPS * 7 % 11 * np.timedelta64(1, "m")
    panel = read_panel(rows(ds=minutes), columns=Columns(future=("promo",)))
    assert describe_panel(panel) == ["the times of 1 series ('value') vary a little, so they were rounded to days"]
    assert panel[0].step == Step("seconds", 86_400) and (panel[0].times == DAYS).all()
    ahead = minutes[-1] + np.arange(1, 3) * np.timedelta64(1441, "m")
    future = read_panel({"ds": ahead, "promo": [5.0, 6]}, columns=Columns(future=("promo",)), with_values=False)
    (joined,) = with_future(panel, future, 2)
    assert joined.future["promo"][90:].tolist() == [5, 6]


@pytest.mark.parametrize("unit", [1e39, 1e-39])
def test_values_outside_of_float32_are_refused(unit):
    with pytest.raises(ValueError, match=r"series 'value': y holds .* must lie between 1e-30 and 1e\+30"):
        read_panel({"ds": DAYS, "y": unit * VALUES})


def test_text_in_a_column_of_numbers_names_series_column_and_date(fitted):
    promo = np.where(PROMO > 0, "yes", "no")
    with pytest.raises(
        ValueError, match=r"series 'value': the column 'promo' holds 'yes', but in training .* numbers.*2024-01-01"
    ):
        fitted.predict(rows(promo=promo))
    assert (fitted.predict(rows(promo=PROMO.astype(str)))["yhat"] == fitted.predict(rows())["yhat"]).all()


def test_dates_in_an_index_are_read_and_missing_names_refused(fitted):
    class DatetimeIndex(np.ndarray):  # as that of pandas, which need not be installed
        pass

    class Values(np.ndarray):
        index = DAYS.view(DatetimeIndex)

    (one,) = read_panel(VALUES.view(Values))
    assert (one.times == DAYS).all() and one.values.tolist() == VALUES.tolist()
    for missing in (None, np.nan):
        with pytest.raises(ValueError, match="unique_id has no value in row 1: give the name of its series"):
            read_panel({"unique_id": np.array(["a", missing], object), "ds": DAYS[:2], "y": VALUES[:2]})
    for origins in ("3", 2.0, 0):
        with pytest.raises(ValueError, match="origins must be a positive integer, not"):
            fitted.backtest(origins=origins)


def test_a_single_value_may_stand_alone(fitted):
    assert fitted.settings.hidden == (4,) and fitted.settings.quantiles == (0.1,)
    assert fitted.settings.columns == Columns(past=("promo",))
    with pytest.raises(ValueError, match="a further column must be given by its name, a text, not 3"):
        Forecaster(2, future_columns=3)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("part", "content"),
    [
        (None, "[]"),
        (None, '{"settings": 3'),
        ("settings", []),
        ("known", None),
        ("networks", 0),
        ("networks", "x"),
    ],
)
def test_a_damaged_model_is_named(saved, tmp_path, part, content):
    record = json.loads((saved / "forecaster.json").read_text())
    damaged = content if part is None else json.dumps({**record, part: content})
    (tmp_path / "forecaster.json").write_text(damaged)
    with pytest.raises(ValueError, match=r"forecaster\.json is damaged.*train the model again"):
        Forecaster.load(tmp_path)


def test_damaged_networks_are_named(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    files = [path for path in (tmp_path / "network0").rglob("*") if path.is_file() and path.suffix != ".json"]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"{largest.name} is damaged.*train the model again"):
        Forecaster.load(tmp_path)
    shutil.rmtree(tmp_path / "network0")
    with pytest.raises(ValueError, match=r"network0 is not a folder.*train the model again"):
        Forecaster.load(tmp_path)


def test_numbers_that_may_be_seconds_are_told():
    (one,) = read_panel({"ds": 1_700_000_000 + 86_400 * np.arange(5), "y": np.arange(5.0)})
    assert "as 1700000000, are read as numbers, 86400 apart" in " ".join(describe_panel([one]))
    (one,) = read_panel({"ds": 1000 * np.arange(5), "y": np.arange(5.0)})
    assert not describe_panel([one])
