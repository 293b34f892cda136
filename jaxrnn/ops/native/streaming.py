"""Runs a built-in cell one step at a time without JAX, whose calls take several times as long as a step."""

import math
import threading
import weakref
from typing import Any

import jax
import numpy as np

from jaxrnn.ops.native.cells import CELLS, cell_parameter
from jaxrnn.ops.native.layers import LayerWeights, address_of, contiguous, layer_parameters
from jaxrnn.ops.native.library import loaded
from jaxrnn.ops.pointwise import LSTMCarry
from jaxrnn.ops.step import Carry, Pointwise, Projection, Recurrence, heads_of, units_of

STEPS_PER_BLOCK, BYTES_PER_BLOCK = 64, 1 << 20
"""How many steps write their results to one array. A view of it costs less than a new array for every step. With
large batches fewer steps share an array, because new memory costs time too."""


class NativeStep:
    """A callable ``(carry, inputs) -> (carry, outputs)`` of NumPy arrays. Later steps do not change its results.

    Args:
      pointwise: a cell of the library, see :func:`jaxrnn.ops.native.cells.unable`.
      arrays: the arrays of one step. ``xw`` must be a :class:`Projection`. Of its inputs
        ``[1, *batch, in_features]``, and of the carry, only shape and dtype are used. The weights are copied.
      integers: int8 weights in the place of both kernels in ``arrays``, of which only the shapes are used then.
    """

    def __init__(self, pointwise: Pointwise, arrays: Recurrence, integers: LayerWeights | None = None):
        cell, xw = CELLS[pointwise], arrays.xw
        assert isinstance(xw, Projection)
        self._library = loaded()
        self._has_c = cell.has_c
        self._shape = xw.inputs.shape[1:]
        self._dtype = np.dtype(xw.dtype)
        self._treedef = jax.tree.structure(arrays.initial_carry)
        hidden, heads = units_of(arrays.recurrent_kernel), heads_of(arrays.recurrent_kernel)
        self._carry_shape = (*self._shape[:-1], hidden)
        sizes = math.prod(self._shape[:-1]), self._shape[-1], hidden
        if integers is not None:
            # The list keeps the arrays alive until the library has copied them.
            parameters = layer_parameters(integers)
            self._stream = self._library.jaxrnn_quantized_stream(cell.number, *sizes, *map(address_of, parameters))
        else:
            weights = [xw.kernel, xw.bias, arrays.recurrent_kernel, arrays.recurrent_bias]
            parameters = [contiguous(w, self._dtype) for w in (*weights, cell_parameter(arrays, None))]
            wide = int(self._dtype == np.float64)
            self._stream = self._library.jaxrnn_stream(
                wide, cell.number, *sizes, heads, *map(address_of, parameters)
            )
        if self._stream is None:
            raise MemoryError(f"not enough memory to copy weights of shape {arrays.recurrent_kernel.shape}")
        weakref.finalize(self, self._library.jaxrnn_stream_free, self._stream)
        self._inputs = np.empty(self._shape, self._dtype)
        self._carry = np.empty((2, *self._carry_shape), self._dtype)  # c and h of a carry that no step returned
        self._inputs_at, self._carry_at = self._inputs.ctypes.data, self._carry.ctypes.data
        self._size = self._carry[0].nbytes
        self._last: Any = None  # the carry that the last step returned, and the addresses of its c and h
        self._last_at = (0, 0)
        self._steps = max(1, min(STEPS_PER_BLOCK, BYTES_PER_BLOCK // self._carry.nbytes))
        self._used = self._steps
        self._lock = threading.Lock()

    def __call__(self, carry: Carry, inputs: Any, /) -> tuple[Carry, np.ndarray]:
        if np.shape(inputs) != self._shape:
            raise ValueError(f"inputs have the shape {np.shape(inputs)}, but this step was made for {self._shape}")
        with self._lock:
            np.copyto(self._inputs, inputs, "same_kind")
            c_at, h_at = self._last_at if carry is self._last else self._copy(carry)
            if self._used == self._steps:
                self._begin_block()
            number, self._used = self._used, self._used + 1
            h = self._block[number, 0]
            new_h_at = self._block_at + number * self._stride
            new_c_at = new_h_at + self._size
            self._library.jaxrnn_stream_step(self._stream, self._inputs_at, c_at, h_at, new_c_at, new_h_at)
            self._last = carry = LSTMCarry(self._block[number, 1], h) if self._has_c else h
            self._last_at = (new_c_at, new_h_at)
            return carry, h

    def _begin_block(self) -> None:
        block = np.empty((self._steps, 1 + self._has_c, *self._carry_shape), self._dtype)
        self._block_at, self._stride = block.ctypes.data, block.strides[0]
        block.flags.writeable = False  # only the library writes to it, by address
        self._block, self._used = block, 0

    def _copy(self, carry: Carry) -> tuple[int, int]:
        """Copy a carry that the last step did not return. Returns the addresses of its c and h."""
        leaves, treedef = jax.tree.flatten(carry)
        shapes = [np.shape(leaf) for leaf in leaves]
        if treedef != self._treedef or any(shape != self._carry_shape for shape in shapes):
            raise ValueError(
                f"the carry has the structure {treedef} with shapes {shapes}, but this step needs {self._treedef} "
                f"with arrays of shape {self._carry_shape}"
            )
        for place, leaf in zip(self._carry[2 - len(leaves) :], leaves, strict=True):
            np.copyto(place, leaf, "same_kind")
        return self._carry_at, self._carry_at + self._size
