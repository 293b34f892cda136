"""Layers exported to ONNX and run in ONNX Runtime give what the layers give, at sizes that no export knew.

The reference is one compiled program for each stack, at the largest size: a shorter sequence is one with smaller
lengths, and a smaller batch is its first rows.
"""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.export import to_onnx
from tests.export.onnx_runs import TOLERANCE, distance, run_session, session

NEEDS = ("onnx", "onnxruntime")
BATCH, TIME, FEATURES, HIDDEN = 5, 8, 3, 4
SIZES = ((BATCH, TIME), (1, 1), (3, 5))
LENGTHS = np.array([8, 0, 3, 1, 6], np.int32)

CELLS: dict[str, tuple[type[jaxrnn.RecurrentCell], dict[str, Any]]] = {
    "simple_rnn tanh": (jaxrnn.SimpleRNNCell, {}),
    "simple_rnn relu": (jaxrnn.SimpleRNNCell, {"activation_fn": jax.nn.relu}),
    "simple_rnn sigmoid": (jaxrnn.SimpleRNNCell, {"activation_fn": jax.nn.sigmoid, "use_bias": False}),
    "lstm": (jaxrnn.LSTMCell, {}),
    "gru": (jaxrnn.GRUCell, {}),
    "gru one bias": (jaxrnn.GRUCell, {"use_recurrent_bias": False}),
    "gru reset before": (jaxrnn.GRUCell, {"reset_after": False}),
    "leaky": (jaxrnn.LeakyCell, {"initial_leak": 0.3}),
    "leaky recurrent bias": (jaxrnn.LeakyCell, {"use_recurrent_bias": True, "use_bias": False}),
}


def stack(cell: str, layers: int, direction: str, **options: Any) -> Any:
    kind, cell_options = CELLS[cell]
    rngs = nnx.Rngs(0)
    both = direction == "bidirectional"
    widths = [FEATURES, *[HIDDEN * (2 if both else 1)] * (layers - 1)]
    cells, backward = ([kind(below, HIDDEN, rngs=rngs, **cell_options) for below in widths] for _ in range(2))
    options |= {"backward_cells": backward} if both else {"reverse": direction == "reverse"}
    return jaxrnn.StackedRNN(cells, **options)


def random_carry(model: Any, batch: int) -> Any:
    random = np.random.default_rng(2)
    shapes = jax.eval_shape(lambda: model.initialize_carry((batch, FEATURES)))
    return jax.tree.map(lambda a: random.normal(size=a.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_direction_and_depth(cell, direction, randomized):
    x = np.random.default_rng(0).normal(size=(BATCH, TIME, FEATURES)).astype(np.float32)
    for layers in (1, 3):
        model = randomized(stack(cell, layers, direction, keep_order=layers == 1))
        graphdef, state = nnx.split(model)

        @jax.jit
        def reference(state, lengths, carry, graphdef=graphdef):
            merged: Any = nnx.merge(graphdef, state)
            return merged(x, seq_lengths=lengths, initial_carry=carry, return_carry=True)

        given = random_carry(model, BATCH)
        for with_lengths in (False, True):
            for with_carry in (False, True):
                data = to_onnx(model, seq_lengths=with_lengths, initial_carry=with_carry, return_carry=with_carry)
                opened = session(data)
                for batch, time in SIZES:
                    lengths = np.minimum(LENGTHS if with_lengths else TIME, time) + np.zeros(BATCH, np.int32)
                    carry = given if with_carry else jax.tree.map(np.zeros_like, given)
                    finals, outputs = reference(state, lengths, carry)
                    result = run_session(
                        opened,
                        x[:batch, :time],
                        lengths[:batch] if with_lengths else None,
                        jax.tree.map(lambda a, batch=batch: a[:batch], carry) if with_carry else None,
                    )
                    expected = [outputs[:, :time], *(jax.tree.leaves(finals) if with_carry else [])]
                    for ours, theirs in zip(result.values(), expected, strict=True):
                        setup = (layers, with_lengths, with_carry, batch, time)
                        assert distance(ours, theirs[:batch]) <= TOLERANCE, setup
