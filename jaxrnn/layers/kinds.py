"""SimpleRNN, LSTM, GRU and SLSTM: stacks that make their cells, all of one kind."""

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

from flax import nnx

from jaxrnn import checks
from jaxrnn.cells import GRUCell, LSTMCell, SimpleRNNCell, SLSTMCell
from jaxrnn.checks import Cell
from jaxrnn.layers.stack import Merge, StackedRNN
from jaxrnn.signature import InitSignature


def layer_sizes(hidden_features: int | Sequence[int], num_layers: int | None) -> tuple[int, ...]:
    """One hidden size per layer, from one size and a number of layers or from the sizes themselves."""
    if num_layers is not None:
        num_layers = checks.positive_integer("num_layers", num_layers)
    if isinstance(hidden_features, str) or not isinstance(hidden_features, Sequence):
        sizes = (hidden_features,) * (1 if num_layers is None else num_layers)
    else:
        sizes = tuple(hidden_features)
        if num_layers is not None and num_layers != len(sizes):
            raise ValueError(f"{hidden_features=} has {len(sizes)} layers, but {num_layers=}")
    if not sizes:
        raise ValueError(f"at least one layer is needed: {hidden_features=}, {num_layers=}")
    return tuple(checks.positive_integer("hidden_features", size) for size in sizes)


_ARGUMENTS = """\
  in_features: size of the last axis of the inputs.
  hidden_features: size of every layer, or a sequence with one size per layer, the lowest first.
  num_layers: number of layers; by default 1, or the length of ``hidden_features`` if that is a sequence.
  bidirectional: run every layer in both directions, each with its own parameters; the next layer reads both
    outputs.
  merge: how to merge forward and backward outputs: ``"concat"`` (twice as many features), ``"sum"``, ``"mean"``,
    or a function of both that keeps their shape.
  dropout: share of a layer's outputs that are dropped before the next layer reads them.
  recurrent_dropout: share of the units that are dropped from h before the recurrent product, the same ones at
    every step. ``eval()`` turns both kinds of dropout off, and ``train()`` turns them on again.
  zoneout: the probability that a unit keeps its value from the step before; a number, or one for every part of the
    carry. After ``eval()`` the state is the mean of both values.
  skip_connections: add the inputs of every layer but the lowest to its outputs.
  return_sequences: return the outputs of all steps; False returns only the one computed last.
  time_major: inputs and outputs are ``[time, *batch, features]`` instead of ``[*batch, time, features]``.
  return_carry: return ``(carry, outputs)`` instead of ``outputs``.
  reverse: run from the last step to the first.
  keep_order: with ``reverse``, return the outputs in the order of the inputs instead of the order in which they
    were computed.
  unroll: steps per iteration of the compiled loop; None for what is fastest (:func:`jaxrnn.ops.recurrence`).
  implementation: which implementation of the engine to use, see :func:`jaxrnn.ops.recurrence`; None chooses.
  remat_every: for training on long sequences. Keeps only the carry of every ``remat_every``-th step, and computes
    the others again in the backward pass.
  rngs: source of the initial parameters and of the masks of dropout and zoneout.
  num_heads: the number of blocks on the diagonal of every recurrent kernel; see :class:`jaxrnn.RecurrentCell`.
  use_bias: whether the cells have biases.
  kernel_init, recurrent_kernel_init, bias_init: initializers; by default Glorot uniform, orthogonal and zeros.
  dtype: the dtype of the computation; None takes the widest of inputs and parameters.
  param_dtype: the dtype of the parameters.
"""

_CALL = """\
The call is ``layers(inputs, *, initial_carry=None, seq_lengths=None, resets=None, reset_carry=None,
return_carry=None)``:
  inputs: ``[*batch, time, in_features]``; a single sequence ``[time, in_features]`` works too.
  initial_carry: a tuple of one carry per layer, as a call returns it; with ``bidirectional``, a tuple of
    (forward, backward) pairs. Zeros by default.
  seq_lengths: integers ``[*batch]``. Steps beyond a row's length are padding; their outputs are zero.
  resets: bool ``[*batch, time]``; where true, the carry returns to ``reset_carry`` before that step.
  reset_carry: ``"zeros"``, or carries like ``initial_carry``, which it is by default (:class:`jaxrnn.RNN`).
  return_carry: overrides the constructor's argument.

Returns:
  The outputs ``[*batch, time, hidden]`` of the top layer (with ``return_sequences=False``
  ``[*batch, hidden]``), or ``(carry, outputs)``.

Raises:
  TypeError: an argument is unknown.
  ValueError: at construction, an argument is invalid; at the call, the inputs, lengths, resets or a carry do not
    fit. The message shows the value and names the layer (the lowest is layer 0).

Warns:
  UserWarning: ``dropout`` with one layer, which has no effect.

"""


class _CellStackSignature(InitSignature):
    """The signature of the constructor, with the names of the options that it passes on to the cells."""

    def parameters(self, owner: Any, own: list[inspect.Parameter]) -> list[inspect.Parameter]:
        if not own or own[-1].kind is not inspect.Parameter.VAR_KEYWORD or not hasattr(owner, "cell_type"):
            return own
        *own, rest = own
        names = {parameter.name for parameter in own}
        of_cell = [p for p in inspect.signature(owner.cell_type).parameters.values() if p.name not in names]
        return [*own, *of_cell] if of_cell else [*own, rest]


class _CellStack(StackedRNN):
    """A stack of one kind of cell. Subclasses set ``cell_type`` and document only what differs."""

    __signature__ = _CellStackSignature()

    cell_type: ClassVar[type[Cell]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "cell_type" in vars(cls) and cls.__doc__ is not None:  # None with python -OO
            doc = inspect.cleandoc(cls.__doc__)
            cls.__doc__ = doc.replace("Args:\n", "Args:\n" + _ARGUMENTS, 1).replace(">>> ", _CALL + ">>> ", 1)

    def __init__(
        self,
        in_features: int,
        hidden_features: int | Sequence[int],
        *,
        num_layers: int | None = None,
        bidirectional: bool = False,
        merge: str | Merge = "concat",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: float | Sequence[float] = 0.0,
        skip_connections: bool = False,
        return_sequences: bool = True,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int | None = None,
        implementation: str | None = None,
        remat_every: int | None = None,
        rngs: nnx.Rngs,
        **cell_options: Any,
    ):
        checks.initial_rngs(rngs)
        bidirectional = checks.flag("bidirectional", bidirectional)
        sizes = layer_sizes(hidden_features, num_layers)
        widths = [2 * size if bidirectional and merge == "concat" else size for size in sizes]

        def make() -> list[Cell]:
            make_cell: Any = self.cell_type
            return [
                make_cell(below, size, rngs=rngs, **cell_options)
                for below, size in zip([in_features, *widths], sizes)
            ]

        super().__init__(
            make(),
            backward_cells=make() if bidirectional else None,
            merge=merge,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            zoneout=zoneout,
            skip_connections=skip_connections,
            return_sequences=return_sequences,
            time_major=time_major,
            return_carry=return_carry,
            reverse=reverse,
            keep_order=keep_order,
            unroll=unroll,
            implementation=implementation,
            remat_every=remat_every,
            rngs=rngs,
        )


class SimpleRNN(_CellStack):
    """One or several layers of the simple recurrent network, :class:`jaxrnn.SimpleRNNCell`.

    h_t = activation_fn(x_t @ kernel + bias + h_{t-1} @ recurrent_kernel). A layer's carry is h,
    ``[*batch, hidden]``, and so is its output.

    Args:
      activation_fn: an elementwise function.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layers = SimpleRNN(1, 100, num_layers=2, return_sequences=False, rngs=nnx.Rngs(0))
    >>> layers(jnp.ones((8, 30, 1))).shape
    (8, 100)
    """

    cell_type = SimpleRNNCell


class LSTM(_CellStack):
    """One or several layers of long short-term memory; :class:`jaxrnn.LSTMCell` has the equations.

    A layer's carry is a :class:`jaxrnn.LSTMCarry` of c and h, each ``[*batch, hidden]``; its output is h.

    Args:
      unit_forget_bias: start with a forget bias of 1.

    >>> import jax.numpy as jnp
    >>> import jaxrnn
    >>> from flax import nnx
    >>> LSTM(3, 16, bidirectional=True, rngs=nnx.Rngs(0))(jnp.ones((8, 30, 3))).shape
    (8, 30, 32)
    >>> layers = LSTM(3, 16, num_layers=2, return_carry=True, rngs=nnx.Rngs(0))
    >>> carry, outputs = layers(jnp.ones((8, 30, 3)))
    >>> carry, outputs = layers(jnp.ones((8, 20, 3)), initial_carry=carry)  # continues from there
    >>> carry[1].c.shape, carry[1].h.shape
    ((8, 16), (8, 16))
    >>> ones = jaxrnn.LSTMCarry(c=jnp.ones((8, 16)), h=jnp.ones((8, 16)))   # a carry made by hand
    >>> carry, outputs = layers(jnp.ones((8, 20, 3)), initial_carry=(ones, ones))
    """

    cell_type = LSTMCell


class GRU(_CellStack):
    """One or several layers of the gated recurrent unit; :class:`jaxrnn.GRUCell` has the equations.

    A layer's carry is h, ``[*batch, hidden]``, and so is its output.

    Args:
      reset_after: True is the variant of cuDNN, PyTorch and Keras; False is the one of the paper.
      use_recurrent_bias: whether ``reset_after=True`` adds a recurrent bias; None means the same as ``use_bias``,
        and ``"candidate"`` adds one of the candidate n only.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> GRU(3, (32, 16), reset_after=False, rngs=nnx.Rngs(0))(jnp.ones((8, 30, 3))).shape
    (8, 30, 16)
    """

    cell_type = GRUCell


class SLSTM(_CellStack):
    """One or several layers of the sLSTM; :class:`jaxrnn.SLSTMCell` has the equations.

    A layer's carry is a :class:`jaxrnn.SLSTMCarry` of c, n, m and h, each ``[*batch, hidden]``; its output is h.

    Args:
      forget_gate: ``"sigmoid"`` or ``"exponential"``.
      forget_bias: ``"ramp"`` or a number.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> SLSTM(3, 16, num_heads=4, rngs=nnx.Rngs(0))(jnp.ones((8, 30, 3))).shape
    (8, 30, 16)
    """

    cell_type = SLSTMCell
