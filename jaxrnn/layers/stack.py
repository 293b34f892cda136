"""Stacks of recurrent layers: each layer reads the outputs of the one below."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxrnn import checks
from jaxrnn.checks import Cell
from jaxrnn.layers.arguments import (
    carries_of_layers,
    checked_implementation,
    errors_of,
    pair_of_carries,
    pair_of_reset_carries,
    time_first,
)
from jaxrnn.layers.flax_cells import is_known
from jaxrnn.layers.rnn import concatenate_features
from jaxrnn.layers.sequence import flip_time, run_cell
from jaxrnn.layers.zoneout import Zoneout
from jaxrnn.ops.step import Carry, hidden_state
from jaxrnn.signature import InitSignature

Merge = Callable[[Array, Array], Any]


def add_features(forward: Array, backward: Array) -> Array:
    return forward + backward


def average_features(forward: Array, backward: Array) -> Array:
    return (forward + backward) / 2


# Functions with a name, so that layers can be pickled.
MERGES: dict[str, Merge] = {"concat": concatenate_features, "sum": add_features, "mean": average_features}
"""How forward and backward outputs may be merged, by name."""


def check_skip_connection(layer: int, read: tuple[int, ...], returned: tuple[int, ...]) -> None:
    """Raise a ValueError unless the layer returns the shape that it reads, so that both can be added."""
    if read != returned:
        raise ValueError(
            f"skip_connections need layers of one width, but layer {layer} reads {read[-1]} features and returns "
            f"{returned[-1]}"
        )


class StackedRNN(nnx.Module):
    """Recurrent layers on top of each other, from any cells.

    Args:
      cells: one cell per layer, the lowest first. Each reads as many features as the layer below returns.
      backward_cells: one cell per layer, for the backward direction; the next layer reads both outputs.
      merge: how to merge forward and backward outputs: ``"concat"``, ``"sum"``, ``"mean"``, or a function of both.
        In a stack of one layer the function may return any pytree of arrays.
      dropout: share of a layer's outputs that are dropped before the next layer reads them.
      recurrent_dropout: share of the units that are dropped from h before the recurrent product, the same ones at
        every step of a sequence (Gal and Ghahramani 2016, arXiv:1512.05287). ``model.eval()`` turns both kinds of
        dropout off, and ``model.train()`` turns them on again, as everywhere in Flax.
      zoneout: the probability that a unit keeps its value from the step before, drawn anew at every step (Krueger
        et al. 2017, arXiv:1606.01305); a number, or one for every part of the carry, ``(c, h)`` for an LSTM. After
        ``model.eval()`` the state is the mean of both values. Outputs that are the hidden state have it too; what
        else a cell returns, its equations compute from the new state before units keep their values.
      skip_connections: add the inputs of every layer but the lowest to its outputs.
      return_sequences: return the outputs of all steps, ``[*batch, time, hidden]``; False returns only the one
        computed last, ``[*batch, hidden]`` (the last within ``seq_lengths``; zeros for length 0).
      time_major, return_carry, reverse, keep_order, unroll, implementation, remat_every: as in
        :class:`jaxrnn.RNN`.
      rngs: source of the masks of dropout and zoneout.

    Raises:
      ValueError: at construction, an argument is invalid or a cell is used twice; at the call, the inputs,
        lengths, resets or a carry do not fit the layers, or one layer does not fit the next. The message shows the
        value and names the layer (the lowest is layer 0).

    Warns:
      UserWarning: ``dropout`` in a stack of one layer, which has no effect.

    >>> import jax.numpy as jnp
    >>> import jaxrnn
    >>> from flax import nnx
    >>> rngs = nnx.Rngs(0)
    >>> cells = [jaxrnn.LSTMCell(3, 16, rngs=rngs), jaxrnn.GRUCell(16, 8, rngs=rngs)]
    >>> layers = StackedRNN(cells, return_carry=True)
    >>> (of_lstm, of_gru), outputs = layers(jnp.ones((2, 10, 3)))
    >>> of_lstm.c.shape, of_gru.shape, outputs.shape
    ((2, 16), (2, 8), (2, 10, 8))
    """

    __signature__ = InitSignature()

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        backward_cells: Sequence[Cell] | None = None,
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
        rngs: nnx.Rngs | None = None,
    ):
        cells = _checked_cells("cells", cells)
        backward_cells = [] if backward_cells is None else _checked_cells("backward_cells", backward_cells)
        if backward_cells and len(backward_cells) != len(cells):
            raise ValueError(f"{len(cells)} cells need as many backward_cells, not {len(backward_cells)}")
        if len({id(cell) for cell in cells + backward_cells}) < len(cells + backward_cells):
            raise ValueError("the stack has the same cell twice, and both would share parameters: make two cells")
        self.reverse = checks.flag("reverse", reverse)
        if backward_cells and reverse:
            raise ValueError(
                "reverse=True is not supported with bidirectional layers, which run both ways already"
            )
        dropout = _checked_dropout("dropout", dropout, rngs)
        recurrent_dropout = _checked_dropout("recurrent_dropout", recurrent_dropout, rngs)
        if dropout and len(cells) == 1:
            warnings.warn(
                f"{dropout=} has no effect in a stack of one layer: it acts between layers",
                UserWarning,
                stacklevel=2,
            )
        self.cells = nnx.List(cells)
        self.backward_cells = nnx.List(backward_cells)
        self.merge_fn = _checked_merge(merge)
        self.dropout = nnx.data(nnx.Dropout(dropout, rngs=rngs) if dropout else None)
        self.recurrent_dropout = nnx.data(nnx.Dropout(recurrent_dropout, rngs=rngs) if recurrent_dropout else None)
        self.zoneout = nnx.data(Zoneout(zoneout, rngs=rngs) if np.any(zoneout) else None)
        if self.zoneout is not None:
            for number, cell in enumerate(cells + backward_cells):
                with errors_of(f"layer {number % len(cells)}"):
                    self.zoneout.check(cell)
        self.skip_connections = checks.flag("skip_connections", skip_connections)
        self.return_sequences = checks.flag("return_sequences", return_sequences)
        self.time_major = checks.flag("time_major", time_major)
        self.return_carry = checks.flag("return_carry", return_carry)
        self.keep_order = checks.flag("keep_order", keep_order)
        self.unroll = checks.positive_integer_or_none("unroll", unroll)
        self.implementation = checked_implementation(implementation)
        self.remat_every = checks.positive_integer_or_none("remat_every", remat_every)

    @property
    def num_layers(self) -> int:
        return len(self.cells)

    @property
    def bidirectional(self) -> bool:
        return len(self.backward_cells) > 0

    def initialize_carry(self, input_shape: tuple[int, ...]) -> tuple[Carry, ...]:
        """Every layer's initial carry, for one step's inputs of shape ``(*batch, in_features)``."""

        def first(cells: nnx.List) -> tuple[Carry, ...]:
            return tuple(cell.initialize_carry(input_shape, nnx.Rngs(0)) for cell in cells)

        forward = first(self.cells)
        return tuple(zip(forward, first(self.backward_cells))) if self.bidirectional else forward

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Sequence[Carry] | None = None,
        seq_lengths: Array | None = None,
        resets: Array | None = None,
        reset_carry: Sequence[Carry] | str | None = None,
        return_carry: bool | None = None,
    ) -> Any:
        """Run the stack.

        Args:
          inputs: ``[*batch, time, features]``, or ``[time, *batch, features]`` with ``time_major``.
          initial_carry: one carry per layer, or one pair per layer if it is bidirectional; zeros by default.
          seq_lengths, resets, return_carry: as in :class:`jaxrnn.RNN`.
          reset_carry: what ``resets`` return to: ``"zeros"``, or carries like ``initial_carry``, which it is by
            default. :class:`jaxrnn.RNN` says when it is needed.

        Returns:
          The outputs, or ``(carry, outputs)`` with a tuple of one carry per layer.
        """
        return_carry = checks.flag("return_carry", return_carry, self.return_carry)
        first_carries = carries_of_layers("initial_carry", initial_carry, self.num_layers)
        if isinstance(reset_carry, str):
            reset_carries: Any = (reset_carry,) * self.num_layers
        else:
            reset_carries = carries_of_layers("reset_carry", reset_carry, self.num_layers)
        sequence, seq_lengths, resets, time_axis = time_first(
            self.cells[0], inputs, seq_lengths, resets, self.time_major
        )
        if sequence.shape[0] == 0 and not self.return_sequences:
            raise ValueError(f"inputs.shape={jnp.shape(inputs)} has no steps, so there is no last output")
        options: dict[str, Any] = dict(
            seq_lengths=seq_lengths,
            resets=resets,
            unroll=self.unroll,
            implementation=self.implementation,
            remat_every=self.remat_every,
            batch_major=time_axis != 0,
        )
        carries, last = [], sequence
        for layer in range(self.num_layers):
            first, reset = first_carries[layer], reset_carries[layer]
            with errors_of(f"layer {layer}"):
                carry, outputs, last, width = self._run_layer(layer, sequence, first, reset, options)
                if layer < self.num_layers - 1 and not isinstance(outputs, Array):
                    raise ValueError(
                        f"merge returned a {type(outputs).__name__}, but layer {layer + 1} reads one array"
                    )
            if self.skip_connections and layer > 0:
                check_skip_connection(layer, sequence.shape, outputs.shape)
                outputs = outputs + sequence
                last = last + self._last_read(width, sequence, seq_lengths)
            if self.dropout is not None and layer < self.num_layers - 1:
                outputs = self.dropout(outputs)
            carries.append(carry)
            sequence = outputs
        if not self.return_sequences:
            result = last
        else:
            if self.reverse and not self.keep_order:
                sequence = flip_time(sequence, seq_lengths)
            result = jax.tree.map(lambda a: jnp.moveaxis(a, 0, time_axis), sequence)
        return (tuple(carries), result) if return_carry else result

    def _run_layer(
        self, layer: int, sequence: Array, initial_carry: Any, reset_carry: Any, options: dict[str, Any]
    ) -> tuple[Carry, Array, Array, int]:
        """Run a layer over ``sequence [time, *batch, features]``.

        Returns carry, outputs, the last output, and how many of its features are of the forward direction.
        """
        for cell in [self.cells[layer], *self.backward_cells[layer : layer + 1]]:
            reads: Any = getattr(cell, "in_features", None) if is_known(cell) else None
            if reads not in (None, sequence.shape[-1]):
                raise ValueError(f"it reads {reads} features, but the layer below returns {sequence.shape[-1]}")
        lengths = options["seq_lengths"]
        top = layer == self.num_layers - 1
        last_only = top and not self.return_sequences and not self.skip_connections and lengths is None

        def run(cell: Cell, carry: Carry | None, reset: Any, reverse: bool) -> tuple[Carry, Array, Array]:
            carry, outputs = run_cell(
                cell,
                sequence,
                initial_carry=carry,
                reset_carry=reset,
                reverse=reverse,
                recurrent_scale=self._recurrent_scale(cell, sequence),
                zoneout=self.zoneout,
                last_only=last_only,
                **options,
            )
            return carry, outputs, self._last(outputs, lengths, reverse)

        if not self.bidirectional:
            carry, outputs, last = run(self.cells[layer], initial_carry, reset_carry, self.reverse)
            return carry, outputs, last, last.shape[-1]
        forward_carry, backward_carry = pair_of_carries(initial_carry)
        forward_reset, backward_reset = pair_of_reset_carries(reset_carry)
        carry, outputs, last = run(self.cells[layer], forward_carry, forward_reset, False)
        back_carry, back_outputs, back_last = run(self.backward_cells[layer], backward_carry, backward_reset, True)
        merge, batch_axes = self.merge_fn, sequence.ndim - 1 - self.cells[layer].num_feature_axes
        if options["batch_major"] and merge in MERGES.values():
            # Both are transposes of arrays with time after the batch, and so will be what is returned.
            outputs, back_outputs = (jnp.moveaxis(part, 0, batch_axes) for part in (outputs, back_outputs))
            outputs = jnp.moveaxis(merge(outputs, back_outputs), batch_axes, 0)
        else:
            outputs = merge(outputs, back_outputs)
        return (carry, back_carry), outputs, merge(last, back_last), last.shape[-1]

    def _recurrent_scale(self, cell: Cell, sequence: Array) -> Array | None:
        if self.recurrent_dropout is None or self.recurrent_dropout.deterministic:
            return None
        h = hidden_state(cell.initialize_carry(sequence.shape[1:], nnx.Rngs(0)))
        return self.recurrent_dropout(jnp.ones_like(h))

    @staticmethod
    def _last(outputs: Array, seq_lengths: Array | None, reverse: bool) -> Array:
        """The output that is computed last, from outputs ``[time, *batch, hidden]`` aligned with time."""
        if outputs.shape[0] == 0 or reverse:
            return outputs[:1].sum(axis=0)
        if seq_lengths is None:
            return outputs[-1]
        last = jnp.maximum(seq_lengths - 1, 0)
        last = last.reshape(1, *last.shape, *(1,) * (outputs.ndim - 1 - last.ndim))
        return jnp.take_along_axis(outputs, last, axis=0)[0]

    def _last_read(self, forward: int, sequence: Array, seq_lengths: Array | None) -> Array:
        """What a layer reads at the step computed last; of two directions, side by side, at that of each.

        ``forward`` is how many features of its output are of the forward direction.
        """
        last = self._last(sequence, seq_lengths, self.reverse)
        if self.merge_fn is not concatenate_features or not self.bidirectional:
            return last
        back = self._last(sequence, seq_lengths, True)
        return jnp.concatenate([last[..., :forward], back[..., forward:]], axis=-1)


def _checked_cells(name: str, cells: Any) -> list[Cell]:
    if not isinstance(cells, Iterable):
        raise ValueError(f"{name} must be a sequence of cells, one per layer, not {checks.shown(cells)}")
    checked = [checks.cell(f"{name}[{layer}]", cell) for layer, cell in enumerate(cells)]
    if not checked:
        raise ValueError("a stack needs at least one cell")
    return checked


def _checked_merge(merge: Any) -> Merge:
    if isinstance(merge, str) and merge in MERGES:
        return MERGES[merge]
    if not callable(merge):
        raise ValueError(f"unknown merge {merge!r}; available: {', '.join(MERGES)}, or a function of two arrays")
    return cast(Merge, merge)


def _checked_dropout(name: str, rate: Any, rngs: Any) -> float:
    rate = checks.dropout_rate(name, rate)
    if rngs is not None and not isinstance(rngs, (nnx.Rngs, nnx.RngStream)):
        raise ValueError(f"rngs must be nnx.Rngs or None, not {checks.shown(rngs)}")
    if rate and rngs is None:
        raise ValueError(f"{name}={rate} needs rngs to draw its masks from")
    return rate
