"""Models as ONNX graphs: the vectors of tokens, recurrent layers, a pooling over time, a head."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from jaxrnn.cells.inference import QuantizedKernel
from jaxrnn.export.onnx_graph import Graph, Kernel
from jaxrnn.export.onnx_layers import Plan, plan_of_bidirectional, plan_of_rnn, plan_of_stack, run_layers
from jaxrnn.export.onnx_scan import Resets, valid_steps
from jaxrnn.layers import RNN, Bidirectional, StackedRNN
from jaxrnn.models import LanguageModel, RNNForecaster, SequenceClassifier


class ModelPlan(NamedTuple):
    """What a model computes.

    Attributes:
      layers: its recurrent layers.
      width: size of the last axis of the outputs.
      outputs: their name.
      table: of the vectors that token numbers stand for; None for inputs that are features.
      pooling: appends what becomes of the layers' outputs ``[time, batch, features]``, given the lengths or None.
      head: appends what becomes of ``[..., features]`` after that.
    """

    layers: Plan
    width: int
    outputs: str = "outputs"
    table: Kernel | None = None
    pooling: Callable[[Graph, str, str | None], str] | None = None
    head: Callable[[Graph, str], str] | None = None

    @property
    def returns_sequences(self) -> bool:
        return self.layers.return_sequences and self.pooling is None


def plan_of(model: Any) -> ModelPlan:
    """The plan of a layer or model, or a ValueError that says what cannot be exported."""
    for kind, plan in _PLANS.items():
        if isinstance(model, kind):
            if type(model).__call__ is not kind.__call__:
                raise ValueError(
                    f"a {type(model).__name__} has a __call__ of its own, which cannot be exported to ONNX"
                )
            found = plan(model)
            return ModelPlan(found, found.width) if isinstance(found, Plan) else found
    kinds = ", ".join(f"jaxrnn.{kind.__name__}" for kind in _PLANS)
    raise ValueError(f"to_onnx exports cells, {kinds} and their kinds, not a {type(model).__name__}")


def run_model(
    graph: Graph,
    plan: ModelPlan,
    inputs: str,
    lengths: str | None,
    carries: list[list[Any]],
    resets: Resets | None = None,
) -> tuple[str, list[list[tuple[str, ...]]]]:
    """Append a model.

    Args:
      graph: what to append to.
      plan: of the model.
      inputs: as the model takes them.
      lengths: int32 ``[batch]``, or None.
      carries: of each layer, for each cell, the parts of its first carry or None.
      resets: bool, in the shape in which the model takes them, or None.

    Returns:
      The outputs as the model returns them, and the final carries.
    """
    time_major = plan.layers.time_major
    if plan.table is None:
        sequence = inputs if time_major else graph.add("Transpose", inputs, perm=[1, 0, 2])
    else:
        steps = inputs if time_major else graph.add("Transpose", inputs, perm=[1, 0])
        sequence = graph.rows(plan.table, steps, "embedding")
    if resets is not None:
        steps = resets.steps if time_major else graph.add("Transpose", resets.steps, perm=[1, 0])
        resets = resets._replace(steps=graph.add("Unsqueeze", steps, graph.integers(2)))
    result, finals = run_layers(graph, plan.layers, sequence, lengths, carries, resets)
    if plan.pooling is not None:
        result = plan.pooling(graph, result, lengths)
    elif plan.returns_sequences and not time_major:
        result = graph.add("Transpose", result, perm=[1, 0, 2])
    if plan.head is not None:
        result = plan.head(graph, result)
    return result, finals


def _plan_of_forecaster(model: RNNForecaster) -> ModelPlan:
    head = dense(model, model.head)
    scale = np.asarray(model.output_scale, np.float32)

    def scaled(graph: Graph, hidden: str) -> str:
        return graph.add("Mul", head(graph, hidden), graph.constant(scale, name="output_scale"))

    return ModelPlan(_stack_of(model, model.layers), _width(model.head), "forecasts", head=scaled)


def _plan_of_classifier(model: SequenceClassifier) -> ModelPlan:
    plans = [_stack_of(model, stack) for stack in model.layers]
    layers = [layer for plan in plans for layer in plan.layers]
    layers = tuple(layer._replace(name=str(number)) for number, layer in enumerate(layers))
    poolings: dict[str, Any] = {"last": None, "mean": _mean, "max": _maximum}
    if model.pooling == "attention":
        poolings["attention"] = partial(
            _attention, dense(model, model.attention_hidden), dense(model, model.attention_score)
        )
    return ModelPlan(
        plans[-1]._replace(layers=layers),
        _width(model.head),
        "logits",
        None if model.embedding is None else _table(model, model.embedding),
        poolings[model.pooling],
        dense(model, model.head),
    )


def _plan_of_language_model(model: LanguageModel) -> ModelPlan:
    if type(model).logits is not LanguageModel.logits:
        raise ValueError(f"a {type(model).__name__} has logits of its own, which cannot be exported to ONNX")
    table, bias = _table(model, model.embedding), np.asarray(model.bias[...], np.float32)
    product = None if model.head is None else dense(model, model.head)

    def logits(graph: Graph, hidden: str) -> str:
        if product is None:
            kernel = graph.add("Transpose", graph.kernel(table, "embedding"), perm=[1, 0])
            products = graph.add("MatMul", hidden, kernel)
        else:
            products = product(graph, hidden)
        return graph.add("Add", products, graph.constant(bias, name="bias"))

    return ModelPlan(_stack_of(model, model.layers), model.vocabulary_size, "logits", table, head=logits)


_PLANS: dict[Any, Callable[[Any], Plan | ModelPlan]] = {
    RNN: plan_of_rnn,
    Bidirectional: plan_of_bidirectional,
    StackedRNN: plan_of_stack,
    RNNForecaster: _plan_of_forecaster,
    SequenceClassifier: _plan_of_classifier,
    LanguageModel: _plan_of_language_model,
}


def _stack_of(model: Any, layers: Any) -> Plan:
    if type(layers).__call__ is not StackedRNN.__call__:
        raise ValueError(
            f"a {type(model).__name__} of a {type(layers).__name__} cannot be exported to ONNX, only one of a "
            "StackedRNN"
        )
    return plan_of_stack(layers)


def dense(model: Any, linear: Any) -> Callable[[Graph, str], str]:
    """Appends ``x @ kernel + bias``."""
    _require(model, linear, nnx.Linear, "dot_general", "promote_dtype")
    kernel = _kernel_of(linear.kernel)
    bias = None if linear.bias is None else np.asarray(linear.bias[...], np.float32)

    def append(graph: Graph, x: str) -> str:
        products = graph.add("MatMul", x, graph.kernel(kernel, "head_kernel"))
        return products if bias is None else graph.add("Add", products, graph.constant(bias, name="head_bias"))

    return append


def _table(model: Any, embedding: Any) -> Kernel:
    _require(model, embedding, nnx.Embed, "promote_dtype")
    return _kernel_of(embedding.embedding)


def _width(linear: Any) -> int:
    return linear.kernel.shape[1]


def _require(model: Any, part: Any, kind: type, *functions: str) -> None:
    """A ValueError unless a part of a model is of this kind, and has the functions that it has by default."""
    if type(part) is not kind:
        raise ValueError(
            f"a {type(model).__name__} with a {type(part).__name__} cannot be exported to ONNX, only with an "
            f"nnx.{kind.__name__}"
        )
    usual = inspect.signature(kind.__init__).parameters
    for name in functions:
        if getattr(part, name) is not usual[name].default:
            raise ValueError(
                f"a {type(model).__name__} whose nnx.{kind.__name__} has its own {name} cannot be exported to ONNX"
            )


def _kernel_of(parameter: Any) -> Kernel:
    """A matrix of weights, int8 or not."""
    values = np.asarray(parameter[...], np.float32)
    if isinstance(parameter, QuantizedKernel):
        return Kernel(values, np.asarray(parameter.scale[...], np.float32))
    return Kernel(values)


def _mean(graph: Graph, outputs: str, lengths: str | None) -> str:
    """The mean over the steps; outputs past the lengths are zero."""
    total = graph.reduced("ReduceSum", outputs, 0)
    if lengths is None:
        steps = graph.add("Gather", graph.add("Shape", outputs), graph.integers(0))
    else:
        one = graph.constant(1, np.int32)
        steps = graph.add("Unsqueeze", graph.add("Max", lengths, one), graph.integers(1))
    return graph.add("Div", total, graph.add("Cast", steps, to=1))  # 1: float32


def _maximum(graph: Graph, outputs: str, lengths: str | None) -> str:
    """The largest of each output; zero for a row without steps."""
    if lengths is None:
        return graph.reduced("ReduceMax", outputs, 0)
    real = valid_steps(graph, graph.add("Shape", outputs), lengths)
    lowest = graph.constant(np.finfo(np.float32).min)
    largest = graph.reduced("ReduceMax", graph.add("Where", real, outputs, lowest), 0)
    any_step = graph.add("Unsqueeze", graph.add("Less", graph.constant(0, np.int32), lengths), graph.integers(1))
    return graph.add("Where", any_step, largest, graph.constant(0.0))


def _attention(
    hidden: Callable[[Graph, str], str],
    score: Callable[[Graph, str], str],
    graph: Graph,
    outputs: str,
    lengths: str | None,
) -> str:
    """The mean of the outputs with the weights of the attention; zero for a row without steps."""
    scores = score(graph, graph.add("Tanh", hidden(graph, outputs)))
    if lengths is None:
        weights = graph.add("Softmax", scores, axis=0)
    else:
        real = valid_steps(graph, graph.add("Shape", outputs), lengths)
        lowest = graph.constant(np.finfo(np.float32).min)
        weights = graph.add("Softmax", graph.add("Where", real, scores, lowest), axis=0)
        weights = graph.add("Where", real, weights, graph.constant(0.0))
    return graph.reduced("ReduceSum", graph.add("Mul", weights, outputs), 0)
