"""The network of a forecaster as a part of an ONNX graph: network.py, operator by operator."""

from typing import Any, NamedTuple

import numpy as np

from jaxrnn.export.onnx_graph import Graph
from jaxrnn.export.onnx_layers import plan_of_stack, run_layers
from jaxrnn.export.onnx_models import dense
from jaxrnn.forecasting.network import LARGEST, QuantileNetwork, lag_places
from jaxrnn.forecasting.panel_smoothing import COUNT, RATES
from jaxrnn.forecasting.windows import FEATURES


class Shared(NamedTuple):
    """What all networks of a forecaster read, as names in the graph.

    Attributes:
      inputs: the windows, ``[batch, window, features]``.
      read: what the recurrent layers read, ``[window, batch, features]``.
      linear: what the linear path reads, ``[batch, 2 window]``.
      smooth: the median of the smoothings, ``[batch, horizon]``.
      lags: what is known of earlier seasons, ``[batch, horizon, features]``.
      scale, unit: the unit of the window, and its noise in this unit, ``[batch, 1]``.
    """

    inputs: str
    read: str
    linear: str
    smooth: str
    lags: str
    scale: str
    unit: str

    @classmethod
    def of(cls, graph: Graph, network: QuantileNetwork, inputs: str) -> "Shared":
        """Append it."""

        def feature(number: int) -> str:
            return graph.add("Gather", inputs, graph.constant(number, np.int64), axis=2)

        def at_end(values: str) -> str:
            return graph.sliced(values, 1, -1, None)

        value, difference, observed, size, noise = (feature(number) for number in (0, 1, 2, 4, 5))
        center, scale, last_noise = at_end(feature(3)), at_end(size), at_end(noise)
        unit = graph.add("Div", last_noise, scale)
        zero = graph.constant(0.0)
        exists = graph.add("Cast", graph.add("Greater", size, zero), to=1)  # 1: float32
        known = graph.add("Mul", observed, exists)
        limits = graph.constant(-LARGEST), graph.constant(LARGEST)

        def read_linearly(differences: str) -> str:
            return graph.add("Mul", graph.add("Clip", graph.add("Div", differences, scale), *limits), known)

        linear = [read_linearly(graph.add("Sub", value, center)), read_linearly(difference)]
        values, differences = (graph.add("Asinh", one) for one in linear)
        ratio = graph.add("Div", graph.add("Log", unit), graph.constant(3.0))
        ratio = graph.add("Expand", ratio, graph.add("Shape", values))
        least = graph.add("Mul", last_noise, graph.constant(1e-3))
        change = graph.add("Log", graph.add("Div", graph.add("Max", noise, least), last_noise))
        read = [graph.with_axis(one, 2) for one in (values, differences, observed, ratio, change)]
        if network.known is not None:
            read.append(graph.sliced(inputs, 2, FEATURES, FEATURES + network.known.past))

        last = at_end(value)
        smoothings = _smoothings(graph, network, inputs, last, scale)
        smooth, apart = _median_and_spread(graph, smoothings)
        level = graph.add("Add", smooth, graph.add("Div", graph.add("Sub", last, center), scale))
        apart = graph.add("Log", graph.add("Add", apart, graph.constant(1.0)))
        places = graph.constant(lag_places(network.window, network.horizon, network.season), np.int64)
        lags = [graph.add("Gather", one, places, axis=1) for one in (values, exists)]
        lags += [graph.with_axis(one, 2) for one in (graph.add("Asinh", level), apart)]
        return cls(
            inputs,
            graph.add("Transpose", graph.add("Concat", *read, axis=2), perm=[1, 0, 2]),
            graph.add("Concat", *linear, axis=1),
            smooth,
            graph.add("Concat", *lags, axis=2),
            scale,
            unit,
        )


def append_network(graph: Graph, network: QuantileNetwork, shared: Shared) -> str:
    """Append a network: its quantiles ``[batch, horizon, levels]`` in the unit of each window."""
    plan = plan_of_stack(network.layers)
    carries: list[list[Any]] = [[None] * len(layer.cells) for layer in plan.layers]
    hidden, _ = run_layers(graph, plan, shared.read, None, carries)

    def weighted(name: str, values: str, part: Any = network) -> str:
        return dense(part, getattr(part, name))(graph, values)

    state = graph.with_axis(weighted("state", hidden), 1)
    place = graph.constant(np.asarray(network.place[...]), name="place")
    units = graph.add("Sum", state, weighted("lag", shared.lags), place)
    corrections = weighted("out", graph.add("Tanh", units))
    known = network.known
    if known is not None and known.future:
        first = FEATURES + known.past
        ahead = graph.sliced(shared.inputs, 1, -network.horizon, None)
        ahead = graph.sliced(ahead, 2, first, first + known.future)
        columns = weighted("columns", ahead, known)
        reading = graph.add("Add", columns, graph.with_axis(weighted("state", hidden, known), 1))
        corrections = graph.add("Add", corrections, weighted("out", graph.add("Relu", reading), known))
    middle = graph.add("Add", shared.smooth, weighted("linear", shared.linear))
    spread = graph.constant(np.asarray(network.spread[...]), name="spread")
    spread = graph.add("Mul", graph.with_axis(shared.unit, 2), spread)
    return graph.add("Sum", graph.with_axis(middle, 2), spread, corrections)


def _smoothings(graph: Graph, network: QuantileNetwork, inputs: str, last: str, scale: str) -> str:
    """What the smoothings forecast, ``[batch, horizon, COUNT]``, in the unit of the window."""
    ahead = np.arange(1, network.horizon + 1)
    sums = np.cumsum(np.array(RATES)[:, 2] ** ahead[:, None], axis=0)
    end = graph.sliced(inputs, 1, -1, None)
    levels, trends = (graph.sliced(end, 2, 6 + COUNT * part, 6 + COUNT * (part + 1)) for part in (0, 1))
    places = network.window - 1 + ahead - network.season * -(-ahead // network.season)
    seasons = graph.add("Gather", inputs, graph.constant(places, np.int64), axis=1)
    first = network.window - network.season  # a window that begins after this step holds less than a season
    size = graph.sliced(graph.sliced(inputs, 1, first, first + 1), 2, 4, 5)
    whole = graph.add("Cast", graph.add("Greater", size, graph.constant(0.0)), to=1)  # 1: float32
    seasons = graph.add("Mul", graph.sliced(seasons, 2, 6 + 2 * COUNT, FEATURES), whole)
    forecasts = graph.add("Sum", levels, graph.add("Mul", graph.constant(sums), trends), seasons)
    difference = graph.add("Sub", forecasts, graph.with_axis(last, 2))
    return graph.add("Div", difference, graph.with_axis(scale, 2))


def _median_and_spread(graph: Graph, values: str) -> tuple[str, str]:
    """Median and standard deviation over the last axis of ``[batch, horizon, COUNT]``: ``[batch, horizon]``."""
    middle = graph.sliced(graph.sorted(values, COUNT), 2, (COUNT - 1) // 2, COUNT // 2 + 1)
    rest = graph.add("Sub", values, graph.with_axis(_mean(graph, values, COUNT), 2))
    variance = _mean(graph, graph.add("Mul", rest, rest), COUNT)
    return _mean(graph, middle, 2 - COUNT % 2), graph.add("Sqrt", variance)


def _mean(graph: Graph, values: str, count: int) -> str:
    return graph.add("Div", graph.reduced("ReduceSum", values, 2), graph.constant(float(count)))
