"""Models with int8 weights, for inference."""

from typing import Any, TypeVar

import numpy as np
from flax import nnx

from jaxrnn import checks
from jaxrnn.cells import GRUCell, LeakyCell, LSTMCell, SimpleRNNCell
from jaxrnn.cells.inference import QuantizedKernel

Model = TypeVar("Model", bound=nnx.Module)

QUANTIZED_CELLS = (SimpleRNNCell, LSTMCell, GRUCell, LeakyCell)


def quantize(model: Model, *, heads: bool = True) -> Model:
    """A copy of a model whose kernels are int8, with one scale for every column: for inference, without gradients.

    Column j of a kernel, the weights of one unit's gate, becomes ``round(kernel[:, j] / scale[j])`` with
    ``scale[j] = max(abs(kernel[:, j])) / 127``. Biases stay as they are. A kernel takes a quarter of its size in
    float32, and 4 bytes a column.

    Inputs, states and outputs are float32. On a CPU the C++ library runs SimpleRNN, LSTM, the GRU with
    ``reset_after`` and LeakyCell on the int8 weights, in sequences, in :func:`jaxrnn.streaming_step` and in
    :class:`jaxrnn.Streams`: it rounds every row of inputs and every hidden state to integers of 16 bits (13 bits
    at 4,000 units), whose error is small beside that of the weights, and adds the products exactly. Elsewhere, and
    in exported programs, the kernels are turned back to floating numbers where they are used.

    Args:
      model: a cell, a layer or a whole model, such as :class:`jaxrnn.RNNForecaster`. It stays as it is.
      heads: also quantise the kernels of ``nnx.Linear`` with more than one output and of ``nnx.Embed``.

    Returns:
      The copy. :func:`save_safetensors` stores it, and :func:`load_safetensors` reads it into a model that went
      through ``quantize`` too.

    Raises:
      ValueError: the model has no cell that can be quantised, has one that cannot or is quantised already, or a
        weight is infinite or NaN; the message names it.

    Source: weights per output channel, activations at run time, as in PyTorch's ``quantize_dynamic``.

    >>> import jax.numpy as jnp
    >>> import jaxrnn
    >>> from flax import nnx
    >>> model = jaxrnn.RNNForecaster(hidden_features=64, cell="lstm", rngs=nnx.Rngs(0))
    >>> small = quantize(model)
    >>> x = jnp.sin(jnp.arange(30.0))[None]
    >>> bool(abs(small(x) - model(x)).max() < 0.01)
    True
    """
    if not isinstance(model, nnx.Module):
        raise ValueError(f"model must be a Flax module, not {checks.shown(model)}")
    heads = checks.flag("heads", heads)
    copy = nnx.clone(model)
    cells = 0
    for path, node in list(nnx.iter_graph(copy)):
        name = ".".join(map(str, path)) or type(node).__name__
        if isinstance(node, QuantizedKernel):
            raise ValueError(f"{name} is int8 already")
        if isinstance(node, nnx.RNNCellBase):
            if type(node) not in QUANTIZED_CELLS:
                known = ", ".join(cell.__name__ for cell in QUANTIZED_CELLS)
                raise ValueError(f"{name} is a {type(node).__name__}; those that can be quantised: {known}")
            cells += 1
            _replace(node, name, "kernel", "recurrent_kernel")
        elif heads and isinstance(node, nnx.Linear) and node.out_features > 1:
            _replace(node, name, "kernel")
        elif heads and isinstance(node, nnx.Embed):
            _replace(node, name, "embedding")
    if not cells:
        raise ValueError(f"the {type(model).__name__} has no recurrent cell to quantise")
    return copy


def _replace(node: Any, name: str, *attributes: str) -> None:
    for attribute in attributes:
        kernel = getattr(node, attribute)[...]
        if not np.isfinite(np.asarray(kernel, np.float32)).all():
            raise ValueError(f"{name}.{attribute} has weights that are infinite or NaN")
        setattr(node, attribute, QuantizedKernel(kernel))
