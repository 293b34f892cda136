"""What a network that corrects simple forecasts reads is known at each step, and gives the values back."""

import json

import numpy as np
import pytest

from jaxrnn.forecasting import Correction

STEPS = np.arange(120)
VALUES = np.stack(
    [20 + 5 * np.sin(2 * np.pi * STEPS / 7) + np.random.RandomState(0).randn(120), np.cos(STEPS / 5)], axis=1
)


@pytest.fixture(scope="module", params=[None, 7], ids=str)
def fitted(request) -> Correction:
    return Correction.fit(VALUES[:84], train=72, season=request.param)


def test_nothing_at_a_step_depends_on_what_comes_later(fitted):
    changed = VALUES.copy()
    changed[101:] *= -3
    before, after = fitted.apply(VALUES, 84), fitted.apply(changed, 84)
    for name in ("features", "baseline", "scale"):
        np.testing.assert_array_equal(getattr(before, name)[:101], getattr(after, name)[:101])
        assert (getattr(before, name)[101] != getattr(after, name)[101]).any()
    np.testing.assert_array_equal(before.targets[:100], after.targets[:100])


def test_baseline_and_scaled_target_together_are_the_next_value(fitted):
    prepared = fitted.apply(VALUES, 84)
    early = prepared.baseline[:82] + prepared.scale[:82] * prepared.targets[:82, 0].astype(np.float64)
    np.testing.assert_allclose(early, VALUES[1:83, 0], rtol=1e-5)
    # From the test part on, the average is fitted to the whole training part.
    np.testing.assert_array_equal(prepared.baseline[83:], fitted.whole.forecast(VALUES[:, 0])[84:])
    np.testing.assert_array_equal(prepared.baseline[:83], fitted.early.forecast(VALUES[:, 0])[1:84])
    assert prepared.features.shape == (120, 5 if fitted.season is None else 8)


def test_features_and_targets_do_not_depend_on_the_unit_of_the_series(fitted):
    larger = Correction.fit(1000 * VALUES[:84], train=72, season=fitted.season).apply(1000 * VALUES, 84)
    np.testing.assert_allclose(larger.features, fitted.apply(VALUES, 84).features, atol=1e-3)


def test_it_can_be_stored(fitted):
    assert Correction.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted


def test_a_constant_series_has_finite_features():
    prepared = Correction.fit(np.full((40, 1), 3.0), train=30).apply(np.full((50, 1), 3.0), 40)
    assert np.isfinite(prepared.features).all() and (prepared.baseline == 3).all() and (prepared.scale > 0).all()


@pytest.mark.parametrize(
    ("values", "season", "message"),
    [
        (np.full((40, 1), 1e31), None, "absolute values must be below"),
        (VALUES[:40], 35, "season=35 .--season. must be shorter"),
    ],
)
def test_what_cannot_be_prepared_is_an_error(values, season, message):
    with pytest.raises(ValueError, match=message):
        Correction.fit(values, train=30, season=season)
    fitted = Correction.fit(VALUES[:40, :1], train=30)
    with pytest.raises(ValueError, match="has 1 further columns, but 0 were fitted"):
        fitted.apply(VALUES, 40)
