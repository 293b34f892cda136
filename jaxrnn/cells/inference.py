"""Cells that only compute outputs: int8 kernels, and the weights in the form that the C++ library takes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.core import Tracer

from jaxrnn.cells.base import RecurrentCell
from jaxrnn.ops.native.layers import IntegerWeights, LayerWeights
from jaxrnn.ops.step import check_recurrent_bias


class QuantizedKernel(nnx.Module):
    """A kernel of int8 in the place of an ``nnx.Param``: column j is ``values[:, j] * scale[j]``.

    ``kernel[...]`` is the product, in the dtype of the kernel that it replaces, so everything that reads a kernel
    works with it. The variables are no ``nnx.Param``: they get no gradients.

    Args:
      kernel: a finite array ``[rows, columns]``, or with heads ``[heads, rows, columns]``.

    >>> import jax.numpy as jnp
    >>> QuantizedKernel(jnp.array([[1.27, 0.0], [-0.5, 0.0]])).values[...]
    Array([[127,   0],
           [-50,   0]], dtype=int8)
    """

    def __init__(self, kernel: Any):
        kernel = jnp.asarray(kernel)
        exact = np.asarray(kernel, np.float32)
        scale = np.abs(exact).max(axis=-2) / np.float32(127)
        values = np.rint(exact / np.where(scale > 0, scale, 1)[..., None, :])
        self.values = nnx.Variable(jnp.asarray(values, jnp.int8))
        self.scale = nnx.Variable(jnp.asarray(scale))
        self.dtype = kernel.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values[...].shape

    def __getitem__(self, index: Any) -> Array:
        return (self.values[...] * self.scale[..., None, :]).astype(self.dtype)[index]

    @property
    def integers(self) -> IntegerWeights:
        return IntegerWeights(self.values[...], self.scale[...])


def is_quantized(cell: Any) -> bool:
    """Whether both kernels of a cell are int8."""
    kernels = getattr(cell, "kernel", None), getattr(cell, "recurrent_kernel", None)
    return isinstance(cell, RecurrentCell) and all(isinstance(k, QuantizedKernel) for k in kernels)


def layer_weights(cell: RecurrentCell) -> LayerWeights | None:
    """What the C++ library needs to run this cell as it is now; None if the cell has its own input projection."""
    if type(cell).input_projection is not RecurrentCell.input_projection:
        return None
    recurrent_kernel, recurrent_bias = cell.recurrent_parameters(cell.recurrent_kernel[...].dtype)
    check_recurrent_bias(recurrent_kernel, recurrent_bias)
    pointwise, params = cell.pure_pointwise()
    bias = None if cell.bias is None else cell.bias[...]
    kernel: Any = cell.kernel[...]
    if is_quantized(cell):
        kernel, recurrent_kernel = (k.integers for k in (cell.kernel, cell.recurrent_kernel))  # pyright: ignore
    return LayerWeights(pointwise, kernel, bias, recurrent_kernel, recurrent_bias, params)


def platform_of(tree: Any) -> str:
    """Where arrays are; where JAX would put them, while a program is traced."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, Array) and not isinstance(leaf, Tracer):
            return next(iter(leaf.devices())).platform
    return jax.default_backend()
