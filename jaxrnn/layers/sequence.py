"""Applies a cell over a whole sequence, time first: on the engine or in one pass if the cell allows it, else in a
plain scan."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jax.sharding import PartitionSpec as P

from jaxrnn.cells.base import RecurrentCell, checked_carry, steps_on_engine
from jaxrnn.cells.inference import is_quantized, layer_weights, platform_of
from jaxrnn.cells.linear import LinearRecurrentCell, steps_linearly
from jaxrnn.checks import Cell
from jaxrnn.layers.any_cell import align, scan_any_cell
from jaxrnn.layers.blocks import Block, Steps, lengths_from, over_time
from jaxrnn.layers.flax_cells import TranslatedCell, carry_for_engine, carry_for_flax, is_known, translated
from jaxrnn.layers.zoneout import Zoneout
from jaxrnn.ops.dispatch import exported_programs, run_recurrence
from jaxrnn.ops.masks import checked_lengths, checked_reset_carry, checked_resets, valid_steps, without_padding
from jaxrnn.ops.native.layers import quantized_recurrence, unable_to_infer
from jaxrnn.ops.step import Carry, Recurrence, cast, hidden_state, projected
from jaxrnn.ops.zoneout import zoneout_pointwise

ZEROS = "zeros"
"""The name of the carry of zeros, as the value of ``reset_carry``."""


def run_cell(
    cell: Cell,
    inputs: Array,
    *,
    initial_carry: Carry | None = None,
    seq_lengths: Array | None = None,
    resets: Array | None = None,
    reset_carry: Carry | str | None = None,
    reverse: bool = False,
    unroll: int | None = None,
    implementation: str | None = None,
    remat_every: int | None = None,
    recurrent_scale: Array | None = None,
    zoneout: Zoneout | None = None,
    last_only: bool = False,
    batch_major: bool = False,
    rngs: nnx.Rngs | nnx.RngStream | None = None,
    broadcast_rngs: nnx.filterlib.Filter = None,
) -> tuple[Carry, Array]:
    """Apply a cell at every step.

    Args:
      cell: any Flax cell. A :class:`jaxrnn.RecurrentCell` runs on the engine, and so do Flax's own cells; a
        :class:`jaxrnn.LinearRecurrentCell` computes all steps in one pass.
      inputs: ``[time, *batch, *features]``.
      initial_carry: the carry before the first step; None takes the cell's ``initialize_carry``.
      seq_lengths, resets, reverse, unroll, implementation, recurrent_scale: as in
        :func:`jaxrnn.ops.recurrence`; the last one only for cells on the engine, and ``implementation`` for these
        and for linear cells, which have implementations of their own (:func:`jaxrnn.ops.linear_recurrence`).
      reset_carry: as in :class:`jaxrnn.RNN`.
      remat_every: as in :class:`jaxrnn.RNN`; only for cells on the engine and linear cells.
      zoneout: which units keep their value from the step before; only for a :class:`jaxrnn.RecurrentCell`.
      last_only: return only the output that is computed last, ``[1, *batch, *features]``, so that with
        ``remat_every`` the others need no memory; not with ``seq_lengths``.
      batch_major: a hint that ``inputs`` is the transpose of an array with time after the batch, and that the
        outputs will be transposed back.
      rngs: for cells with a random initial carry.
      broadcast_rngs: as in :class:`jaxrnn.RNN`.

    Returns:
      The final carry, and the outputs ``[time, *batch, *features]``, aligned with the inputs.
    """
    if seq_lengths is not None:
        batch = inputs.shape[1 : inputs.ndim - cell.num_feature_axes]
        seq_lengths = checked_lengths(seq_lengths, inputs.shape[0], batch)
        inputs = without_padding(inputs, seq_lengths, valid_steps(seq_lengths, inputs.shape[0], batch))
    if initial_carry is None:
        initial_carry = first_carry(cell, inputs, rngs)
    elif is_known(cell):
        initial_carry = checked_carry(cell, initial_carry, inputs.shape[1:])
    else:
        initial_carry = jax.tree.map(jnp.asarray, initial_carry)
    reset_carry = _carry_of_resets(reset_carry, initial_carry)
    options: dict[str, Any] = dict(seq_lengths=seq_lengths, resets=resets, reverse=reverse, unroll=unroll)
    engine_options: dict[str, Any] = dict(implementation=implementation, recurrent_scale=recurrent_scale)
    on_engine = functools.partial(
        _on_engine,
        remat_every=remat_every,
        zoneout=zoneout,
        last_only=last_only,
        batch_major=batch_major and remat_every is None,  # blocks are cut along time
        options=options | engine_options,
    )
    if steps_on_engine(cell):
        return on_engine(cell, inputs, initial_carry, reset_carry)
    if zoneout is not None:
        zoneout.rates_of(cell, initial_carry)  # raises for cells that are not jaxrnn's
    if steps_linearly(cell):
        if recurrent_scale is not None:
            raise ValueError(
                f"recurrent dropout needs a recurrent product, but a {type(cell).__name__} has none: its state "
                "enters linearly"
            )
        block = _linear_block(cell, reset_carry, batch_major and remat_every is None, options, implementation)
        return over_time(block, initial_carry, inputs, resets, remat_every, last_only, reverse)
    same = translated(cell, inputs, initial_carry)
    if same is not None:
        carry, outputs = on_engine(same, inputs, carry_for_engine(initial_carry), carry_for_engine(reset_carry))
        return carry_for_flax(carry), outputs
    wanted = {
        f"{remat_every=}": remat_every,
        f"{implementation=}": implementation,
        "recurrent dropout": recurrent_scale,
    }
    for option, value in wanted.items():
        if value is not None:
            raise ValueError(
                f"{option} needs a cell that runs on the engine: a jaxrnn.RecurrentCell that does not override "
                f"__call__, or an unmodified Flax cell. This {type(cell).__name__} runs in a plain scan"
            )
    return scan_any_cell(
        cell, inputs, initial_carry, reset_carry=reset_carry, broadcast_rngs=broadcast_rngs, **options
    )


def _carry_of_resets(reset_carry: Carry | str | None, initial_carry: Carry) -> Carry:
    """The carry that resets return to, with the structure, shapes and dtypes of the initial one."""
    if reset_carry is None:
        return initial_carry
    if not isinstance(reset_carry, str):
        return checked_reset_carry(reset_carry, initial_carry)
    if reset_carry != ZEROS:
        raise ValueError(f'reset_carry must be a carry, "{ZEROS}" or None for initial_carry, not {reset_carry!r}')
    return jax.tree.map(jnp.zeros_like, initial_carry)


def _on_engine(
    cell: RecurrentCell | TranslatedCell,
    inputs: Array,
    initial_carry: Carry,
    reset_carry: Carry,
    remat_every: int | None,
    zoneout: Zoneout | None,
    last_only: bool,
    batch_major: bool,
    options: dict[str, Any],
) -> tuple[Carry, Array]:
    quantized = None
    if remat_every is None and zoneout is None:
        quantized = _in_integers(cell, inputs, initial_carry, reset_carry, batch_major, options)
    if quantized is not None:
        return quantized
    kernel, recurrent_bias = cell.recurrent_parameters(cell.compute_dtype(inputs))
    pointwise, params = cell.pure_pointwise()
    keep = None
    if zoneout is not None:
        rates = zoneout.rates_of(cell, initial_carry)  # pyright: ignore[reportArgumentType]
        random = any(rates) and not zoneout.deterministic
        pointwise = zoneout_pointwise(pointwise, rates, random, cell.output_is_hidden_state)
        if random:
            shape = (*inputs.shape[:-1], hidden_state(initial_carry).shape[-1])
            keep = zoneout.masks(rates, shape, cell.compute_dtype(inputs))
            sharding = jax.typeof(inputs).sharding
            if any(sharding.spec):  # as the projection that they stand beside, on an explicit mesh
                keep = jax.sharding.reshard(keep, sharding.update(spec=P(*sharding.spec[: inputs.ndim - 1])))
    seq_lengths, resets, scale = (options.pop(name) for name in ("seq_lengths", "resets", "recurrent_scale"))

    def block(carry: Carry, steps: Steps) -> tuple[Carry, Array]:
        x, resets, first = steps
        lengths = lengths_from(seq_lengths, first, x)
        xw = cell.lazy_projection(x, batch_major)
        if keep is not None:
            masks = lax.dynamic_slice_in_dim(keep, first, x.shape[0])
            xw = jnp.concatenate([projected(xw), masks], axis=-1)
        valid = None if lengths is None else valid_steps(lengths, x.shape[0], x.shape[1:-1])
        arrays = Recurrence(kernel, xw, carry, params, recurrent_bias, scale, valid, resets, reset_carry)
        carry, outputs = run_recurrence(pointwise, arrays, **options)
        if last_only and cell.output_is_hidden_state:
            outputs = cast(hidden_state(carry), outputs.dtype)[None]
        return carry, outputs

    return over_time(block, initial_carry, inputs, resets, remat_every, last_only, options["reverse"])


def _linear_block(
    cell: LinearRecurrentCell,
    reset_carry: Carry,
    batch_major: bool,
    options: dict[str, Any],
    implementation: str | None,
) -> Block:
    """Some steps of a linear cell, as a function."""

    def block(carry: Carry, steps: Steps) -> tuple[Carry, Array]:
        return cell.sequence(
            carry,
            steps.inputs,
            seq_lengths=lengths_from(options["seq_lengths"], steps.first, steps.inputs),
            resets=steps.resets,
            reset_carry=None if steps.resets is None else reset_carry,
            reverse=options["reverse"],
            implementation=implementation,
            batch_major=batch_major,
        )

    return block


def _in_integers(
    cell: RecurrentCell | TranslatedCell,
    inputs: Array,
    initial_carry: Carry,
    reset_carry: Carry,
    batch_major: bool,
    options: dict[str, Any],
) -> tuple[Carry, Array] | None:
    """The carry and the outputs of a cell with int8 kernels; None where it runs in floats."""
    if (
        not isinstance(cell, RecurrentCell)
        or not is_quantized(cell)
        or exported_programs.value
        or 0 in inputs.shape
    ):
        return None
    if options["implementation"] not in (None, "native") or options["recurrent_scale"] is not None:
        return None
    weights = layer_weights(cell)
    dtypes = {cell.compute_dtype(inputs), *(leaf.dtype for leaf in jax.tree.leaves(initial_carry))}
    wide = dtypes.pop() if len(dtypes) == 1 else jnp.float64
    if weights is None or unable_to_infer(weights, wide, platform_of(inputs)) is not None:
        return None
    time, batch, lengths = inputs.shape[0], inputs.shape[1:-1], options["seq_lengths"]
    valid = None if lengths is None else valid_steps(lengths, time, batch)
    return quantized_recurrence(
        weights,
        cast(inputs, jnp.dtype(wide)),
        initial_carry,
        valid=valid,
        resets=checked_resets(options["resets"], time, batch, valid),
        reset_carry=reset_carry,
        reverse=options["reverse"],
        batch_major=batch_major,
    )


def first_carry(cell: Cell, inputs: Array, rngs: nnx.Rngs | nnx.RngStream | None) -> Carry:
    """The cell's own initial carry; for our cells in the dtype of the computation, unless they set a dtype."""
    if not isinstance(cell, (RecurrentCell, LinearRecurrentCell)):
        carry = cell.initialize_carry(inputs.shape[1:], nnx.Rngs(0) if rngs is None else rngs)
        return _sharded_like(inputs, carry, cell.num_feature_axes)
    compute = cell.compute_dtype(inputs)
    own = getattr(cell.initialize_carry, "__func__", None) is not RecurrentCell.initialize_carry
    if isinstance(cell, RecurrentCell) and not own:
        h = jnp.zeros((*inputs.shape[1:-1], cell.hidden_features), cell.dtype or compute)
        return _sharded_like(inputs, cell.carry_like(h))
    carry = _sharded_like(inputs, cell.initialize_carry(inputs.shape[1:], rngs))
    if cell.dtype is not None:
        return carry
    if isinstance(cell, LinearRecurrentCell):
        return jax.tree.map(lambda a: cast(a, cell.state_dtype(compute)), carry)
    parts = cell.carry_like(jnp.zeros((0,), compute))
    if jax.tree.structure(parts) != jax.tree.structure(carry):
        # The cell has its own initialize_carry, as Flax's cells do, and no carry_like: its dtypes are its choice.
        return jax.tree.map(lambda a: cast(a, jnp.promote_types(a.dtype, compute)), carry)
    return jax.tree.map(lambda a, part: cast(a, part.dtype), carry, parts)


def _sharded_like(inputs: Array, carry: Carry, num_feature_axes: int = 1) -> Carry:
    """On an explicit mesh, shard the carry's batch axes like those of ``inputs [time, *batch, *features]``."""
    sharding = jax.typeof(inputs).sharding
    batch = sharding.spec[1 : inputs.ndim - num_feature_axes]
    if not any(batch):
        return carry
    return jax.tree.map(lambda a: jax.sharding.reshard(a, sharding.update(spec=P(*batch))), carry)


def flip_time(array: Array, seq_lengths: Array | None) -> Array:
    """Reverse each row of ``array [time, *batch, ...]`` within its length; padding stays where it is."""
    if seq_lengths is None:
        return jnp.flip(array, axis=0)
    lengths = checked_lengths(seq_lengths, array.shape[0], jnp.shape(seq_lengths))[None]
    steps = jnp.arange(array.shape[0]).reshape(-1, *([1] * (lengths.ndim - 1)))
    source = jnp.where(steps < lengths, lengths - 1 - steps, steps)
    return jnp.take_along_axis(array, align(source, array), axis=0)
