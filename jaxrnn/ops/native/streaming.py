"""Runs a cell one step at a time without JAX, whose calls take several times as long as a step."""

import math
import threading
import weakref
from typing import Any

import jax
import numpy as np

from jaxrnn.ops.native import cells, program
from jaxrnn.ops.native.cells import CELLS, cell_parameter
from jaxrnn.ops.native.encoding import encode, flags
from jaxrnn.ops.native.layers import LayerWeights, address_of, contiguous, layer_parameters
from jaxrnn.ops.native.library import loaded
from jaxrnn.ops.pointwise import LSTMCarry
from jaxrnn.ops.program import CellProgram, cell_program
from jaxrnn.ops.step import Carry, Pointwise, Projection, Recurrence, heads_of, units_of

STEPS_PER_BLOCK, BYTES_PER_BLOCK = 64, 1 << 20
"""How many steps write their results to one array. A view of it costs less than a new array for every step. With
large batches fewer steps share an array, because new memory costs time too."""


def unable_to_step(pointwise: Pointwise, arrays: Recurrence, platform: str) -> str | None:
    """The reason why the library cannot run this one step at a time, or None if it can."""
    return (cells if pointwise in CELLS else program).unable(pointwise, arrays, platform)


class NativeStep:
    """A callable ``(carry, inputs) -> (carry, outputs)`` of NumPy arrays. Later steps do not change its results.

    Args:
      pointwise: the equations, see :func:`unable_to_step`.
      arrays: the arrays of one step. ``xw`` must be a :class:`Projection`. Of its inputs
        ``[1, *batch, in_features]``, and of the carry, only shape and dtype are used. The weights are copied.
      integers: int8 weights in the place of both kernels in ``arrays``, of which only the shapes are used then.
    """

    def __init__(self, pointwise: Pointwise, arrays: Recurrence, integers: LayerWeights | None = None):
        xw = arrays.xw
        assert isinstance(xw, Projection)
        self._library = loaded()
        self._shape = xw.inputs.shape[1:]
        self._dtype = np.dtype(xw.dtype)
        leaves, self._treedef = jax.tree.flatten(arrays.initial_carry)
        self._parts = len(leaves)
        # The usual one in half the time.
        is_lstm = isinstance(arrays.initial_carry, LSTMCarry)
        self._make_carry = LSTMCarry._make if is_lstm else self._treedef.unflatten
        self._carry_shape = (*self._shape[:-1], units_of(arrays.recurrent_kernel))
        if integers is not None:
            sizes = CELLS[pointwise].number, math.prod(self._shape[:-1]), self._shape[-1], self._carry_shape[-1]
            # The list keeps the arrays alive until the library has copied them.
            parameters = layer_parameters(integers)
            self._stream = self._library.jaxrnn_quantized_stream(*sizes, *map(address_of, parameters))
        else:
            self._stream = self._make_stream(pointwise, arrays)
        if self._stream is None:
            raise MemoryError(f"not enough memory to copy weights of shape {arrays.recurrent_kernel.shape}")
        weakref.finalize(self, self._library.jaxrnn_stream_free, self._stream)
        self._inputs = np.empty(self._shape, self._dtype)
        self._carry = np.empty((self._parts, *self._carry_shape), self._dtype)  # one that no step returned
        self._inputs_at, self._carry_at = self._inputs.ctypes.data, self._carry.ctypes.data
        # The carry that the last step returned, and its address. Only tuples stay as they were returned: somebody
        # may have written into a dict or a list.
        self._lasting = _of_tuples(self._treedef)
        self._last: Any = self
        self._last_at = 0
        # A built-in cell's output is its hidden state. That of a program comes after the carry.
        self._output_apart = pointwise not in CELLS
        self._steps = max(1, min(STEPS_PER_BLOCK, BYTES_PER_BLOCK // self._carry.nbytes))
        self._used = self._steps
        self._lock = threading.Lock()

    def _make_stream(self, pointwise: Pointwise, arrays: Recurrence) -> Any:
        xw, kernel = arrays.xw, arrays.recurrent_kernel
        wide = int(self._dtype == np.float64)
        sizes = {
            "batch": math.prod(self._shape[:-1]),
            "in_features": self._shape[-1],
            "hidden": units_of(kernel),
            "heads": heads_of(kernel),
        }

        def weights(last: Any) -> list[Any]:
            parameters = xw.kernel, xw.bias, kernel, arrays.recurrent_bias, last
            return [contiguous(parameter, self._dtype) for parameter in parameters]

        if pointwise in CELLS:
            # The lists keep the arrays alive until the library has copied them.
            parameters = weights(cell_parameter(arrays, None))
            number = CELLS[pointwise].number
            return self._library.jaxrnn_stream(wide, number, *sizes.values(), *map(address_of, parameters))
        found = cell_program(pointwise, arrays)
        assert isinstance(found, CellProgram)
        parameters = weights(found.derive(arrays.params))
        code = encode(found.forward_only)
        numbers = [
            program.sizes_of(found, found.forward_only, {"time": 1, **sizes}),
            code.program,
            flags(found.summed, found.gates),
            code.constants,
        ]
        counts = len(code.constants), found.carries, found.derived
        return self._library.jaxrnn_program_stream(
            wide, *map(address_of, numbers), *counts, *map(address_of, parameters)
        )

    def __call__(self, carry: Carry, inputs: Any, /) -> tuple[Carry, np.ndarray]:
        if np.shape(inputs) != self._shape:
            raise ValueError(f"inputs have the shape {np.shape(inputs)}, but this step was made for {self._shape}")
        with self._lock:
            np.copyto(self._inputs, inputs, "same_kind")
            carry_at = self._last_at if carry is self._last else self._copy(carry)
            if self._used == self._steps:
                self._begin_block()
            number, self._used = self._used, self._used + 1
            new_at = self._block_at + number * self._stride
            self._library.jaxrnn_stream_step(self._stream, self._inputs_at, carry_at, new_at)
            results = self._block[number]
            parts = [results[part] for part in range(self._parts)]
            carry = self._make_carry(parts)
            if self._lasting:
                self._last, self._last_at = carry, new_at
            return carry, results[self._parts] if self._output_apart else parts[-1]

    def _begin_block(self) -> None:
        block = np.empty((self._steps, self._parts + self._output_apart, *self._carry_shape), self._dtype)
        self._block_at, self._stride = block.ctypes.data, block.strides[0]
        block.flags.writeable = False  # only the library writes to it, by address
        self._block, self._used = block, 0

    def _copy(self, carry: Carry) -> int:
        """Copy a carry that the last step did not return. Returns the address of the copy."""
        leaves, treedef = jax.tree.flatten(carry)
        shapes = [np.shape(leaf) for leaf in leaves]
        if treedef != self._treedef or any(shape != self._carry_shape for shape in shapes):
            raise ValueError(
                f"the carry has the structure {treedef} with shapes {shapes}, but this step needs {self._treedef} "
                f"with arrays of shape {self._carry_shape}"
            )
        for place, leaf in zip(self._carry, leaves, strict=True):
            np.copyto(place, leaf, "same_kind")
        return self._carry_at


def _of_tuples(treedef: Any) -> bool:
    """Whether a pytree is an array, or made of tuples and arrays alone."""
    node = treedef.node_data()
    return node is None or (issubclass(node[0], tuple) and all(map(_of_tuples, treedef.children())))
