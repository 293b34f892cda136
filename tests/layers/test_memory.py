"""Peak memory of training on one long series, as XLA plans it: nothing runs, only the program is compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jaxrnn

pytestmark = pytest.mark.usefixtures("all_optimisations")

TIME, HIDDEN = 100_000, 128
LAYERS = {"SimpleRNN": (jaxrnn.SimpleRNN, 250), "LSTM": (jaxrnn.LSTM, 100), "GRU": (jaxrnn.GRU, 100)}
"""And the number of steps in a block."""


def megabytes(make: Any, *, last_only: bool, **options: Any) -> float:
    """What a training step needs besides its parameters and the series."""
    layer = make(1, HIDDEN, return_sequences=not last_only, rngs=nnx.Rngs(0), **options)
    graphdef, params = nnx.split(layer)
    step = jax.jit(jax.grad(lambda params, x: (nnx.merge(graphdef, params)(x) ** 2).mean()))
    memory = step.lower(params, jax.ShapeDtypeStruct((1, TIME, 1), jnp.float32)).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes / 1e6


@pytest.mark.parametrize("kind", LAYERS)
def test_a_loss_on_the_last_output_needs_a_twentieth_of_plain_autodiff_s_memory(kind):
    make, block = LAYERS[kind]
    found = megabytes(make, last_only=True, remat_every=block)
    assert found < megabytes(make, last_only=True, implementation="reference") / 20


def test_a_loss_on_all_outputs_needs_little_more_than_these_and_their_gradients():
    outputs = TIME * HIDDEN * 4 / 1e6
    make, block = LAYERS["LSTM"]
    assert 2 * outputs < megabytes(make, last_only=False, remat_every=block) < 2.2 * outputs
