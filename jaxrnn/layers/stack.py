"""Stacks of recurrent layers: each layer reads the outputs of the one below."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn.cells import GRUCell, LSTMCell, SimpleRNNCell
from jaxrnn.layers.rnn import check_shapes, concatenate_features, pair_of_carries, time_axis_of
from jaxrnn.layers.sequence import flip_time, run_cell
from jaxrnn.ops.dispatch import checked_lengths
from jaxrnn.ops.step import Carry, hidden_state

Merge = Callable[[Array, Array], Array]

MERGES: dict[str, Merge] = {
    "concat": concatenate_features,
    "sum": lambda forward, backward: forward + backward,
    "mean": lambda forward, backward: (forward + backward) / 2,
}
"""How forward and backward outputs may be merged, by name."""


class StackedRNN(nnx.Module):
    """Recurrent layers on top of each other, from any cells.

    Args:
      cells: one cell per layer, the lowest first; each reads as many features as the one below puts out.
      backward_cells: with these, one per layer, every layer also runs backwards, and the next one reads both.
      merge: of forward and backward outputs: ``"concat"``, ``"sum"``, ``"mean"``, or a function of both.
      dropout: share of a layer's outputs that are dropped before the next layer reads them.
      recurrent_dropout: share of the units that are dropped from h before the recurrent product, the same ones at
        every step of a sequence (Gal and Ghahramani 2016, arXiv:1512.05287). Both kinds of dropout act until
        ``model.eval()`` and again from ``model.train()``, as everywhere in Flax.
      skip_connections: add the inputs of every layer but the lowest to its outputs.
      return_sequences: return the outputs of every step, ``[*batch, time, hidden]``; False returns only the
        one computed last, ``[*batch, hidden]`` (the last within ``seq_lengths``; zeros for length 0).
      time_major, return_carry, reverse, keep_order, unroll, implementation, remat_every: as in
        :class:`jaxrnn.RNN`.
      rngs: source of the dropout masks.
    """

    def __init__(
        self,
        cells: Sequence[nnx.RNNCellBase],
        *,
        backward_cells: Sequence[nnx.RNNCellBase] | None = None,
        merge: str | Merge = "concat",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        skip_connections: bool = False,
        return_sequences: bool = True,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        implementation: str | None = None,
        remat_every: int | None = None,
        rngs: nnx.Rngs | None = None,
    ):
        if not cells:
            raise ValueError("a stack needs at least one cell")
        if backward_cells is not None and len(backward_cells) != len(cells):
            raise ValueError(f"{len(cells)} cells need as many backward_cells, not {len(backward_cells)}")
        if backward_cells is not None and reverse:
            raise ValueError("reverse=True says nothing of a stack that runs both ways: leave it False")
        if isinstance(merge, str) and merge not in MERGES:
            raise ValueError(
                f"unknown merge {merge!r}; available: {', '.join(MERGES)}, or a function of two arrays"
            )
        for name, rate in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout)):
            if not 0 <= rate < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {rate}")
            if rate and rngs is None:
                raise ValueError(f"{name}={rate} needs rngs to draw its masks from")
        self.cells = nnx.List(cells)
        self.backward_cells = nnx.List(backward_cells or [])
        self.merge_fn = MERGES[merge] if isinstance(merge, str) else merge
        self.dropout = nnx.data(nnx.Dropout(dropout, rngs=rngs) if dropout else None)
        self.recurrent_dropout = nnx.data(nnx.Dropout(recurrent_dropout, rngs=rngs) if recurrent_dropout else None)
        self.skip_connections = skip_connections
        self.return_sequences = return_sequences
        self.time_major = time_major
        self.return_carry = return_carry
        self.reverse = reverse
        self.keep_order = keep_order
        self.unroll = unroll
        self.implementation = implementation
        self.remat_every = remat_every

    @property
    def num_layers(self) -> int:
        return len(self.cells)

    @property
    def bidirectional(self) -> bool:
        return len(self.backward_cells) > 0

    def initialize_carry(self, input_shape: tuple[int, ...]) -> tuple[Carry, ...]:
        """Every layer's first carry, for one step's inputs of shape ``(*batch, in_features)``."""

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
        return_carry: bool | None = None,
    ) -> Any:
        """Run the stack.

        Args:
          inputs: ``[*batch, time, features]``, or ``[time, *batch, features]`` with ``time_major``.
          initial_carry: one carry per layer (a pair of them where it runs both ways); zeros by default.
          seq_lengths, resets, return_carry: as in :class:`jaxrnn.RNN`.

        Returns:
          The outputs, or ``(carry, outputs)`` with a tuple of one carry per layer.
        """
        return_carry = self.return_carry if return_carry is None else return_carry
        if initial_carry is not None and (
            not isinstance(initial_carry, (tuple, list)) or len(initial_carry) != self.num_layers
        ):
            found = len(initial_carry) if isinstance(initial_carry, (tuple, list)) else type(initial_carry)
            raise ValueError(f"initial_carry must be a tuple of {self.num_layers} carries, not {found}")
        inputs = jnp.asarray(inputs)
        time_axis = time_axis_of(inputs, self.time_major)
        check_shapes(self.cells[0], inputs, resets)
        sequence = jnp.moveaxis(inputs, time_axis, 0)
        if sequence.shape[0] == 0 and not self.return_sequences:
            raise ValueError(f"{inputs.shape=} has no steps, so there is no last output")
        options: dict[str, Any] = dict(
            seq_lengths=seq_lengths,
            resets=None if resets is None else jnp.moveaxis(jnp.asarray(resets), time_axis, 0),
            unroll=self.unroll,
            implementation=self.implementation,
            remat_every=self.remat_every,
            batch_major=time_axis != 0,
        )
        carries, last = [], sequence
        for layer in range(self.num_layers):
            first = None if initial_carry is None else initial_carry[layer]
            carry, outputs, last = self._run_layer(layer, sequence, first, options)
            if self.skip_connections and layer > 0:
                if outputs.shape != sequence.shape:
                    raise ValueError(
                        f"skip_connections need layers of one width, but layer {layer} reads "
                        f"{sequence.shape[-1]} features and puts out {outputs.shape[-1]}"
                    )
                outputs = outputs + sequence
                last = last + self._last(sequence, seq_lengths, self.reverse)
            if self.dropout is not None and layer < self.num_layers - 1:
                outputs = self.dropout(outputs)
            carries.append(carry)
            sequence = outputs
        if not self.return_sequences:
            result = last
        else:
            if self.reverse and not self.keep_order:
                sequence = flip_time(sequence, seq_lengths)
            result = jnp.moveaxis(sequence, 0, time_axis)
        return (tuple(carries), result) if return_carry else result

    def _run_layer(
        self, layer: int, sequence: Array, initial_carry: Any, options: dict[str, Any]
    ) -> tuple[Carry, Array, Array]:
        """One layer over ``sequence [time, *batch, features]``: carry, outputs, and the output computed last."""

        lengths = options["seq_lengths"]
        top = layer == self.num_layers - 1
        last_only = top and not self.return_sequences and not self.skip_connections and lengths is None

        def run(cell: nnx.RNNCellBase, carry: Carry | None, reverse: bool) -> tuple[Carry, Array, Array]:
            carry, outputs = run_cell(
                cell,
                sequence,
                initial_carry=carry,
                reverse=reverse,
                recurrent_scale=self._recurrent_scale(cell, sequence),
                last_only=last_only,
                **options,
            )
            return carry, outputs, self._last(outputs, lengths, reverse)

        if not self.bidirectional:
            return run(self.cells[layer], initial_carry, self.reverse)
        forward_carry, backward_carry = pair_of_carries(initial_carry)
        carry, outputs, last = run(self.cells[layer], forward_carry, False)
        back_carry, back_outputs, back_last = run(self.backward_cells[layer], backward_carry, True)
        return (carry, back_carry), self.merge_fn(outputs, back_outputs), self.merge_fn(last, back_last)

    def _recurrent_scale(self, cell: nnx.RNNCellBase, sequence: Array) -> Array | None:
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
        last = jnp.maximum(checked_lengths(seq_lengths, len(outputs), jnp.shape(seq_lengths)) - 1, 0)
        return jnp.take_along_axis(outputs, last[None, ..., None], axis=0)[0]


def layer_sizes(hidden_features: int | Sequence[int], num_layers: int | None) -> tuple[int, ...]:
    """One hidden size per layer, from one size and a number of layers or from the sizes themselves."""
    if num_layers is not None and not isinstance(num_layers, int):
        raise ValueError(f"{num_layers=} must be an integer")
    if not isinstance(hidden_features, Sequence):
        sizes = (hidden_features,) * (1 if num_layers is None else num_layers)
    else:
        sizes = tuple(hidden_features)
        if num_layers is not None and num_layers != len(sizes):
            raise ValueError(f"{hidden_features=} has {len(sizes)} layers, but {num_layers=}")
    if not sizes:
        raise ValueError(f"at least one layer is needed: {hidden_features=}, {num_layers=}")
    return sizes


class _CellStack(StackedRNN):
    """A stack of one kind of cell, which subclasses name."""

    cell_type: ClassVar[type[nnx.RNNCellBase]]

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
        skip_connections: bool = False,
        return_sequences: bool = True,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        implementation: str | None = None,
        remat_every: int | None = None,
        rngs: nnx.Rngs,
        **cell_options: Any,
    ):
        sizes = layer_sizes(hidden_features, num_layers)
        widths = [2 * size if bidirectional and merge == "concat" else size for size in sizes]

        def make() -> list[nnx.RNNCellBase]:
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
    """``num_layers`` layers of :class:`jaxrnn.SimpleRNNCell`.

    Args:
      in_features: size of the last axis of the inputs.
      hidden_features: size of every layer, or one size per layer.
      num_layers: how many layers; may be left out where ``hidden_features`` is a sequence.
      bidirectional: run every layer both ways.
      merge, dropout, recurrent_dropout, skip_connections, return_sequences, time_major, return_carry, reverse,
        keep_order, unroll, implementation, remat_every: as in :class:`StackedRNN`.
      rngs: source of the initial parameters and of dropout masks.
      cell_options: further keyword arguments go to every cell: ``activation_fn``, ``dtype``, ...

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layers = SimpleRNN(1, 100, num_layers=2, return_sequences=False, rngs=nnx.Rngs(0))
    >>> layers(jnp.ones((8, 30, 1))).shape
    (8, 100)
    """

    cell_type = SimpleRNNCell


class LSTM(_CellStack):
    """``num_layers`` layers of :class:`jaxrnn.LSTMCell`; the arguments are those of :class:`SimpleRNN`.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> LSTM(3, 16, bidirectional=True, rngs=nnx.Rngs(0))(jnp.ones((8, 30, 3))).shape
    (8, 30, 32)
    """

    cell_type = LSTMCell


class GRU(_CellStack):
    """``num_layers`` layers of :class:`jaxrnn.GRUCell`; the arguments are those of :class:`SimpleRNN`.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> GRU(3, (32, 16), reset_after=False, rngs=nnx.Rngs(0))(jnp.ones((8, 30, 3))).shape
    (8, 30, 16)
    """

    cell_type = GRUCell
