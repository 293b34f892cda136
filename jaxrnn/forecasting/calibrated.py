"""What a fitted forecaster computes from windows, as one module of JAX: for other programs."""

import copy
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxrnn import checks
from jaxrnn.forecasting.forecaster import Forecaster
from jaxrnn.forecasting.network import smooth_forecast
from jaxrnn.forecasting.network_onnx import Shared, append_network
from jaxrnn.forecasting.quantile_columns import LEVELS, forecast_columns

_MEDIAN = LEVELS.index(0.5)


class CalibratedNetworks(nnx.Module):
    """The networks of a fitted forecaster, their mean, its calibration and the units of the series, in one module.

    :func:`jaxrnn.export.to_onnx`, :func:`jaxrnn.export.to_stablehlo`, :func:`jaxrnn.export.save_safetensors` and
    :func:`jaxrnn.export.quantize` take it. It begins with the windows of a series, which :meth:`inputs` makes.

    Called with

    - ``inputs [batch, window, features]``, the windows before each origin,
    - ``anchors [batch, horizon]``, what the forecasts are differences to: the last value of the series, with what
      columns that are known in advance add to it,
    - ``naive [batch, horizon]``, the seasonal naive forecasts,

    it returns ``[batch, horizon, columns]``, in the units of the series: the columns ``yhat``, ``lo-80``,
    ``hi-80``, ``lo-95``, ``hi-95`` and those of the forecaster's ``quantiles``, which ``columns`` names. It
    computes in float32, where the forecaster takes float64 for all that follows the networks: a forecast that is
    far smaller than the last value has fewer exact digits. To fill a batch, repeat a row, because the forecasts of
    a row of zeros are NaN. ONNX Runtime ends the process at an empty batch.

    Args:
      model: a fitted forecaster. It may be fitted again afterwards, this module stays as it is.

    Raises:
      ValueError: it is no fitted forecaster, or it has a ``distribution``, whose quantiles SciPy computes.

    >>> import jaxrnn.export
    >>> import onnxruntime
    >>> steps = np.arange(120)
    >>> shop = {"a": 5 + np.sin(2 * np.pi * steps / 12)}
    >>> model = Forecaster(horizon=3, season=12, steps=20, seeds=1, hidden=(8,)).fit(shop)
    >>> networks = CalibratedNetworks(model)
    >>> file = jaxrnn.export.to_onnx(networks)
    >>> session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    >>> (forecasts,) = session.run(None, networks.inputs())
    >>> networks.columns, forecasts.shape
    (('yhat', 'lo-80', 'hi-80', 'lo-95', 'hi-95'), (1, 3, 5))
    >>> bool(np.allclose(forecasts[0, :, 0], model.predict()["yhat"], rtol=1e-5))
    True
    """

    def __init__(self, model: Forecaster):
        if not isinstance(model, Forecaster):
            raise ValueError(f"model must be a fitted Forecaster, not {checks.shown(model)}")
        settings, calibration = model.settings, model.calibration
        if calibration is None:
            raise ValueError("the model is not fitted: call fit first, or load a saved one")
        if settings.distribution is not None:
            raise ValueError(
                f"distribution={settings.distribution!r} cannot be exported, since SciPy computes its quantiles: "
                "fit a model without one"
            )
        self._model = copy.copy(model)  # whose parts stay, since fit replaces them
        self.networks = nnx.List(model.networks.modules())
        self.non_negative = bool(settings.non_negative)
        self.shares = nnx.Variable(jnp.asarray(calibration.shares, jnp.float32))
        self.shifts = nnx.Variable(jnp.asarray(calibration.shifts, jnp.float32))
        columns = forecast_columns(np.eye(len(LEVELS)), settings.quantiles)
        self.columns = tuple(columns)
        # Of which quantiles each column is a sum, and how much of each it takes.
        self._parts = tuple(
            tuple((int(place), float(share[place])) for place in np.flatnonzero(share))
            for share in columns.values()
        )

    @property
    def input_shape(self) -> tuple[int, int]:
        """Of a window: steps and features."""
        network = self.networks[0]
        return network.window, network.num_features

    @property
    def further_inputs(self) -> Mapping[str, tuple[int, ...]]:
        """The sizes of the other arguments, without the batch."""
        horizon = self.networks[0].horizon
        return {"anchors": (horizon,), "naive": (horizon,)}

    @property
    def output_shape(self) -> tuple[int, int]:
        """Of a forecast: steps and columns."""
        return self.networks[0].horizon, len(self.columns)

    def inputs(self, frame: Any = None, *, future: Any = None) -> dict[str, Any]:
        """The arguments of a call for the steps after the series of a frame: NumPy arrays, float32.

        Rows are in the order of the series.

        Args:
          frame, future: as in :meth:`Forecaster.predict`.

        Raises:
          ValueError: as there.
        """
        windows = self._model.windows_to_forecast(frame, future)[1]
        ends, (window, _) = windows.ends, self.input_shape
        anchors = windows.anchors[ends]
        arrays = {
            "inputs": windows.features[ends[:, None] + np.arange(1 - window, 1)],
            "anchors": anchors,
            "naive": windows.base[ends] - windows.last[ends][:, None] + anchors,
        }
        return {name: np.asarray(array, np.float32) for name, array in arrays.items()}

    def __call__(self, inputs: Array, *, anchors: Array, naive: Array) -> Array:
        """The forecasts. Raises a ValueError if a shape is not as the class says."""
        self._check(inputs, anchors, naive)
        network, scale = self.networks[0], inputs[:, -1:, 4]
        smooth, _ = smooth_forecast(inputs, network.horizon, network.season)
        outputs = [one(inputs) for one in self.networks]
        quantiles = jnp.sort(sum(outputs[1:], outputs[0]) / len(outputs), axis=-1)
        middle = quantiles[..., _MEDIAN]
        parts = (middle, smooth, (naive - anchors) / scale)
        mixed = sum(share * part for share, part in zip(self.shares[...], parts))
        quantiles = jnp.sort(quantiles + (mixed - middle)[..., None] + self.shifts[...], axis=-1)
        values = anchors[..., None] + scale[..., None] * quantiles
        values = jnp.maximum(values, 0.0) if self.non_negative else values
        columns = [sum(values[..., place] * share for place, share in of) for of in self._parts]
        # A column beyond the last quantiles may be below 0 where these are not.
        return jnp.stack([jnp.maximum(one, 0.0) if self.non_negative else one for one in columns], axis=-1)

    def _check(self, inputs: Array, anchors: Array, naive: Array) -> None:
        shapes = {"inputs": self.input_shape, **self.further_inputs}
        for (name, wanted), array in zip(shapes.items(), (inputs, anchors, naive)):
            if array.ndim != 1 + len(wanted) or array.shape[1:] != wanted or array.shape[0] != inputs.shape[0]:
                sizes = ", ".join(map(str, ("batch", *wanted)))
                raise ValueError(f"{name} must have the shape [{sizes}], not {list(array.shape)}")

    def append_to_onnx(self, graph: Any, inputs: str, *, anchors: str, naive: str) -> str:
        """Append what a call computes to an ONNX graph."""
        network = self.networks[0]
        shared = Shared.of(graph, network, inputs)
        # The same shape again: a runtime would repeat a batch of one for all rows of the windows.
        anchors, naive = (graph.add("Reshape", one, graph.add("Shape", shared.smooth)) for one in (anchors, naive))
        total = append_network(graph, network, shared)
        for one in list(self.networks)[1:]:
            total = graph.add("Add", total, append_network(graph, one, shared))
        quantiles = graph.sorted(graph.add("Div", total, graph.constant(float(len(self.networks)))), len(LEVELS))
        middle = graph.add("Gather", quantiles, graph.constant(_MEDIAN, np.int64), axis=2)
        change = graph.add("Sub", naive, anchors)
        parts = middle, shared.smooth, graph.add("Div", change, shared.scale)
        shares = np.asarray(self.shares[...])
        mixed = [graph.add("Mul", part, graph.constant(share)) for share, part in zip(shares, parts)]
        moved = graph.add("Sub", graph.add("Sum", *mixed), middle)
        shifts = graph.constant(np.asarray(self.shifts[...]), name="shifts")
        quantiles = graph.add("Add", graph.add("Add", quantiles, graph.with_axis(moved, 2)), shifts)
        quantiles = graph.sorted(quantiles, len(LEVELS))
        values = graph.add("Mul", graph.with_axis(shared.scale, 2), quantiles)
        values = graph.add("Add", graph.with_axis(anchors, 2), values)
        values = graph.add("Max", values, graph.constant(0.0)) if self.non_negative else values
        columns = []
        for of in self._parts:
            taken = [
                graph.add("Mul", graph.sliced(values, 2, place, place + 1), graph.constant(share))
                for place, share in of
            ]
            column = taken[0] if len(taken) == 1 else graph.add("Sum", *taken)
            # A column beyond the last quantiles may be below 0 where these are not.
            beyond = self.non_negative and len(taken) > 1
            columns.append(graph.add("Max", column, graph.constant(0.0)) if beyond else column)
        return graph.add("Concat", *columns, axis=2)
