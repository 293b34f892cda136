"""Runs a layer one step at a time with low latency, for controllers, agents and live signals.

For a batch of one, the arithmetic of a step takes a microsecond or two; the rest is the overhead of the call. On a
CPU, the C++ library runs the built-in cells and most others. It is called without JAX: it reads and returns NumPy
arrays, and packs the weights once.

Everything else is a compiled JAX program. Its overhead is small because the weights are constants of the program
instead of arguments, the carry is donated so that its memory is reused, and the program is compiled in advance, so
that a call does not look it up. There is also a setting for the whole process, which must come before JAX is first
used::

    jax.config.update("jax_cpu_enable_async_dispatch", False)

By default JAX on a CPU runs all but the smallest programs in another thread, which takes longer than the step.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from flax.errors import TraceContextError
from jax import Array

from jaxrnn import checks
from jaxrnn.cells.base import steps_on_engine
from jaxrnn.cells.inference import is_quantized, layer_weights, platform_of
from jaxrnn.checks import Cell
from jaxrnn.layers.any_cell import in_dtypes_of
from jaxrnn.layers.rnn import RNN, Bidirectional
from jaxrnn.layers.sequence import first_carry
from jaxrnn.layers.stack import StackedRNN, check_skip_connection
from jaxrnn.ops.native.layers import NativeLayer, unable_to_infer
from jaxrnn.ops.native.streaming import NativeStep, unable_to_step
from jaxrnn.ops.step import Carry, Projection, Recurrence, check_recurrent_bias

IMPLEMENTATIONS = ("native", "jax")


class Step(Protocol):
    """``(carry, inputs) -> (carry, outputs)`` for one step."""

    def __call__(self, carry: Carry, inputs: Any, /) -> tuple[Carry, Any]: ...


def streaming_step(
    layer: Cell | RNN | StackedRNN, inputs: Any, *, implementation: str | None = None
) -> tuple[Step, Carry]:
    """Make a function that runs one step of a layer, and the initial carry.

    Passing the carry from step to step through a sequence gives the outputs that the layer gives for the whole
    sequence, up to rounding (in half precision, the carry is rounded at every step). A step cannot be pickled:
    make it again where it is needed.

    Args:
      layer: a cell, an :class:`jaxrnn.RNN` or a stack of layers that run forward in time. The step uses the
        weights that the layer has now; after more training, make a new step.
      inputs: one step's inputs ``[*batch, in_features]``. Only their shape and dtype are used, so a
        ``jax.ShapeDtypeStruct`` works too.
      implementation: ``"native"`` is the C++ library: the built-in cells and most cells of your own (those for
        which :func:`jaxrnn.ops.explain` says ``native``), on a CPU in float32 or float64. ``"jax"`` is a compiled
        program: any cell, dtype and device. None takes the first of these that can run the layer.

    Returns:
      ``step(carry, inputs) -> (carry, outputs)`` with outputs ``[*batch, hidden]``, for NumPy or JAX inputs of
      exactly this shape; and the initial carry, as from the layer's ``initialize_carry``.

      The native step returns read-only NumPy arrays, which later steps do not overwrite. The JAX step returns JAX
      arrays and needs inputs of exactly the same dtype. It donates the carry that is passed in: use only the
      returned one, and keep a copy, ``jax.tree.map(jnp.copy, carry)``, of a carry that you want to return to.

    Raises:
      ValueError: the layer needs later steps (it is bidirectional or has ``reverse``), it is training with
        dropout, a cell changes variables of its own, or ``implementation`` cannot run it; the message says why.

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
    check_streamable(layer)
    inputs = inputs if hasattr(inputs, "shape") else jnp.asarray(inputs)
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"unknown {implementation=}; available: {', '.join(IMPLEMENTATIONS)}, or None to choose")
    carry = first_step_carry(layer, inputs)
    if implementation == "jax":
        return _compiled(layer, inputs, carry), carry
    native = _native(layer, inputs, carry)
    if not isinstance(native, str):
        return native, carry
    if implementation == "native":
        raise ValueError(f'implementation="native": {native}')
    return _compiled(layer, inputs, carry), carry


def _compiled(layer: Any, inputs: Any, carry: Carry) -> Step:
    shape = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
    return jax.jit(step_of_layer(layer), donate_argnums=0).lower(carry, shape).compile()


def step_of_layer(layer: Any) -> Step:
    """One step of a layer as a pure function, whose weights are constants."""
    graphdef, weights = nnx.split(layer)

    def apply(carry: Carry, inputs: Array) -> tuple[Carry, Array]:
        merged: Any = nnx.merge(graphdef, weights)
        if not isinstance(merged, StackedRNN):
            return _step_of_cell(merged.cell if isinstance(merged, RNN) else merged)(carry, inputs)
        steps = [_step_of_cell(cell) for cell in merged.cells]
        return _run_layers(steps, carry, inputs, merged.skip_connections)

    return apply


def _step_of_cell(cell: Any) -> Step:
    """One step of a cell, whose carry keeps its dtypes from step to step, as in a layer."""

    def step(carry: Carry, inputs: Array) -> tuple[Carry, Any]:
        try:
            new, outputs = cell(carry, inputs)
        except TraceContextError as error:
            raise ValueError(
                f"a {type(cell).__name__} cannot be streamed, because its step changes variables of its own: keep "
                "what changes in its carry, and if it is dropout that draws numbers, call eval() before"
            ) from error
        return in_dtypes_of(carry, new), outputs

    return step


def _native(layer: Any, inputs: Any, carry: Carry) -> Step | str:
    """The step in the C++ library, or the reason why the library cannot run it."""
    if not isinstance(layer, StackedRNN):
        return _native_cell(layer.cell if isinstance(layer, RNN) else layer, inputs, carry)
    steps, below = [], inputs
    for cell, cell_carry in zip(layer.cells, carry, strict=True):
        step = _native_cell(cell, below, cell_carry)
        if isinstance(step, str):
            return step
        steps.append(step)
        below = jax.tree.leaves(cell_carry)[-1]
    skip_connections = layer.skip_connections
    return lambda carry, inputs: _run_layers(steps, carry, inputs, skip_connections)


def _native_cell(cell: Any, inputs: Any, carry: Carry) -> NativeStep | str:
    if not steps_on_engine(cell):
        return f"{type(cell).__name__} is not a jaxrnn.RecurrentCell, or overrides __call__"
    x = jnp.zeros((1, *inputs.shape), inputs.dtype)
    projection = cell.lazy_projection(x, False)
    if not isinstance(projection, Projection):
        return f"{type(cell).__name__} overrides input_projection"
    if 0 in inputs.shape:
        return f"inputs of shape {inputs.shape} are empty"
    kernel, bias = cell.recurrent_parameters(cell.compute_dtype(x))
    check_recurrent_bias(kernel, bias)
    pointwise, params = cell.pure_pointwise()
    arrays = Recurrence(kernel, projection, carry, params, bias)
    platform = next(iter(kernel.devices())).platform
    integers = layer_weights(cell) if is_quantized(cell) else None
    if integers is not None and unable_to_infer(integers, projection.dtype, platform) is None:
        return NativeStep(pointwise, arrays, integers)
    return unable_to_step(pointwise, arrays, platform) or NativeStep(pointwise, arrays)


def native_layer(cell: Any, dtype: Any, threads: int | None = None) -> NativeLayer | str:
    """The cell in the C++ library for many rows, or the reason why the library cannot run it."""
    if not steps_on_engine(cell):
        return f"{type(cell).__name__} is not a jaxrnn.RecurrentCell, or overrides __call__"
    weights = layer_weights(cell)
    if weights is None:
        return f"{type(cell).__name__} overrides input_projection"
    dtype = cell.compute_dtype(jnp.zeros(cell.in_features, dtype))
    return unable_to_infer(weights, dtype, platform_of(weights.recurrent_kernel)) or NativeLayer(weights, threads)


def _run_layers(steps: Any, carries: Any, inputs: Any, skip_connections: bool) -> tuple[Carry, Any]:
    """Run one step through the layers of a stack."""
    new, outputs = [], inputs
    for number, (step, carry) in enumerate(zip(steps, carries, strict=True)):
        below = outputs
        carry, outputs = step(carry, below)
        if skip_connections and number > 0:
            outputs = outputs + below
        new.append(carry)
    return tuple(new), outputs


def check_streamable(layer: Any) -> None:
    """Raise a ValueError if the layer needs later steps, or is training with dropout."""
    if isinstance(layer, (Bidirectional, nnx.Bidirectional)):
        raise ValueError("a Bidirectional cannot be streamed: it needs the end of the sequence first")
    if not isinstance(layer, (RNN, StackedRNN)):
        checks.cell("a layer that is neither a jaxrnn.RNN nor a stack", layer)
    if getattr(layer, "reverse", False) or getattr(layer, "bidirectional", False):
        raise ValueError("a layer that runs backwards cannot be streamed: it needs the end of the sequence first")
    if getattr(layer, "zoneout", None) is not None:
        raise ValueError(
            "a stack with zoneout cannot be streamed: after eval(), a step of it is not a cell's alone"
        )
    for name in ("dropout", "recurrent_dropout"):
        dropout = getattr(layer, name, None)
        if isinstance(dropout, nnx.Dropout) and not dropout.deterministic:
            raise ValueError(f"the layer is training with {name}: call its eval() before streaming")


def first_step_carry(layer: Any, inputs: Any) -> Carry:
    """The carry with which the layer itself would begin a sequence."""
    x = jnp.zeros((1, *inputs.shape), inputs.dtype)
    if not isinstance(layer, StackedRNN):
        carry = first_carry(layer.cell if isinstance(layer, RNN) else layer, x, None)
    else:
        carries = []
        for number, cell in enumerate(layer.cells):
            carries.append(first_carry(cell, x, None))
            _, y = jax.eval_shape(_step_of_cell(cell), carries[-1], x[0])
            if layer.skip_connections and number > 0:
                check_skip_connection(number, x.shape[1:], y.shape)
            x = jnp.zeros((1, *y.shape), y.dtype)
        carry = tuple(carries)
    return jax.tree.map(jnp.array, carry)  # copies, because a buffer that two parts share cannot be donated
