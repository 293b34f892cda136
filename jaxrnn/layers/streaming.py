"""One step at a time, as fast as Python can call it: for controllers, agents and signals that arrive live.

At B = 1 a step is a microsecond or two of arithmetic, and the rest is the cost of a call. The built-in cells run
on a CPU in the C++ library, which is called past JAX: NumPy's arrays in and out, the weights packed once.

Everything else is a compiled program of JAX, with three things that bring its cost down: the weights are constants
of the program instead of arguments, the carry is donated so that its memory is written again, and the program is
compiled beforehand, so that no call looks for it. A fourth is a setting of the whole process, which must come
before JAX is first used::

    jax.config.update("jax_cpu_enable_async_dispatch", False)

By default JAX on a CPU hands every program but the smallest to another thread, which costs more than the step.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn import checks
from jaxrnn.cells.base import steps_on_engine
from jaxrnn.checks import Cell
from jaxrnn.layers.rnn import RNN
from jaxrnn.layers.sequence import first_carry
from jaxrnn.layers.stack import StackedRNN
from jaxrnn.ops.native.recurrence import unable
from jaxrnn.ops.native.streaming import NativeStep
from jaxrnn.ops.step import Carry, Projection, Recurrence

IMPLEMENTATIONS = ("native", "jax")


class Step(Protocol):
    """``(carry, inputs) -> (carry, outputs)`` for one step."""

    def __call__(self, carry: Carry, inputs: Any, /) -> tuple[Carry, Any]: ...


def streaming_step(
    layer: Cell | RNN | StackedRNN, inputs: Any, *, implementation: str | None = None
) -> tuple[Step, Carry]:
    """One step of a layer as a compiled function, and the carry to begin with.

    Handing the carry on through a sequence gives what the layer gives for the sequence as a whole.

    Args:
      layer: a cell, an :class:`jaxrnn.RNN` or a stack of layers that run forward in time. Its weights are taken as
        they are now: a layer that is trained on needs a new step.
      inputs: one step's inputs ``[*batch, in_features]``; only their shape and dtype matter, and
        ``jax.ShapeDtypeStruct`` will do.
      implementation: ``"native"``, the C++ library: SimpleRNN (tanh, relu, sigmoid), LSTM, GRU and LeakyCell
        on a CPU in float32 or float64; ``"jax"``, a compiled program: any cell, dtype and device; None for the
        first of them that can.

    Returns:
      ``step(carry, inputs) -> (carry, outputs)`` with outputs ``[*batch, hidden]``, for inputs of just this shape,
      NumPy's or JAX's; and the first carry, as from the layer's ``initialize_carry``.

      The native step returns NumPy arrays that are read-only and never change, as one who keeps them expects.
      The compiled one returns JAX arrays, wants inputs of just the same dtype too, and the carry that is passed in
      is donated: use only the one that comes out, and ``jax.tree.map(jnp.copy, carry)`` beforehand of one to
      return to.

    Raises:
      ValueError: the layer needs later steps (both directions, ``reverse``), or is training with dropout; or
        ``implementation`` cannot run it, and why.

    >>> import jax.numpy as jnp
    >>> import jaxrnn
    >>> from flax import nnx
    >>> layer = jaxrnn.LSTM(3, 16, num_layers=2, rngs=nnx.Rngs(0))
    >>> signal = jnp.ones((1, 5, 3))                                        # [batch, time, features]
    >>> step, carry = jaxrnn.streaming_step(layer, signal[:, 0])
    >>> for t in range(5):
    ...     carry, output = step(carry, signal[:, t])
    >>> bool(jnp.allclose(output, layer(signal)[:, -1], atol=1e-6))
    True
    """
    _check(layer)
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"unknown {implementation=}; available: {', '.join(IMPLEMENTATIONS)}, or None to pick")
    carry = _first_carry(layer, inputs)
    if implementation == "jax":
        return _compiled(layer, inputs, carry), carry
    native = _native(layer, inputs, carry)
    if not isinstance(native, str):
        return native, carry
    if implementation == "native":
        raise ValueError(f'implementation="native": {native}')
    return _compiled(layer, inputs, carry), carry


def _compiled(layer: Any, inputs: Any, carry: Carry) -> Step:
    graphdef, weights = nnx.split(layer)
    shape = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)

    def apply(carry: Carry, inputs: Array) -> tuple[Carry, Array]:
        merged: Any = nnx.merge(graphdef, weights)
        if isinstance(merged, RNN):
            return merged.cell(carry, inputs)
        if not isinstance(merged, StackedRNN):
            return merged(carry, inputs)
        return _through(merged.cells, carry, inputs, merged.skip_connections)

    return jax.jit(apply, donate_argnums=0).lower(carry, shape).compile()


def _native(layer: Any, inputs: Any, carry: Carry) -> Step | str:
    """The step in the library, or why there is none."""
    if not isinstance(layer, StackedRNN):
        return _native_cell(layer.cell if isinstance(layer, RNN) else layer, inputs, carry)
    steps, below = [], inputs
    for cell, own in zip(layer.cells, carry, strict=True):
        step = _native_cell(cell, below, own)
        if isinstance(step, str):
            return step
        steps.append(step)
        below = jax.tree.leaves(own)[-1]
    skip_connections = layer.skip_connections
    return lambda carry, inputs: _through(steps, carry, inputs, skip_connections)


def _native_cell(cell: Any, inputs: Any, carry: Carry) -> NativeStep | str:
    if not steps_on_engine(cell):
        return f"a {type(cell).__name__} is no jaxrnn.RecurrentCell, or has a __call__ of its own"
    x = jnp.zeros((1, *inputs.shape), inputs.dtype)
    projection = cell.lazy_projection(x, False)
    if not isinstance(projection, Projection):
        return f"{type(cell).__name__} has an input_projection of its own"
    if 0 in inputs.shape:
        return f"inputs of shape {inputs.shape} are empty"
    kernel, bias = cell.recurrent_parameters(cell.compute_dtype(x))
    pointwise, params = cell.pure_pointwise()
    arrays = Recurrence(kernel, projection, carry, params, bias)
    return unable(pointwise, arrays, next(iter(kernel.devices())).platform) or NativeStep(pointwise, arrays)


def _through(steps: Any, carries: Any, inputs: Any, skip_connections: bool) -> tuple[Carry, Any]:
    """One step through layers that stand on each other."""
    new, outputs = [], inputs
    for number, (step, carry) in enumerate(zip(steps, carries, strict=True)):
        below = outputs
        carry, outputs = step(carry, below)
        if skip_connections and number > 0:
            outputs = outputs + below
        new.append(carry)
    return tuple(new), outputs


def _check(layer: Any) -> None:
    if not isinstance(layer, (RNN, StackedRNN)):
        checks.cell("a layer that is neither an RNN nor a stack", layer)
    if getattr(layer, "reverse", False) or getattr(layer, "bidirectional", False):
        raise ValueError("a layer that runs backwards needs the end of the sequence: it cannot be streamed")
    for name in ("dropout", "recurrent_dropout"):
        dropout = getattr(layer, name, None)
        if isinstance(dropout, nnx.Dropout) and not dropout.deterministic:
            raise ValueError(f"the layer is training with {name}: call its eval() before streaming")


def _first_carry(layer: Any, inputs: Any) -> Carry:
    """As the layer itself would begin a sequence."""
    x = jnp.zeros((1, *inputs.shape), inputs.dtype)
    if not isinstance(layer, StackedRNN):
        carry = first_carry(layer.cell if isinstance(layer, RNN) else layer, x, None)
    else:
        carries = []
        for cell in layer.cells:
            carries.append(first_carry(cell, x, None))
            y = jax.eval_shape(lambda cell=cell, x=x: cell(carries[-1], x[0])[1])
            x = jnp.zeros((1, *y.shape), y.dtype)
        carry = tuple(carries)
    return jax.tree.map(jnp.array, carry)  # an array of its own for every part, or donating it would fail
