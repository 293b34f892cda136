"""Networks that are trained for the parameters of a distribution: formulas, intervals, counts, files, errors."""

import csv
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from experiments import forecast
from jaxrnn.forecasting import Forecaster, coverage, wql
from jaxrnn.forecasting.distributions import DISTRIBUTIONS, likelihood, with_units
from jaxrnn.forecasting.quantile_columns import LEVELS
from tests.experiments.runs_of_tests import read_json

LOCATIONS, LOGS, DEGREES = np.meshgrid([-30.0, -1.0, 0.0, 0.7, 12.0], [-5.0, -0.5, 0.0, 3.0], [-4.0, 1.0, 30.0])
OUTPUTS = np.stack([LOCATIONS, LOGS, DEGREES], axis=-1).reshape(1, -1, 3)
COUNT = OUTPUTS.shape[1]
ANCHORS = np.tile([0.0, 3.0, 500.0], COUNT // 3)[None]
SCALES = np.array([[2.0]])


def reference(name: str):
    """SciPy's distribution of the values in the units of the series."""
    location = ANCHORS + SCALES * OUTPUTS[..., 0]
    sigma = SCALES * np.exp(OUTPUTS[..., 1])
    if name == "normal":
        return scipy.stats.norm(location, sigma)
    if name == "student-t":
        return scipy.stats.t(2 + np.log1p(np.exp(OUTPUTS[..., 2])), location, sigma)
    mean = SCALES * np.logaddexp(8 * location / SCALES, 0) / 8 + 1e-6
    size = np.clip((mean / sigma) ** 2, 1e-6, 1e6)
    return scipy.stats.nbinom(size, size / (size + mean))


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_likelihood_and_quantiles_are_those_of_scipy(name):
    one, expected = DISTRIBUTIONS[name], reference(name)
    outputs = OUTPUTS[..., : len(one.outputs)]
    values = np.tile([0.0, 1.0, 4.0, 700.0, 501.0], COUNT // 5)[None]
    targets = (values - ANCHORS) / SCALES
    targets[0, 7] = np.nan
    weighted = np.concatenate([with_units(targets, ANCHORS, SCALES[:, 0]), [[0.5]]], axis=1)
    with jax.enable_x64(True):
        found = np.asarray(likelihood(one, COUNT)(jnp.asarray(outputs), jnp.asarray(weighted)))
    log_density = getattr(expected, "logpmf" if one.counts else "logpdf")
    log = log_density(values) + (0 if one.counts else np.log(SCALES))
    np.testing.assert_allclose(np.delete(found, 7, 1), np.delete(-0.5 * log, 7, 1), rtol=1e-6, atol=1e-9)
    assert found[0, 7] == 0
    quantiles = one.quantiles(outputs, LEVELS, ANCHORS, SCALES)
    in_units = ANCHORS[..., None] + SCALES[..., None] * quantiles
    np.testing.assert_allclose(
        in_units, np.stack([expected.ppf(level) for level in LEVELS], -1), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_gradients_are_finite_at_extremes(name):
    one = DISTRIBUTIONS[name]
    extremes = np.array([-1e4, -30.0, 0.0, 30.0, 1e4])
    outputs = np.stack(np.meshgrid(*[extremes] * len(one.outputs)), axis=-1).reshape(1, -1, len(one.outputs))
    count = outputs.shape[1]
    for target in (0.0, 1e4, np.nan):
        targets, anchors = np.full((1, count), target), np.full((1, count), 3.0)
        weighted = np.concatenate([with_units(targets, anchors, np.array([0.5])), [[1.0]]], axis=1)
        loss = lambda o, w=weighted: likelihood(one, count)(o, jnp.asarray(w, jnp.float32)).sum()  # noqa: E731
        value, gradient = jax.value_and_grad(loss)(jnp.asarray(outputs, jnp.float32))
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_counts_of_millions_are_right_in_float32():
    means, shares, ratios = np.meshgrid([0.3, 5.0, 100.0, 1e4, 1e6], [0.03, 0.3, 1.0], [0.0, 0.7, 1.0, 1.5])
    anchors, counts = means.reshape(1, -1), np.round(means * ratios).reshape(1, -1)
    scales = 0.2 * anchors
    outputs = np.stack([np.zeros(anchors.shape), np.log(shares.reshape(1, -1) / 0.2)], axis=-1)
    one = DISTRIBUTIONS["negative-binomial"]

    def total(outputs, dtype):
        given = (jnp.asarray(array, dtype) for array in ((counts - anchors) / scales, anchors, scales))
        losses = one.negative_log_likelihood(outputs, *given)
        return losses.sum(), losses

    differentiate = jax.value_and_grad(total, has_aux=True)
    (_, losses), gradients = jax.device_get(differentiate(jnp.asarray(outputs, jnp.float32), jnp.float32))
    with jax.enable_x64(True):
        (_, exact), exact_gradients = jax.device_get(differentiate(jnp.asarray(outputs), jnp.float64))
    mean = anchors + 1e-6
    size = np.clip((mean / (shares.reshape(1, -1) * anchors)) ** 2, 1e-6, 1e6)
    expected = -scipy.stats.nbinom.logpmf(counts, size, size / (size + mean))
    np.testing.assert_allclose(exact, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(losses, expected, rtol=2e-3, atol=2e-3)
    largest = np.abs(exact_gradients).max(-1, keepdims=True)
    np.testing.assert_allclose(gradients / largest, exact_gradients / largest, atol=5e-3)


def panel_of(name: str, series: int = 40, steps: int = 72) -> tuple[np.ndarray, Any]:
    """Values ``[series, steps]`` with a season, and the distribution that they were drawn from."""
    random = np.random.default_rng(0)
    level = random.uniform(5, 60, (series, 1)) * (1 + 0.3 * np.sin(2 * np.pi * np.arange(steps) / 12))
    if name == "negative-binomial":
        true: Any = scipy.stats.nbinom(4, 4 / (4 + level))
    elif name == "normal":
        true = scipy.stats.norm(level, 0.1 * level)
    else:
        true = scipy.stats.t(3, level, 0.1 * level)
    return true.rvs(size=level.shape, random_state=random).astype(float), true


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_forecasts_are_near_those_of_the_distribution_that_the_data_are_drawn_from(name, tmp_path):
    values, true = panel_of(name)
    training, actual = {str(i): one[:-6] for i, one in enumerate(values)}, values[:, -6:]
    model = Forecaster(6, season=12, steps=300, seeds=1, hidden=8, distribution=name).fit(training)
    found = model.predict()
    assert 0.7 < coverage(actual.ravel(), found["lo-80"], found["hi-80"]) < 0.9
    columns, levels = {0.1: "lo-80", 0.5: "yhat", 0.9: "hi-80"}, np.array([0.1, 0.5, 0.9])
    ours = np.stack([found[column].reshape(actual.shape) for column in columns.values()], axis=-1)
    best = np.stack([true.ppf(level)[:, -6:] for level in columns], axis=-1)
    assert wql(actual, ours, levels) < 1.25 * wql(actual, best, levels)
    model.save(tmp_path)
    again = Forecaster.load(tmp_path)
    assert again.settings.distribution == name
    for column, like in again.predict(training).items():
        np.testing.assert_array_equal(like, found[column])
        if name == "negative-binomial" and column not in ("unique_id", "ds"):
            assert (like == np.round(like)).all() and (like >= 0).all()
    paths = model.sample(50)["0"]
    assert paths.shape == (50, 6) and np.isfinite(paths).all()


@pytest.mark.parametrize("wrong", [2.5, -1.0])
def test_counts_are_whole_numbers_from_0_on(wrong):
    values = np.arange(40.0) % 7
    values[30] = wrong
    message = re.escape(
        f"series 'b' holds {wrong:g} at 30, but the distribution negative-binomial is one of counts"
    )
    model = Forecaster(3, season=7, steps=5, seeds=1, hidden=4, distribution="negative-binomial")
    with pytest.raises(ValueError, match=message):
        model.fit({"a": np.arange(40.0) % 7, "b": values})
    model.fit({"a": np.arange(40.0) % 7})
    with pytest.raises(ValueError, match=message):
        model.predict({"b": values})


def test_zeros_and_a_jump_give_a_sensible_forecast():
    zeros, jump = np.zeros(60), np.zeros(60)
    jump[-3:] = 4000
    model = Forecaster(3, season=1, steps=20, seeds=1, hidden=4, distribution="negative-binomial")
    found = model.fit({"zeros": zeros, "jump": jump}).predict()
    assert all(np.isfinite(found[name]).all() for name in ("yhat", "lo-95", "hi-95"))
    assert (found["yhat"][:3] < 1).all()


def test_an_unknown_distribution_is_refused():
    with pytest.raises(
        ValueError, match=r"unknown distribution 'poisson'; available: normal, student-t, negative-b"
    ):
        Forecaster(3, distribution="poisson")


def test_the_command_takes_a_distribution(tmp_path):
    path, out = tmp_path / "sales.csv", tmp_path / "run"
    counts = np.random.default_rng(0).poisson(5, 40)
    path.write_text("\n".join(["ds,y", *(f"{day},{count}" for day, count in enumerate(counts))]))
    options = [
        "--origins",
        "1",
        "--series",
        str(path),
        "--horizon",
        "4",
        "--season",
        "7",
        "--steps",
        "10",
        "--seeds",
        "1",
    ]
    assert forecast.main([*options, "--distribution", "negative-binomial", "--out", str(out)]) == 0
    with (out / "forecast.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and all(float(row["yhat"]).is_integer() for row in rows)
    assert read_json(out / "horizon.json")["settings"]["distribution"] == "negative-binomial"
