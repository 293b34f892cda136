"""An ONNX graph that is built operator by operator."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrnn.export.files import package

OLDEST_OPSET = 14
"""The first set with today's RNN, LSTM and GRU."""

Dim = int | str
"""A size, or the name of one that is known when the model runs."""


class Kernel(NamedTuple):
    """Weights that inputs are multiplied with.

    Attributes:
      values: float32.
      scale: of int8 weights, in a shape that fits ``values``: these are whole numbers times it. None otherwise.
    """

    values: np.ndarray
    scale: np.ndarray | None = None


class Graph:
    """Operators, constants, inputs and outputs of a graph, or of the body of a loop in one.

    Every value has a name of its own in the whole model, and is passed on by it. Constants of a loop's body are
    those of the graph around it.

    Args:
      opset: version of the set of operators.
      outer: the graph around the loop that this is the body of; None for a model's own graph.
    """

    def __init__(self, opset: int, outer: "Graph | None" = None):
        self.opset = opset
        self._onnx = package("onnx") if outer is None else outer._onnx
        self._root: Graph = self if outer is None else outer._root
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._counts: dict[str, int] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[Any] = []

    def input(self, name: str, shape: Sequence[Dim], dtype: Any = np.float32) -> str:
        self._inputs.append(self._value(name, shape, dtype))
        return name

    def output(self, name: str, value: str, shape: Sequence[Dim], dtype: Any = np.float32) -> None:
        """Make a value an output of this name."""
        self._nodes.append(self._onnx.helper.make_node("Identity", [value], [name]))
        self._outputs.append(self._value(name, shape, dtype))

    def constant(self, value: Any, dtype: Any = np.float32, name: str = "constant") -> str:
        """A constant; the same one again where it is there already."""
        array = np.asarray(value, dtype)
        root, key = self._root, (str(array.dtype), array.shape, array.tobytes())
        if key not in root._constants:
            root._constants[key] = self.new_name(name)
            root._initializers.append(
                self._onnx.numpy_helper.from_array(
                    np.ascontiguousarray(array).reshape(array.shape), root._constants[key]
                )
            )
        return root._constants[key]

    def kernel(self, kernel: Kernel, name: str) -> str:
        """Weights as they are stored, and for int8 the product with their scale, outside of all loops.

        It is a cast and a product: ONNX Runtime computes these once, when it loads a model.
        """
        if kernel.scale is None:
            return self.constant(kernel.values, name=name)
        return self._root._scaled(self._whole(kernel, name), kernel.scale, name)

    def rows(self, table: Kernel, numbers: str, name: str) -> str:
        """Rows of a table: ``[..., features]`` for whole numbers ``[...]``."""
        if table.scale is None:
            return self.add("Gather", self.constant(table.values, name=name), numbers, axis=0)
        return self._scaled(self.add("Gather", self._whole(table, name), numbers, axis=0), table.scale, name)

    def reduced(self, operator: str, values: str, *axes: int) -> str:
        """ReduceSum, ReduceMax or ReduceMin over axes, which are gone afterwards."""
        # The axes of all three are an input from version 18 on, those of the sum from 13 on.
        if operator == "ReduceSum" or self.opset >= 18:
            return self.add(operator, values, self.integers(*axes), keepdims=0)
        return self.add(operator, values, axes=list(axes), keepdims=0)

    def sliced(self, values: str, axis: int, start: int, stop: int | None) -> str:
        """A part of an axis, as ``start:stop`` in Python."""
        end = np.iinfo(np.int64).max if stop is None else stop
        return self.add("Slice", values, *(self.integers(one) for one in (start, end, axis)))

    def with_axis(self, values: str, axis: int) -> str:
        """With a new axis of size 1."""
        return self.add("Unsqueeze", values, self.integers(axis))

    def sorted(self, values: str, size: int) -> str:
        """Sorted along the last axis, which has this size, the smallest first."""
        return self.add_many("TopK", (values, self.integers(size)), 2, axis=-1, largest=0, sorted=1)[0]

    def integers(self, *values: int) -> str:
        """A constant of axes, sizes or indices."""
        return self.constant(values, np.int64)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append an operator with one output, whose name is returned. An empty name stands for no input."""
        return self.add_many(operator, inputs, 1, **attributes)[0]

    def add_many(self, operator: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> tuple[str, ...]:
        """Append an operator with several outputs."""
        names = tuple(self.new_name(operator) for _ in range(outputs))
        self._nodes.append(self._onnx.helper.make_node(operator, list(inputs), list(names), **attributes))
        return names

    def new_name(self, name: str) -> str:
        counts = self._root._counts
        counts[name] = counts.get(name, 0) + 1
        return name if counts[name] == 1 else f"{name}_{counts[name]}"

    def _whole(self, kernel: Kernel, name: str) -> str:
        assert kernel.scale is not None
        return self.constant(np.rint(kernel.values / np.where(kernel.scale > 0, kernel.scale, 1)), np.int8, name)

    def _scaled(self, whole: str, scale: np.ndarray, name: str) -> str:
        values = self.add("Cast", whole, to=1)  # 1: float32
        return self.add("Mul", values, self.constant(scale, name=f"{name}_scale"))

    def loop_body(self) -> "Graph":
        """A new graph, for the body of a loop in this one."""
        return Graph(self.opset, self)

    def finish_body(self, name: str) -> Any:
        """The graph itself, as the body of a loop."""
        return self._onnx.helper.make_graph(self._nodes, name, self._inputs, self._outputs)

    def finish(self, name: str, version: str, description: dict[str, Any]) -> bytes:
        """The checked and serialised model.

        Args:
          name: of the graph.
          version: of this package.
          description: for the model's metadata; what is not a string is written as JSON.

        Raises:
          ValueError: the model is larger than ONNX allows in one file.
        """
        helper = self._onnx.helper
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=helper.find_min_ir_version_for(opsets),
            producer_name="jaxrnn",
            producer_version=version,
        )
        description |= {
            "inputs": [self._described(value) for value in self._inputs],
            "outputs": [self._described(value) for value in self._outputs],
        }
        texts = {key: text if isinstance(text, str) else json.dumps(text) for key, text in description.items()}
        helper.set_model_props(model, texts)
        if model.ByteSize() >= 2**31:
            raise ValueError(f"the model has {model.ByteSize()} bytes, but an ONNX file must have less than 2 GiB")
        self._onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()

    def _value(self, name: str, shape: Sequence[Dim], dtype: Any) -> Any:
        kind = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self._onnx.helper.make_tensor_value_info(name, kind, list(shape))

    @staticmethod
    def _described(value: Any) -> dict[str, Any]:
        dims = value.type.tensor_type.shape.dim
        return {"name": value.name, "shape": [dim.dim_param or dim.dim_value for dim in dims]}
