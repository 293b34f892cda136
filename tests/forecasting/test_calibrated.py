"""A fitted forecaster as one module, and exported: against its own predict, in ONNX Runtime and as StableHLO."""

from typing import Any

import jax.export
import numpy as np
import pytest
from flax import nnx

from jaxrnn.export import load_safetensors, quantize, save_safetensors, to_onnx, to_stablehlo
from jaxrnn.forecasting import CalibratedNetworks, Forecaster

onnxruntime = pytest.importorskip(
    "onnxruntime", reason="onnxruntime is not installed: pip install 'jaxrnn[export]'"
)
HORIZON, STEPS, NAMES = 5, 60, ("a", "b", "c")


def panel(count: int = 3, steps: int = STEPS) -> dict[str, np.ndarray]:
    """Series of very different sizes, with a promotion every five days and what a past column would show."""
    random, days = np.random.default_rng(0), np.arange(steps)
    sizes = 3.0 ** np.arange(count)[:, None] if count == 3 else np.linspace(1, 9, count)[:, None]
    promotion = np.tile((days % 5 == 0) * 1.0, (count, 1))
    values = sizes * (3 + np.sin(2 * np.pi * days / 7) + promotion + 0.1 * random.normal(size=(count, steps)))
    names = NAMES if count == 3 else tuple(f"s{number}" for number in range(count))
    return {
        "unique_id": np.repeat(names, steps),
        "ds": np.tile(np.datetime64("2024-01-01") + days, count),
        "y": values.ravel(),
        "promotion": promotion.ravel(),
        "visitors": (values / sizes + random.normal(size=values.shape)).ravel(),
        "region": np.repeat(["x", "y", "x"] * (count // 3), steps),
    }


def only_values(frame: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: frame[name] for name in ("unique_id", "ds", "y")}


def ahead() -> dict[str, np.ndarray]:
    days = STEPS + np.arange(HORIZON)
    return {
        "unique_id": np.repeat(NAMES, HORIZON),
        "ds": np.tile(np.datetime64("2024-01-01") + days, 3),
        "promotion": np.tile((days % 5 == 0) * 1.0, 3),
    }


FURTHER = {"future_columns": "promotion", "past_columns": "visitors", "static_columns": "region"}
CASES = {
    "plain": ({"calendar": False}, only_values(panel()), None),
    "many series": ({"seeds": 2}, only_values(panel(36)), None),  # one period: a quarter of the smoothings
    "two layers": ({"cell": "lstm", "hidden": (6, 4), "quantiles": (0.05, 0.33)}, only_values(panel()), None),
    "columns": ({**FURTHER, "seeds": 2, "non_negative": True}, panel(), ahead()),
    "no season": ({"season": 1}, only_values(panel()), None),
}


@pytest.mark.parametrize("name", CASES)
def test_it_forecasts_as_the_forecaster_does_here_and_elsewhere(name, tmp_path):
    options, frame, future = CASES[name]
    options = {"season": 7, "steps": 20, "seeds": 1, "hidden": (6,), **options}
    model = Forecaster(HORIZON, **options).fit(frame)
    if name == "many series":
        assert model.calibration is not None and model.calibration.shares == (0.75, 0.25, 0.0)
    networks, forecast = CalibratedNetworks(model), model.predict(future=future)
    assert networks.columns == tuple(forecast)[2:]
    expected = np.stack([forecast[column] for column in networks.columns], axis=-1).reshape(
        -1, *networks.output_shape
    )
    inputs = networks.inputs(future=future)
    assert inputs["inputs"].shape[1:] == networks.input_shape
    near: dict[str, Any] = {"rtol": 1e-5, "atol": 0.0}
    np.testing.assert_allclose(networks(**inputs), expected, **near)

    session = onnxruntime.InferenceSession(to_onnx(networks), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, inputs)[0], expected, **near)
    one = {name: array[:1] for name, array in inputs.items()}
    np.testing.assert_allclose(session.run(["forecasts"], one)[0], expected[:1], **near)
    assert [(entry.name, entry.shape[0]) for entry in session.get_inputs()] == [(n, "batch") for n in inputs]

    program = jax.export.deserialize(bytearray(to_stablehlo(networks)))
    further = {name: array for name, array in inputs.items() if name != "inputs"}
    np.testing.assert_allclose(program.call(inputs["inputs"], **further), expected, **near)

    small = quantize(networks)
    rounded = np.asarray(small(**inputs))
    assert 0 < np.abs(rounded / expected - 1).max() < 0.01
    session = onnxruntime.InferenceSession(to_onnx(small), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, inputs)[0], rounded, **near)

    save_safetensors(networks, tmp_path / "networks")
    other = CalibratedNetworks(Forecaster(HORIZON, **{**options, "seed": 5}).fit(frame))
    load_safetensors(other, tmp_path / "networks")
    np.testing.assert_array_equal(other(**inputs), networks(**inputs))


@pytest.mark.parametrize(
    "values",
    [
        np.concatenate([np.linspace(40, 0, 40), np.zeros(20)]),
        np.random.default_rng(0).poisson(2, 90).astype(float),
    ],
)
def test_no_forecast_of_what_is_never_negative_is_negative(values):
    model = Forecaster(HORIZON, 1, steps=20, seeds=1, hidden=(6,), quantiles=[0.01]).fit(values)
    networks = CalibratedNetworks(model)
    session = onnxruntime.InferenceSession(to_onnx(networks), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, networks.inputs())
    assert (found[..., networks.columns.index("q-0.01")] == 0).any()
    assert (found >= 0).all() and (np.asarray(networks(**networks.inputs())) >= 0).all()


def test_it_stays_as_it_is_when_the_forecaster_is_fitted_again():
    frame = only_values(panel())
    model = Forecaster(HORIZON, 7, steps=5, seeds=1, hidden=(4,)).fit(frame)
    networks, expected = CalibratedNetworks(model), model.predict()
    model.fit({"other": np.arange(40.0)})
    found = networks(**networks.inputs())
    np.testing.assert_allclose(found[..., 0].ravel(), expected["yhat"], rtol=1e-5)
    hash(nnx.split(networks)[0])  # of the graph definition, which jit needs


def test_rows_that_do_not_fit_are_refused_here_and_elsewhere():
    networks = CalibratedNetworks(Forecaster(HORIZON, 7, steps=5, seeds=1, hidden=(4,)).fit(only_values(panel())))
    inputs = networks.inputs()
    session = onnxruntime.InferenceSession(to_onnx(networks), providers=["CPUExecutionProvider"])
    with pytest.raises(
        ValueError, match=rf"anchors must have the shape \[batch, {HORIZON}\], not \[1, {HORIZON}\]"
    ):
        networks(**{**inputs, "anchors": inputs["anchors"][:1]})
    with pytest.raises(ValueError, match=r"inputs must have the shape \[batch, "):
        networks(**{**inputs, "inputs": inputs["inputs"][:, 1:]})
    with pytest.raises(Exception, match="Reshape"):
        session.run(None, {**inputs, "anchors": inputs["anchors"][:1]})


def test_what_cannot_be_exported_is_named():
    with pytest.raises(ValueError, match="not fitted"):
        CalibratedNetworks(Forecaster(HORIZON))
    counts = np.random.default_rng(0).poisson(5, 60)
    model = Forecaster(HORIZON, 1, steps=5, seeds=1, hidden=(4,), distribution="negative-binomial").fit(counts)
    with pytest.raises(ValueError, match="distribution='negative-binomial' cannot be exported"):
        CalibratedNetworks(model)
    with pytest.raises(ValueError, match="must be a fitted Forecaster, not "):
        CalibratedNetworks("model")  # pyright: ignore[reportArgumentType]
    model: Any = Forecaster(HORIZON, 1, steps=5, seeds=1, hidden=(4,)).fit(counts)
    networks = CalibratedNetworks(model)
    with pytest.raises(ValueError, match="features, not features=99"):
        to_stablehlo(networks, features=99)
    for export in (to_onnx, to_stablehlo):
        with pytest.raises(ValueError, match=rf"reads windows of {networks.input_shape[0]} steps, not time=99"):
            export(networks, time=99)
        with pytest.raises(ValueError, match="seq_lengths=True needs a model that is called with seq_lengths"):
            export(networks, seq_lengths=True)
        with pytest.raises(ValueError, match=r"export jaxrnn\.forecasting\.CalibratedNetworks\(model\)"):
            export(model)
