"""The mean of several networks as one model, for export."""

import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn.export import to_onnx
from jaxrnn.models import SequenceClassifier


class MeanOfNetworks(nnx.Module):
    """The mean of the probabilities of several classifiers of the same inputs, ``[batch, classes]``."""

    def __init__(self, networks: Sequence[SequenceClassifier]):
        self.networks = nnx.List(networks)
        self.in_features, self.vocabulary = networks[0].in_features, networks[0].vocabulary
        self.num_classes = networks[0].num_classes

    def __call__(self, inputs: Array, *, seq_lengths: Array | None = None) -> Array:
        logits = [network(inputs, seq_lengths=seq_lengths) for network in self.networks]
        return jnp.mean(jnp.stack([jax.nn.softmax(one) for one in logits]), axis=0)


def mean_to_onnx(mean: MeanOfNetworks, metadata: dict[str, str]) -> bytes:
    """An ONNX model with the inputs ``inputs`` and ``seq_lengths`` and the output ``probabilities``.

    Args:
      mean: of the networks.
      metadata: texts to be stored in the model.

    Raises:
      ValueError: a network cannot be exported.
      ImportError: the package onnx is not installed.
    """
    files = [to_onnx(network, seq_lengths=True, metadata=metadata) for network in mean.networks]
    import onnx
    from onnx import compose, helper

    models = [
        compose.add_prefix(onnx.load_from_string(data), f"network{number}_", rename_inputs=False)
        for number, data in enumerate(files, start=1)
    ]
    first, graphs = models[0], [model.graph for model in models]
    nodes = [node for graph in graphs for node in graph.node]
    probabilities = [f"network{number}_probabilities" for number in range(1, len(graphs) + 1)]
    for graph, name in zip(graphs, probabilities):
        nodes.append(helper.make_node("Softmax", [graph.output[0].name], [name], axis=-1))
    nodes.append(helper.make_node("Mean", probabilities, ["probabilities"]))
    output = helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["batch", mean.num_classes])
    weights = [weight for graph in graphs for weight in graph.initializer]
    graph = helper.make_graph(nodes, type(mean).__name__, first.graph.input, [output], weights)
    model = helper.make_model(
        graph,
        opset_imports=first.opset_import,
        ir_version=first.ir_version,
        producer_name=first.producer_name,
        producer_version=first.producer_version,
    )
    properties = {entry.key: entry.value for entry in first.metadata_props}
    properties |= {"model": type(mean).__name__, "networks": str(len(files))}
    properties["outputs"] = json.dumps([{"name": "probabilities", "shape": ["batch", mean.num_classes]}])
    helper.set_model_props(model, properties)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
