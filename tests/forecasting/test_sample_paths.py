"""Paths keep the quantiles of each step, and their sums are as sure as the errors of the steps go together."""

from statistics import NormalDist

import numpy as np
import pytest

from jaxrnn.forecasting.quantile_columns import LEVELS, quantiles_at
from jaxrnn.forecasting.sample_paths import correlation_of, normal_scores, sample_paths

PLACES = np.array([NormalDist().inv_cdf(level) for level in LEVELS])


def test_the_sum_of_a_random_walk_is_as_sure_as_in_closed_form():
    random = np.random.default_rng(0)
    steps = np.arange(1, 13)
    walks = random.standard_normal((4000, 12)).cumsum(axis=1)
    quantiles = np.broadcast_to(np.sqrt(steps)[:, None] * PLACES, (4000, 12, len(LEVELS)))
    scores = normal_scores(walks, quantiles, LEVELS)
    np.testing.assert_allclose(scores, np.clip(walks / np.sqrt(steps), -4, 4), atol=1e-9)
    correlation = correlation_of(scores)
    exact = np.minimum.outer(steps, steps) / np.sqrt(np.outer(steps, steps))
    np.testing.assert_allclose(correlation, exact, atol=0.05)
    paths = sample_paths(quantiles[:1], correlation, LEVELS, 20_000, random)[0]
    for step in (0, 11):  # every step keeps its quantiles
        found = [np.quantile(paths[:, step], level) for level in (0.1, 0.5, 0.9)]
        wanted = [np.sqrt(step + 1) * NormalDist().inv_cdf(level) for level in (0.1, 0.5, 0.9)]
        np.testing.assert_allclose(found, wanted, atol=0.1 * np.sqrt(step + 1))
    # Of the sum of a walk, the variance is that of sum_k k * noise.
    assert paths.sum(axis=1).std() == pytest.approx(np.sqrt((steps**2).sum()), rel=0.03)
    alone = sample_paths(quantiles[:1], np.eye(12), LEVELS, 20_000, random)[0]
    assert alone.sum(axis=1).std() == pytest.approx(np.sqrt(steps.sum()), rel=0.03)


def test_scores_and_values_are_inverse_and_quantiles_may_be_equal_or_values_missing():
    quantiles = np.sort(np.random.default_rng(0).normal(size=(5, len(LEVELS))), axis=-1)
    for level in (0.01, 0.15, 0.5, 0.62, 0.99):
        values = quantiles_at(level, quantiles, LEVELS)
        np.testing.assert_allclose(
            normal_scores(values, quantiles, LEVELS), NormalDist().inv_cdf(level), atol=1e-9
        )
    flat = np.zeros((3, len(LEVELS)))
    assert normal_scores(np.array([0.0, 1.0, -1.0]), flat, LEVELS).tolist() == [0.0, 4.0, -4.0]
    assert np.isnan(normal_scores(np.array([np.nan]), flat[:1], LEVELS)).all()
    assert (sample_paths(flat[None], np.eye(3), LEVELS, 10, np.random.default_rng(0)) == 0).all()


@pytest.mark.parametrize("periods", [1.0, 10.0, np.inf])
def test_of_few_origins_and_missing_values_it_is_still_a_correlation(periods):
    scores = np.random.default_rng(0).normal(size=(6, 8))
    scores[0, 3:] = np.nan
    correlation = correlation_of(scores, periods)
    np.testing.assert_allclose(np.diag(correlation), 1)
    np.linalg.cholesky(correlation)
    np.testing.assert_allclose(correlation_of(scores[:1])[0], 0.9 ** np.arange(8))
