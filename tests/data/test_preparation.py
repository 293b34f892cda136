"""Preparation looks at nothing that is not yet known, can be undone, and equals a direct loop."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from jaxrnn.data import Preparation

SEASON = 8
VALUES = np.stack(
    [
        0.1 * np.arange(60) + 5 * np.sin(2 * np.pi * np.arange(60) / SEASON) + np.random.RandomState(0).randn(60),
        np.random.RandomState(1).randn(60) * 3 + 7,
    ],
    axis=1,
)
TRAINING = 45
PREPARATIONS = {
    "raw": Preparation(),
    "raw_with_calendar": Preparation(calendar=SEASON),
    "level": Preparation(level_width=4),
    "level_of_one": Preparation(level_width=1),
    "season": Preparation(level_width=4, season=SEASON, season_width=3, calendar=SEASON),
    "season_of_one_day": Preparation(level_width=2, season=SEASON, season_width=1),
}
every_preparation = pytest.mark.parametrize("name", PREPARATIONS)


@every_preparation
@pytest.mark.parametrize("step", [20, 40, 58])
def test_nothing_at_a_step_depends_on_what_comes_later(name, step):
    fitted = PREPARATIONS[name].fit(VALUES[:TRAINING])
    before = fitted.apply(VALUES)
    changed = VALUES.copy()
    changed[step + 1 :] += 100 * np.random.RandomState(2).randn(59 - step, 2)
    after = fitted.apply(changed)
    np.testing.assert_array_equal(after.features[: step + 1], before.features[: step + 1])
    np.testing.assert_array_equal(after.baseline[: step + 1], before.baseline[: step + 1])
    np.testing.assert_array_equal(after.targets[:step], before.targets[:step])
    # The change is seen as soon as it may be: the property above is not that of constant features.
    assert (after.features[step + 1] != before.features[step + 1]).any()


@every_preparation
def test_baseline_and_scaled_target_together_are_the_next_value(name):
    prepared = PREPARATIONS[name].fit(VALUES[:TRAINING]).apply(VALUES)
    first = prepared.first
    again = prepared.baseline[first:-1] + prepared.scale * prepared.targets[first:-1, 0].astype(np.float64)
    np.testing.assert_allclose(again, VALUES[first + 1 :, 0], atol=1e-4)
    assert prepared.targets[-1] == 0 and not prepared.targets[:first].any() and not prepared.features[:first].any()
    assert prepared.features.dtype == prepared.targets.dtype == np.float32
    assert np.isfinite(prepared.features).all() and np.isfinite(prepared.baseline[first:]).all()
    # The first whole step is the first possible one.
    assert first == 0 or np.isnan(prepared.baseline[first - 1])


@pytest.mark.parametrize("name", ["level", "season", "season_of_one_day"])
def test_the_baseline_equals_a_direct_loop(name):
    preparation = PREPARATIONS[name]
    fitted = preparation.fit(VALUES[:TRAINING])
    prepared = fitted.apply(VALUES)
    x, half = VALUES[:, 0], preparation.season_width // 2
    if preparation.season is not None:
        rises = [x[t] - x[t - SEASON] for t in range(SEASON, TRAINING)]
        assert np.isclose(fitted.drift, np.mean(rises), rtol=1e-12) and 0.5 < fitted.drift < 1.1

    def seasonal(step):
        if preparation.season is None:
            return 0.0
        known, back = [], 1
        while step - back * SEASON - half >= 0:
            day = step - back * SEASON
            known += [x[d] + (back - 1) * fitted.drift for d in range(day - half, day + half + 1)]
            back += 1
        return np.median(known)

    for t in range(prepared.first, 60):
        window = range(t - (preparation.level_width or 0) + 1, t + 1)
        level = np.mean([x[u] - seasonal(u) for u in window])
        assert np.isclose(prepared.baseline[t], seasonal(t + 1) + level, rtol=1e-10)
        feature = (x[t] - seasonal(t) - level) / prepared.scale
        assert np.isclose(prepared.features[t, 0], feature, rtol=1e-5, atol=1e-6)


def test_the_scale_is_that_of_the_noise():
    noise = np.random.RandomState(3).randn(5000, 1)
    slow = np.linspace(0, 50, 5000)[:, None]
    assert Preparation(level_width=5).fit(slow + 2 * noise).scale == pytest.approx(2, rel=0.05)


def test_further_columns_are_scaled_by_the_training_part_and_calendar_runs_one_step_ahead():
    fitted = Preparation(calendar=SEASON).fit(VALUES[:TRAINING])
    features = fitted.apply(VALUES).features
    mean, std = VALUES[:TRAINING, 1].mean(), VALUES[:TRAINING, 1].std()
    angle = 2 * np.pi * np.arange(1, 61) / SEASON
    expected = np.stack([VALUES[:, 0], np.sin(angle), np.cos(angle), (VALUES[:, 1] - mean) / std], axis=1)
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_a_further_column_that_never_changes_becomes_zero():
    values = np.stack([VALUES[:, 0], np.full(60, 4.0)], axis=1)
    assert not Preparation().fit(values).apply(values).features[:, 1].any()


@every_preparation
def test_a_fitted_preparation_survives_json(name):
    fitted = PREPARATIONS[name].fit(VALUES[:TRAINING])
    assert Preparation.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted


@pytest.mark.parametrize("length", [0, 1])
def test_the_shortest_series_that_is_accepted_works_and_a_shorter_one_is_refused(length):
    preparation = PREPARATIONS["season"]
    fitted = preparation.fit(VALUES[: preparation.first + 3])
    assert np.isfinite(fitted.scale) and fitted.scale > 0
    prepared = fitted.apply(VALUES[: preparation.first + 2])
    assert np.isfinite(prepared.baseline[preparation.first :]).all()
    with pytest.raises(ValueError, match=r"has 14 steps, but season=8 and level_width=4 need at least 15"):
        preparation.fit(VALUES[: preparation.first + 2])
    with pytest.raises(ValueError, match=f"has {length} steps, but at least {preparation.first + 2} are needed"):
        fitted.apply(VALUES[:length])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Preparation(level_width=0), "level_width must be at least 1, or None for raw values, not 0"),
        (lambda: Preparation(level_width=1, season=3), "season=3 must be more than half of season_width=7"),
        (lambda: Preparation(season_width=4), "season_width must be odd, not 4"),
        (lambda: Preparation(season_width=-1), "season_width must be odd, not -1"),
        (lambda: Preparation(level_width=3).fit(np.full((20, 1), 4.0)), "all values of the training part are 4.0"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_values(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_further_columns_that_were_not_there_at_fitting_are_refused():
    fitted = replace(Preparation(), scale=1.0).fit(VALUES[:TRAINING, :1])
    with pytest.raises(ValueError, match="column"):
        fitted.apply(VALUES)


def test_a_line_without_noise_is_measured_by_its_own_spread():
    line = 0.5 * np.arange(50.0)[:, None]
    assert Preparation(level_width=3).fit(line).scale == pytest.approx(line.std())


def test_a_line_without_noise_is_measured_by_its_own_spread_whatever_its_slope():
    line = 0.1 * np.arange(50.0)[:, None]
    assert Preparation(level_width=3).fit(line).scale == pytest.approx(line.std())


def test_a_constant_that_is_no_binary_fraction_is_refused_as_well():
    with pytest.raises(ValueError, match="nothing to learn"):
        Preparation(level_width=3).fit(np.full((20, 1), 0.1))
