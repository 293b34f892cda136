"""RNNForecaster: shapes, scale, and that all its ways of forecasting agree."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn


def model(**options: Any) -> Any:
    defaults: dict[str, Any] = {"hidden_features": (4, 3), "rngs": nnx.Rngs(0)}
    return jaxrnn.RNNForecaster(**defaults | options)


def series(*shape: int):
    return jnp.asarray(np.random.RandomState(0).randn(*shape), jnp.float32)


@pytest.mark.parametrize(
    ("options", "inputs", "outputs"),
    [
        ({}, (2, 5), (2, 1)),
        ({}, (2, 5, 1), (2, 1)),
        ({"return_sequences": True}, (2, 5), (2, 5, 1)),
        ({"in_features": 3, "out_features": 2}, (2, 5, 3), (2, 2)),
        ({"in_features": 3, "out_features": 2, "return_sequences": True}, (2, 5, 3), (2, 5, 2)),
        ({"hidden_features": 3, "cell": nnx.GRUCell, "dtype": jnp.float32}, (2, 5), (2, 1)),
    ],
)
def test_shapes(options, inputs, outputs):
    # Traced, not run: the values are the other tests' subject.
    found = jax.eval_shape(model(**options), jax.ShapeDtypeStruct(inputs, jnp.float32))
    assert found.shape == outputs


def test_a_series_without_a_feature_axis_is_taken_as_univariate():
    x = series(2, 5)
    np.testing.assert_array_equal(model()(x), model()(x[..., None]))


def test_a_series_may_be_a_list():
    x = series(2, 5)
    np.testing.assert_array_equal(model()(x.tolist()), model()(x))


def test_the_forecast_is_the_scaled_head_of_the_last_hidden_state():
    scaled, x = model(output_scale=80.0), series(2, 5)
    hidden = scaled.layers(x[..., None])
    wanted = 80 * (hidden @ scaled.head.kernel[...] + scaled.head.bias)
    np.testing.assert_allclose(scaled(x), wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scaled(x), 80 * model()(x), rtol=1e-5)


def test_the_last_step_of_a_sequence_to_sequence_model_is_the_sequence_to_vector_forecast():
    x = series(2, 5)
    np.testing.assert_allclose(model(return_sequences=True)(x)[:, -1], model()(x), atol=1e-6)


def test_a_carry_handed_over_continues_the_series():
    forecaster, x = model(), series(2, 5)
    carry, _ = forecaster(x[:, :3], initial_carry=forecaster.initialize_carry(2), return_carry=True)
    np.testing.assert_allclose(forecaster(x[:, 3:], initial_carry=carry), forecaster(x), atol=1e-6)
    assert (forecaster(x[:, 3:]) != forecaster(x)).any()


def test_cell_options_reach_the_cells():
    cells = model(cell_options={"activation_fn": jnp.sin, "use_bias": False}).layers.cells
    assert all(cell.activation_fn is jnp.sin and cell.bias is None for cell in cells)


def test_half_precision_forecasts_stay_near_full_precision():
    half, x = model(dtype=jnp.bfloat16), series(2, 5)
    assert half.head.kernel[...].dtype == jnp.float32
    np.testing.assert_allclose(half(x).astype(jnp.float32), model()(x), atol=5e-2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: model(cell="lstn"), "unknown cell 'lstn'; available: simple_rnn"),
        (lambda: model()(series(5)), "inputs.shape=(5,) must be [batch, time, 1] or [batch, time]"),
        (lambda: model(in_features=3)(series(2, 5)), "inputs.shape=(2, 5, 1) must be [batch, time, 3]"),
        (lambda: model(hidden_features=()), "at least one layer is needed"),
        (lambda: model()(series(2, 5), initial_carry=()), "must be a tuple of 2 carries, not 0"),
        (lambda: model()(series(2, 0)), "has no steps, so there is no last output"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_values(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
