"""Many streams of one layer in one process, which take their steps together.

A thermostat in every room, a price of every paper: each has a state of its own, and all have one set of weights. A
step of one stream reads all weights, so a step of many at once costs much less for each: the weights are read from
memory once, and threads divide the streams.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import checks
from jaxrnn.checks import Cell
from jaxrnn.layers.flax_cells import is_known
from jaxrnn.layers.rnn import RNN
from jaxrnn.layers.stack import StackedRNN
from jaxrnn.layers.streaming import (
    IMPLEMENTATIONS,
    check_streamable,
    first_step_carry,
    native_layer,
    step_of_layer,
)
from jaxrnn.ops.native.layers import NativeLayer
from jaxrnn.ops.step import Carry


class Streams:
    """The carries of many streams of one layer, stepped in place.

    Args:
      layer: a cell, an :class:`jaxrnn.RNN` or a stack of layers that run forward in time. The streams use the
        weights that the layer has now.
      count: how many streams there are, numbered from 0.
      in_features: size of a stream's inputs; needed only for cells that do not name it.
      threads: the largest number of threads of a native step; None takes as many as this process may use.
      implementation: ``"native"`` is the C++ library: SimpleRNN (tanh, relu, sigmoid), LSTM, GRU with
        ``reset_after`` and LeakyCell, on a CPU, in float32 or with int8 weights
        (:func:`jaxrnn.export.quantize`). ``"jax"`` is a compiled program: any cell, dtype and device. None takes
        the first of these that can run the layer.

    Raises:
      ValueError: an argument is invalid, the layer needs later steps (it is bidirectional or has ``reverse``), it
        is training with dropout, a cell changes variables of its own, or ``implementation`` cannot run it; the
        message says why.

    >>> import jaxrnn, numpy as np
    >>> from flax import nnx
    >>> streams = jaxrnn.Streams(jaxrnn.LSTM(3, 16, rngs=nnx.Rngs(0)), 1000)
    >>> streams.step(np.ones((1000, 3), np.float32)).shape              # every stream takes a step
    (1000, 16)
    >>> streams.step(np.ones((2, 3), np.float32), [7, 30]).shape        # two of them take another
    (2, 16)
    >>> streams.reset([7])                                              # and one begins anew
    """

    def __init__(
        self,
        layer: Cell | RNN | StackedRNN,
        count: int,
        *,
        in_features: int | None = None,
        threads: int | None = None,
        implementation: str | None = None,
    ):
        check_streamable(layer)
        self.count = checks.positive_integer("count", count)
        threads = None if threads is None else checks.positive_integer("threads", threads)
        if implementation not in (None, *IMPLEMENTATIONS):
            raise ValueError(
                f"unknown {implementation=}; available: {', '.join(IMPLEMENTATIONS)}, or None to choose"
            )
        cells: list[Any] = list(layer.cells) if isinstance(layer, StackedRNN) else [getattr(layer, "cell", layer)]
        reads = getattr(cells[0], "in_features", None)
        self.in_features = checks.positive_integer("in_features", reads if in_features is None else in_features)
        if is_known(cells[0]) and reads not in (None, self.in_features):
            # The library would read the rows of the inputs with a wrong width.
            raise ValueError(f"{in_features=} does not fit the first cell, which reads {reads} features")
        self._is_stack = isinstance(layer, StackedRNN)
        self._skip_connections = isinstance(layer, StackedRNN) and layer.skip_connections
        first = first_step_carry(layer, jax.ShapeDtypeStruct((1, self.in_features), jnp.float32))
        self._first: Carry = jax.tree.map(np.asarray, first)
        self._layers: list[NativeLayer] = []
        self._compiled: dict[int, Callable[..., Any]] = {}
        if implementation != "jax":
            reason = self._make_native(cells, threads)
            if reason is not None and implementation == "native":
                raise ValueError(f'implementation="native": {reason}')
        self._step = step_of_layer(layer)
        if not self._layers:  # a step that cannot be compiled is refused now, and not later
            jax.eval_shape(self._step, first, jax.ShapeDtypeStruct((1, self.in_features), jnp.float32))
        self._carry: Carry = None
        self.reset()

    @property
    def carry(self) -> Carry:
        """A copy of the carries of all streams, ``[count, hidden]`` in the structure of the layer's carry."""
        return jax.tree.map(np.array, self._carry)

    def reset(self, streams: Any = None) -> None:
        """Return these streams, or all of them, to the initial carry of the layer."""
        if streams is None:
            whole = jax.tree.map(lambda a: np.repeat(a, self.count, axis=0), self._first)
            self._carry = whole if self._layers else jax.tree.map(jnp.asarray, whole)
            return
        rows = self._checked_rows(streams)
        if self._layers:
            for state, first in zip(jax.tree.leaves(self._carry), jax.tree.leaves(self._first), strict=True):
                state[rows] = first
        else:
            self._carry = jax.tree.map(lambda a, first: a.at[rows].set(first[0]), self._carry, self._first)

    def step(self, inputs: Any, streams: Any = None) -> Any:
        """One step of some streams; the carries of the others stay as they are.

        Args:
          inputs: ``[streams, in_features]``, a row for each stream.
          streams: integers, the numbers of the streams, each at most once; None: all of them, in order. Where
            nothing has arrived, the list may be empty.

        Returns:
          The outputs, ``[streams, hidden]``: a new NumPy array, or a JAX array from a compiled program. A
          compiled program is made for every power of two that the number of streams is rounded up to.

        Raises:
          ValueError: shapes do not fit, or there is no stream of a number; nothing has changed then.
        """
        rows = None if streams is None else self._checked_rows(streams)
        shape = (self.count if rows is None else len(rows), self.in_features)
        if rows is not None and not len(rows) and not np.size(inputs):
            inputs = np.zeros(shape, np.float32)
        if np.shape(inputs) != shape:
            raise ValueError(f"inputs must have the shape {shape}, [streams, in_features], not {np.shape(inputs)}")
        if not self._layers:
            return self._step_in_jax(inputs, rows)
        below = x = np.ascontiguousarray(inputs, np.float32)
        carries = self._carry if self._is_stack else [self._carry]
        for number, (layer, carry) in enumerate(zip(self._layers, carries, strict=True)):
            c, h = carry if layer.has_c else (None, *jax.tree.leaves(carry))
            below, x = x, layer.step(c, h, x, rows)
            if self._skip_connections and number > 0:
                x += below
        return x

    def _make_native(self, cells: list[Any], threads: int | None) -> str | None:
        """Put the cells into the C++ library. Returns the reason if that cannot be done."""
        layers = []
        for cell in cells:
            layer = native_layer(cell, jnp.float32, threads)
            if isinstance(layer, str):
                return layer
            layers.append(layer)
        self._layers = layers
        return None

    def _step_in_jax(self, inputs: Any, rows: np.ndarray | None) -> Any:
        size = self.count if rows is None else 1 << (max(len(rows), 1) - 1).bit_length()
        x = jnp.asarray(inputs)
        if rows is None:
            rows = np.arange(self.count, dtype=np.int32)
        number = len(rows)
        rows = np.concatenate([rows, np.full(size - number, self.count, np.int32)])  # beyond the end: not written
        x = jnp.concatenate([x, jnp.zeros((size - number, self.in_features), x.dtype)])
        if size not in self._compiled:

            def apply(carry: Carry, x: Any, rows: Any) -> tuple[Carry, Any]:
                new, outputs = self._step(jax.tree.map(lambda a: a.at[rows].get(mode="clip"), carry), x)
                return jax.tree.map(lambda a, b: a.at[rows].set(b, mode="drop"), carry, new), outputs

            self._compiled[size] = jax.jit(apply, donate_argnums=0)
        self._carry, outputs = self._compiled[size](self._carry, x, rows)
        return outputs[:number]

    def _checked_rows(self, streams: Any) -> np.ndarray:
        rows = np.asarray(streams)
        if rows.shape == (0,):
            return np.zeros(0, np.int32)
        if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
            raise ValueError(f"streams must be a list of integers, not {checks.shown(streams)}")
        low, high = int(rows.min()), int(rows.max())
        if low < 0 or high >= self.count:
            raise ValueError(f"streams must lie in 0..{self.count - 1}, but reach from {low} to {high}")
        taken = np.zeros(self.count, bool)
        taken[rows] = True
        if np.count_nonzero(taken) < rows.size:
            number = int(np.argmax(np.bincount(rows)))
            raise ValueError(f"stream {number} is named more than once, but can take one step at a time")
        return np.ascontiguousarray(rows, np.int32)
