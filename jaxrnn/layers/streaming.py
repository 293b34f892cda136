"""One step at a time, as fast as JAX can be called: for controllers, agents and signals that arrive live.

At B = 1 a step is a few microseconds of arithmetic, and the rest is the cost of a call. Three things bring that
down: the weights are constants of the program instead of arguments, the carry is donated so that its memory is
written again, and the program is compiled beforehand, so that no call looks for it. A fourth is a setting of the
whole process, which must come before JAX is first used::

    jax.config.update("jax_cpu_enable_async_dispatch", False)

By default JAX on a CPU hands every program but the smallest to another thread, which costs more than the step.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn.layers.rnn import RNN
from jaxrnn.layers.stack import StackedRNN
from jaxrnn.ops.step import Carry


class Step(Protocol):
    """``(carry, inputs) -> (carry, outputs)`` for one step."""

    def __call__(self, carry: Carry, inputs: Any, /) -> tuple[Carry, Array]: ...


def streaming_step(layer: nnx.RNNCellBase | RNN | StackedRNN, inputs: Any) -> tuple[Step, Carry]:
    """One step of a layer as a compiled function, and the carry to begin with.

    Handing the carry on through a sequence gives what the layer gives for the sequence as a whole.

    Args:
      layer: a cell, an :class:`jaxrnn.RNN` or a stack of layers that run forward in time. Its weights are taken as
        they are now: a layer that is trained on needs a new step.
      inputs: one step's inputs ``[*batch, in_features]``; only their shape and dtype matter, and
        ``jax.ShapeDtypeStruct`` will do.

    Returns:
      ``step(carry, inputs) -> (carry, outputs)`` with outputs ``[*batch, hidden]``, for inputs of just this shape
      and dtype, NumPy's too; and the first carry, as from the layer's ``initialize_carry``. The carry that is
      passed in is donated: use only the one that comes out, and ``jax.tree.map(jnp.copy, carry)`` beforehand of
      one to return to.

    Raises:
      ValueError: the layer needs later steps (both directions, ``reverse``), or is training with dropout.

    >>> import jax.numpy as jnp
    >>> import jaxrnn
    >>> from flax import nnx
    >>> layer = jaxrnn.LSTM(3, 16, num_layers=2, rngs=nnx.Rngs(0))
    >>> signal = jnp.ones((1, 5, 3))                                        # [batch, time, features]
    >>> step, carry = streaming_step(layer, signal[:, 0])
    >>> for t in range(5):
    ...     carry, output = step(carry, signal[:, t])
    >>> bool(jnp.allclose(output, layer(signal)[:, -1], atol=1e-6))
    True
    """
    _check(layer)
    graphdef, weights = nnx.split(layer)
    shape = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)

    def apply(carry: Carry, inputs: Array) -> tuple[Carry, Array]:
        merged: Any = nnx.merge(graphdef, weights)
        if isinstance(merged, RNN):
            return merged.cell(carry, inputs)
        if not isinstance(merged, StackedRNN):
            return merged(carry, inputs)
        carries, outputs = [], inputs
        for number, (cell, own) in enumerate(zip(merged.cells, carry, strict=True)):
            below = outputs
            own, outputs = cell(own, below)
            if merged.skip_connections and number > 0:
                outputs = outputs + below
            carries.append(own)
        return tuple(carries), outputs

    carry = _first_carry(layer, inputs.shape)
    return jax.jit(apply, donate_argnums=0).lower(carry, shape).compile(), carry


def _check(layer: Any) -> None:
    if not isinstance(layer, (nnx.RNNCellBase, RNN, StackedRNN)):
        raise ValueError(f"streaming needs a cell, an RNN or a stack of layers, not a {type(layer).__name__}")
    if getattr(layer, "reverse", False) or getattr(layer, "bidirectional", False):
        raise ValueError("a layer that runs backwards needs the end of the sequence: it cannot be streamed")
    for name in ("dropout", "recurrent_dropout"):
        dropout = getattr(layer, name, None)
        if isinstance(dropout, nnx.Dropout) and not dropout.deterministic:
            raise ValueError(f"the layer is training with {name}: call its eval() before streaming")


def _first_carry(layer: Any, shape: tuple[int, ...]) -> Carry:
    if isinstance(layer, StackedRNN):
        carry = layer.initialize_carry(shape)
    else:
        cell = layer.cell if isinstance(layer, RNN) else layer
        carry = cell.initialize_carry(shape, nnx.Rngs(0))
    return jax.tree.map(jnp.array, carry)  # an array of its own for every part, or donating it would fail
