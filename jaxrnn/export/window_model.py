"""Models that append themselves to an ONNX graph."""

from collections.abc import Mapping
from typing import Any, Protocol

from jaxrnn.export.onnx_graph import Dim, Graph


class WindowModel(Protocol):
    """A model with windows of one size as its inputs, which knows its own operators.

    Attributes:
      input_shape: steps and features of a window, which both exports need.
      further_inputs: the sizes of its further inputs, all float32 ``[batch, ...]``, by the names of the arguments.
      output_shape: sizes of its outputs, without the batch.
      columns: what the last axis of the outputs is.
    """

    columns: tuple[str, ...]

    @property
    def input_shape(self) -> tuple[int, int]: ...

    @property
    def further_inputs(self) -> Mapping[str, tuple[int, ...]]: ...

    @property
    def output_shape(self) -> tuple[int, ...]: ...

    def append_to_onnx(self, graph: Graph, inputs: str, **further: str) -> str:
        """Append what a call computes."""
        ...


def append_window_model(graph: Graph, model: Any, batch: Dim, time: int | None) -> dict[str, Any]:
    """Append such a model with its inputs and outputs; returns what else describes it.

    Raises:
      ValueError: ``time`` is not that of its windows.
    """
    windowed: WindowModel = model
    require_time(windowed, time)
    inputs = graph.input("inputs", [batch, *windowed.input_shape])
    further = {name: graph.input(name, [batch, *sizes]) for name, sizes in windowed.further_inputs.items()}
    graph.output("forecasts", windowed.append_to_onnx(graph, inputs, **further), [batch, *windowed.output_shape])
    return {"columns": list(windowed.columns)}


def require_time(model: WindowModel, time: int | None) -> None:
    """A ValueError if the axis of time shall have another size than the model's windows."""
    if time not in (None, model.input_shape[0]):
        raise ValueError(f"a {type(model).__name__} reads windows of {model.input_shape[0]} steps, not {time=}")
