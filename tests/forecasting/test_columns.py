"""Further columns of a frame and of its future: codes that are numbers or text, and values of any size."""

from typing import Any

import numpy as np
import pytest

from jaxrnn.forecasting import Columns, Forecaster, read_panel, with_future
from jaxrnn.forecasting.covariates import Covariates, Encoder, require_future
from jaxrnn.forecasting.windows import FEATURES

SMALL: dict[str, Any] = dict(steps=20, seeds=1, hidden=(8,))
DAYS = np.datetime64("2024-01-01") + np.arange(200)
PROMO = Columns(future=("promo",))


def test_codes_that_are_numbers_in_the_future_alone_are_those_of_the_training():
    codes = np.random.RandomState(0).choice(["1", "2", "A"], 190)
    level = {"1": 50.0, "2": 70.0, "A": 90.0}
    y = np.array([level[code] for code in codes])
    model = Forecaster(4, season=1, future_columns="promo", calendar=False, **SMALL)
    model.fit({"ds": DAYS[:190], "y": y, "promo": codes})
    as_text, as_numbers = (
        model.predict(future={"ds": DAYS[190:194], "promo": np.array(given)})["yhat"]
        for given in (["1", "2", "1", "2"], [1, 2, 1, 2])
    )
    assert (as_text == as_numbers).all() and as_numbers[1] > as_numbers[0] + 10
    assert model.notes == []
    model.predict(future={"ds": DAYS[190:194], "promo": np.array(["1", "B", "2", "B"])})
    (said,) = model.notes
    assert said.startswith("column 'promo' holds texts that the training did not have: 'B' (series 'value')")


def test_texts_that_the_training_did_not_have_are_named_of_every_kind_of_column():
    columns = Columns(("f",), ("p",), ("s",))
    frame = {"ds": DAYS[:4], "y": [1.0, 2, 3, np.nan]}
    one, other = (
        read_panel(frame | {"f": np.array(f), "p": np.array(p), "s": np.array([s] * 4)}, columns=columns)
        for f, p, s in (
            (["a", "b", "a", "b"], ["c", "c", "d", ""], "e"),
            (["a", "", "x", "y"], ["c", "z", "d", ""], "w"),
        )
    )
    covariates = Covariates.fit(one, columns, calendar=False)
    assert covariates.unknown_texts(one, 1) == []
    said = covariates.unknown_texts(other, 1)
    assert [note.split(". ")[0].split(": ")[1] for note in said] == [
        "'x' (series 'value'), 'y' (series 'value')",
        "'z' (series 'value')",
        "'w' (series 'value')",
    ]
    assert "'y'" not in covariates.unknown_texts(other, 0)[0]  # it lies beyond what is forecast


def test_codes_of_seven_digits_are_known_categories():
    encoder = Encoder.fit("z", np.array(["1000001", "A", "0.5"]))
    assert encoder.encode(np.array([1000001.0, 0.5, np.nan])).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(("kind", "before"), [(float, ["1", "2", "A"]), (str, [1.0, 0.1, 3.0])])
def test_a_value_that_is_missing_in_the_future_is_missing_in_the_joined_column(kind, before):
    panel = read_panel({"ds": DAYS[:3], "y": [1.0, 2, 3], "promo": np.array(before)}, columns=PROMO)
    given = np.array(["2", ""]) if kind is str else np.array([2, np.nan])
    future = read_panel({"ds": DAYS[3:5], "promo": given}, columns=PROMO, with_values=False)
    (joined,) = with_future(panel, future, 2)
    assert joined.future["promo"].tolist() == [str(one).removesuffix(".0") for one in before] + ["2", ""]
    with pytest.raises(ValueError, match="'promo' has no value at 2024-01-05"):
        require_future([joined], ["promo"], 2)


def test_rare_large_values_have_their_effect_and_larger_ones_than_any_of_the_training_have_no_larger_one():
    random, x = np.random.RandomState(0), np.zeros(300)
    x[random.permutation(280)[:13]] = [*[100.0] * 5, *[200.0] * 5, *[400.0] * 3]
    y = 50 + 0.5 * x + random.randn(300)
    days = np.datetime64("2024-01-01") + np.arange(304)
    model = Forecaster(4, season=1, future_columns="x", **SMALL).fit({"ds": days[:300], "y": y, "x": x})
    forecast, wild = (
        model.predict(future={"ds": days[300:], "x": ahead})["yhat"] for ahead in ([0.0, 100, 200, 400], [1e9] * 4)
    )
    np.testing.assert_allclose(forecast, [50, 100, 150, 250], rtol=0.06)
    np.testing.assert_allclose(wild, forecast[3], rtol=0.03)
    _, windows = model.windows_to_forecast(None, {"ds": days[300:], "x": [1e9] * 4})
    assert windows.features[:, FEATURES:].max() == 5  # of what the networks read


def test_truth_values_are_those_of_a_training_on_text():
    encoder = Encoder.fit("promotion", np.array(["False", "True", "True"]))
    for same in (np.array([1.0, 0.0, np.nan]), np.array(["1", "0", ""]), np.array(["true", "FALSE", ""])):
        assert encoder.encode(same).tolist() == [[0, 1], [1, 0], [0, 0]]
    assert encoder.encode(np.array([2.0])).tolist() == [[0, 0]]
    both = Encoder.fit("promotion", np.array(["True", "true"]))
    assert both.encode(np.array(["True"])).sum() == 1
