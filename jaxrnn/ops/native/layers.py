"""Layers of the C++ library that only compute outputs, in float32 or with int8 weights. See inference.h.

Here a layer's state is changed in place, and a step may have thousands of rows, which threads divide.
"""

import math
import os
import weakref
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrnn.ops.native.cells import CELLS, cell_parameter
from jaxrnn.ops.native.library import loaded, why_not_loaded
from jaxrnn.ops.step import Carry, Params, Pointwise, Recurrence


class IntegerWeights(NamedTuple):
    """A kernel of int8: column j is ``values[:, j] * scale[j]``.

    Attributes:
      values: int8 ``[rows, columns]``, from -127 to 127.
      scale: float32 ``[columns]``.
    """

    values: Any
    scale: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape


class LayerWeights(NamedTuple):
    """A layer's equations and parameters. Both kernels are float32 arrays, or both :class:`IntegerWeights`."""

    pointwise: Pointwise
    kernel: Any
    bias: Any
    recurrent_kernel: Any
    recurrent_bias: Any
    params: Params = ()


def unable_to_infer(weights: LayerWeights, dtype: Any, platform: str) -> str | None:
    """The reason why the library cannot run this layer on inputs of this dtype, or None."""
    if platform != "cpu":
        return f"it runs on a cpu, not on a {platform}"
    if weights.pointwise not in CELLS or CELLS[weights.pointwise].parameter_axes > 1:
        return (
            "it has SimpleRNN (tanh, relu, sigmoid), LSTM, the GRU with reset_after and LeakyCell, not this cell"
        )
    if len(weights.recurrent_kernel.shape) == 3:
        return "it does not run recurrent kernels with heads one step at a time for many rows, or in int8"
    arrays = [a for a in jax.tree.leaves(weights[1:]) if jnp.issubdtype(a.dtype, jnp.floating)]
    dtypes = sorted({str(jnp.dtype(dtype)), *(str(a.dtype) for a in arrays)})
    if dtypes != ["float32"]:
        return f"it computes in float32, and there is {' and '.join(dtypes)}"
    if any(axis == jax.sharding.AxisType.Explicit for axis in jax.sharding.get_abstract_mesh().axis_types):
        return "it does not support arrays on an explicit mesh"
    return why_not_loaded()


class NativeLayer:
    """A layer in the library, with copies of its weights.

    Args:
      weights: those of a layer that the library can run, see :func:`unable_to_infer`.
      threads: the largest number of threads that a step uses; None takes as many as this process may use.
    """

    def __init__(self, weights: LayerWeights, threads: int | None = None):
        cell = CELLS[weights.pointwise]
        integers = isinstance(weights.kernel, IntegerWeights)
        self.in_features, self.hidden, self.has_c = (
            weights.kernel.shape[0],
            weights.recurrent_kernel.shape[0],
            cell.has_c,
        )
        self._threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if threads is not None:
            self._threads = threads
        parameters = layer_parameters(weights)
        self._library = loaded()
        self._layer = self._library.jaxrnn_layer(
            cell.number, integers, self.in_features, self.hidden, *map(address_of, parameters)
        )
        if self._layer is None:
            raise MemoryError(f"not enough memory to copy weights of shape {weights.recurrent_kernel.shape}")
        weakref.finalize(self, self._library.jaxrnn_layer_free, self._layer)

    def step(
        self, c: np.ndarray | None, h: np.ndarray, inputs: np.ndarray, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """One step in place. Nothing is checked: arrays must be contiguous.

        Args:
          c, h: the state, float32 ``[streams, hidden]``; c is None for cells without one.
          inputs: float32 ``[batch, in_features]``.
          rows: int32 ``[batch]``: the rows of the state that take a step, each at most once; None: all of them.

        Returns:
          The outputs, ``[batch, hidden]``.
        """
        outputs = np.empty((len(inputs), self.hidden), np.float32)
        if not len(inputs):
            return outputs  # the library divides the rows by their number
        enough = self._library.jaxrnn_layer_step(
            self._layer, self._threads, len(inputs), *map(address_of, (inputs, c, h, rows, outputs))
        )
        if not enough:
            raise MemoryError(f"not enough memory for a step of {len(inputs)} rows")
        return outputs


def quantized_recurrence(
    weights: LayerWeights,
    inputs: Array,
    initial_carry: Carry,
    *,
    valid: Array | None,
    resets: Array | None,
    reset_carry: Carry,
    reverse: bool,
    batch_major: bool,
) -> tuple[Carry, Array]:
    """A whole sequence with int8 weights, without gradients.

    The arguments are those of :func:`jaxrnn.ops.recurrence`, in float32, with ``inputs
    [time, *batch, in_features]`` and ``batch_major`` as in :class:`jaxrnn.ops.step.Projection`. There is at least
    one step and one row.
    """
    cell = CELLS[weights.pointwise]
    time, *batch = inputs.shape[:-1]
    rows, hidden = math.prod(batch), weights.recurrent_kernel.shape[0]
    absent = jnp.zeros(0, jnp.float32)

    def carry_rows(carry: Carry) -> list[Array]:
        leaves = [leaf.reshape(rows, hidden) for leaf in jax.tree.leaves(carry)]
        return leaves if cell.has_c else [absent, *leaves]

    def mask(array: Array | None) -> Array:
        return absent if array is None else array.reshape(time, rows).astype(jnp.uint8)

    def given(array: Array | None) -> Array:
        return absent if array is None else array

    if batch_major:  # this cancels the layer's transposition to time first, so that no data moves
        x = jnp.moveaxis(inputs, 0, -2).reshape(rows, time, -1)
    else:
        x = inputs.reshape(time, rows, -1)
    state = jax.ShapeDtypeStruct((rows, hidden), jnp.float32)
    shapes = [
        jax.ShapeDtypeStruct((*x.shape[:2], hidden), jnp.float32),
        state if cell.has_c else jax.ShapeDtypeStruct((0,), jnp.float32),
        state,
    ]
    options = {
        "cell": cell.number,
        "time": time,
        "batch": rows,
        "in_features": inputs.shape[-1],
        "hidden": hidden,
        "reverse": int(reverse),
        "batch_major": int(batch_major),
        "threads": 0,
    }
    y, c, h = jax.ffi.ffi_call("jaxrnn_quantized", shapes, vmap_method="sequential")(
        x,
        *weights.kernel,
        given(weights.bias),
        *weights.recurrent_kernel,
        given(weights.recurrent_bias),
        cell_parameter(_with_params(weights), absent),
        *carry_rows(initial_carry),
        mask(valid),
        mask(resets),
        *([absent, absent] if resets is None else carry_rows(reset_carry)),
        **{name: np.int64(value) for name, value in options.items()},
    )
    leaves = [a.reshape(*batch, hidden) for a in ([c, h] if cell.has_c else [h])]
    carry = jax.tree.unflatten(jax.tree.structure(initial_carry), leaves)
    if batch_major:
        return carry, jnp.moveaxis(y.reshape(*batch, time, hidden), -2, 0)
    return carry, y.reshape(time, *batch, hidden)


def _with_params(weights: LayerWeights) -> Recurrence:
    unused: Any = None
    return Recurrence(unused, unused, unused, weights.params)


def layer_parameters(weights: LayerWeights) -> list[np.ndarray | None]:
    """The arrays of a layer in the order of ``jaxrnn_layer``."""
    return [
        *_kernel(weights.kernel),
        contiguous(weights.bias),
        *_kernel(weights.recurrent_kernel),
        contiguous(weights.recurrent_bias),
        contiguous(cell_parameter(_with_params(weights), None)),
    ]


def contiguous(array: Any, dtype: Any = np.float32) -> np.ndarray | None:
    return None if array is None else np.ascontiguousarray(array, dtype)


def _kernel(kernel: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    if isinstance(kernel, IntegerWeights):
        return contiguous(kernel.values, np.int8), contiguous(kernel.scale)
    return contiguous(kernel), None


def address_of(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data
