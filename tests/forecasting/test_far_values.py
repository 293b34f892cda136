"""Values absurdly far from all others: which these are, and what a backtest may know of them at each origin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn.forecasting import Forecaster, read_panel
from jaxrnn.forecasting.as_known import as_known, shortened
from jaxrnn.forecasting.far_values import can_be_far, far_values

STEPS = np.arange(90)
VALUES = 10 + 2 * np.sin(2 * np.pi * STEPS / 7) + 0.3 * np.random.RandomState(0).randn(90)

usual = st.one_of(
    st.just(0.0), st.floats(-50, 50).map(lambda one: round(one, 3)), st.integers(0, 40).map(float), st.just(np.nan)
)
absurd = st.sampled_from([1e4, 1e6, -1e7, 1e9, 1e12, 1e308])


@st.composite
def series(draw) -> np.ndarray:
    """Values of one kind, with missing ones, some absurd ones, and now and then a new level at the end."""
    values = np.array(draw(st.lists(usual, min_size=7, max_size=40)))
    values[0] = 3.0
    for place in draw(st.lists(st.integers(0, len(values) - 1), max_size=3)):
        values[place] = draw(absurd)
    if draw(st.booleans()):
        values[draw(st.integers(1, len(values) - 1)) :] += draw(absurd) / 2
    return values


def test_an_absurd_value_among_zeros_is_left_out_wherever_it_stands():
    for place in (0, 40, 89):
        for others in (np.zeros(90), (STEPS % 7 == 3) * 40.0, (STEPS == 50) * 1.0):
            assert np.flatnonzero(far_values(np.where(place == STEPS, 1e9, others))).tolist() == [place]
    two = np.where((STEPS == 3) | (STEPS == 70), 1e9, 0.0)
    assert np.flatnonzero(far_values(two)).tolist() == [3, 70]


@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=20).flatmap(
        lambda sold: st.permutations([float(one) for one in sold] + [0.0] * (2 * len(sold) + 6))
    ),
    st.sampled_from([1.0, 0.25, 64.0]),
)
def test_intermittent_demand_is_never_left_out(values, unit):
    for count in range(1, len(values) + 1):
        assert not far_values(unit * np.array(values[:count])).any()


@pytest.mark.parametrize("before", [np.zeros(40), (np.arange(40) == 17) * 1.0, (np.arange(40) % 9 == 0) * 2.0])
def test_the_first_values_of_a_new_level_after_zeros_are_kept(before):
    for level in (40.0, 1000, 50_000):
        for stays in range(1, 6):
            assert not far_values(np.append(before, np.full(stays, level))).any()


@given(series(), st.integers(1, 40))
def test_where_no_value_can_be_far_none_is_at_any_later_step(values, first):
    first = min(first, len(values))
    if not can_be_far(values, first):
        assert not any(far_values(values[:count]).any() for count in range(first, len(values) + 1))
    assert can_be_far(np.append(values[np.isfinite(values)][:1].repeat(30), [1e300]), 20)


def test_most_series_are_looked_at_once():
    assert not can_be_far(VALUES, 30) and not can_be_far(2.0 ** (STEPS / 10), 60)
    assert len(as_known(read_panel(VALUES)[0], np.arange(30, 90), 7)) == 1


@settings(deadline=None)
@given(series(), st.data())
def test_at_each_origin_a_series_is_what_was_known_there(values, data):
    one = read_panel(np.where(np.abs(values) > 1e30, 1e20, values))[0]
    first = data.draw(st.integers(1, len(values) - 1))
    places = np.arange(first, len(values) + 1)
    parts = as_known(one, places, 1)
    assert np.concatenate([part.places for part in parts]).tolist() == places.tolist()
    for part in parts:
        for place in part.places:
            expected = shortened(one, place)
            np.testing.assert_array_equal(part.series.observed[:place], expected.observed)
            if expected.observed[-1]:  # otherwise the origin is not judged
                np.testing.assert_array_equal(part.series.values[:place], expected.values)


@settings(deadline=None)
@given(series(), st.data())
def test_what_comes_later_does_not_change_what_is_left_out(values, data):
    values = np.where(np.abs(values) > 1e30, 1e20, values)
    count = data.draw(st.integers(1, len(values)))
    later = data.draw(st.lists(st.sampled_from([0.0, 5.0, 1e9, 1e12]), max_size=6))
    one, other = (shortened(read_panel(np.append(values[:count], end))[0], count) for end in (later, []))
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.observed, other.observed)
    assert one.repairs == other.repairs
    expected = far_values(values[:count])
    assert [place for place, _ in one.repairs.far] == np.flatnonzero(expected).tolist()


@pytest.mark.parametrize("refit", [True, False])
def test_a_backtest_leaves_out_what_was_absurd_at_its_origin(refit):
    """One value of 1e9 is left out, unless five more follow: then it was the first of a new level."""
    once = np.where(STEPS == 70, 1e9, VALUES)
    level = np.where(STEPS > 82, 1e9, once)
    model = Forecaster(2, 7, steps=2, seeds=1, hidden=4)
    if not refit:
        model.fit(VALUES[:82])
    one, other = (model.backtest(values, origins=7, refit=refit)["rows"] for values in (once, level))
    early = one["origin"] < 83  # later ones have seen what differs
    assert early.sum() == 2 * 2 and (one["yhat"][early] == other["yhat"][early]).all()
    assert (np.abs(one["yhat"]) < 20).all()
    assert (np.abs(other["yhat"]) < 20)[early].all() and (other["yhat"][~early] > 1e6).any()
    assert (other["origin"] == one["origin"]).all() and not (other["y"] == one["y"])[~early].all()


def test_series_whose_origins_know_different_values_keep_their_rows():
    """Rows, units and simple forecasts of a panel are those of its series one by one."""
    level = np.where(STEPS > 84, 5e6, VALUES)
    model = Forecaster(2, 7, steps=2, seeds=1, hidden=4).fit({"a": VALUES, "b": 2 * VALUES})
    both = model.backtest({"a": VALUES, "b": level, "c": 3 * VALUES}, origins=6, refit=False)
    for number, (name, values) in enumerate((("a", VALUES), ("b", level), ("c", 3 * VALUES))):
        alone = model.backtest({name: values}, origins=6, refit=False)
        rows = slice(12 * number, 12 * number + 12)
        assert (both["rows"]["unique_id"][rows] == name).all()
        for column in ("origin", "step", "y"):
            np.testing.assert_array_equal(both["rows"][column][rows], alone["rows"][column])
        np.testing.assert_allclose(both["rows"]["yhat"][rows], alone["rows"]["yhat"], rtol=1e-4)
        assert both["by_series"][name] == pytest.approx(alone["by_series"][name], rel=1e-4)
    # Where the first value of the new level is the last known one, it is left out, and the origin is not judged.
    assert (~both["rows"]["judged"][12:24].reshape(6, 2)).all(axis=1).sum() >= 1
