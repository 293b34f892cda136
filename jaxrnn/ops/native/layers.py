"""Layers of the C++ library that only compute outputs, in float32 or with int8 weights. See inference.h.

Here a layer's state is changed in place, and a step may have thousands of rows, which threads divide.
"""

import os
import weakref
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.ops.native.cells import CELLS, cell_parameter
from jaxrnn.ops.native.library import loaded, why_not_loaded
from jaxrnn.ops.pointwise import LSTMCarry
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
        arrays: Any = Recurrence(weights.recurrent_kernel, None, None, weights.params)
        parameters = [
            *_kernel(weights.kernel),
            _contiguous(weights.bias),
            *_kernel(weights.recurrent_kernel),
            _contiguous(weights.recurrent_bias),
            _contiguous(cell_parameter(arrays, None)),
        ]
        self._library = loaded()
        self._layer = self._library.jaxrnn_layer(
            cell.number, integers, self.in_features, self.hidden, *map(_address, parameters)
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
        enough = self._library.jaxrnn_layer_step(
            self._layer, self._threads, len(inputs), *map(_address, (inputs, c, h, rows, outputs))
        )
        if not enough:
            raise MemoryError(f"not enough memory for a step of {len(inputs)} rows")
        return outputs

    def __call__(self, carry: Carry, inputs: Any, /) -> tuple[Carry, np.ndarray]:
        """One step that leaves the carry as it is. Returns the new one and the outputs."""
        leaves = [np.array(leaf, np.float32, order="C") for leaf in jax.tree.leaves(carry)]
        c, h = leaves if self.has_c else (None, *leaves)
        x = np.ascontiguousarray(inputs, np.float32)
        outputs = self.step(c, h, x.reshape(-1, self.in_features)).reshape(h.shape)
        new: Carry = LSTMCarry(c, h) if c is not None else h  # pyright: ignore[reportArgumentType]
        return new, outputs


def _contiguous(array: Any, dtype: Any = np.float32) -> np.ndarray | None:
    return None if array is None else np.ascontiguousarray(array, dtype)


def _kernel(kernel: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    if isinstance(kernel, IntegerWeights):
        return _contiguous(kernel.values, np.int8), _contiguous(kernel.scale)
    return _contiguous(kernel), None


def _address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data
