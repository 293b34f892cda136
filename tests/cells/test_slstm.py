"""The sLSTM: no pre-activation overflows, c, n and m stay in float32, and cells with heads work everywhere."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.ops import slstm_pointwise


def cell(**options) -> jaxrnn.SLSTMCell:
    return jaxrnn.SLSTMCell(3, 8, rngs=nnx.Rngs(0), **{"num_heads": 2, **options})


@pytest.mark.parametrize("forget_gate", ["sigmoid", "exponential"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_is_finite_for_pre_activations_of_plus_and_minus_80(forget_gate, dtype):
    # Every combination of the signs of i and f in three steps, from the empty memory on.
    signs = np.array(list(itertools.product([-80.0, 80.0], repeat=6))).reshape(64, 3, 2)
    gates = np.stack([signs[..., 0], signs[..., 1], 80 - signs[..., 0], signs[..., 1]], axis=-1)
    xw = jnp.asarray(gates.swapaxes(0, 1), dtype)  # [time, batch, gates of one unit]
    h = jnp.zeros((64, 1), dtype)
    wide = h.astype(jnp.float32)
    carry = jaxrnn.SLSTMCarry(wide, wide, wide, h)

    @jax.jit
    def run(xw, kernel):
        def loss(xw, kernel):
            found = jaxrnn.ops.recurrence(slstm_pointwise(forget_gate), kernel, xw, carry, implementation="scan")
            return sum(jnp.sum(a.astype(jnp.float32)) for a in jax.tree.leaves(found)), found

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(xw, kernel)

    gradients, (last, outputs) = run(xw, jnp.full((1, 4), 80.0, dtype))
    for array in jax.tree.leaves((gradients, last, outputs)):
        assert np.isfinite(np.asarray(array, np.float32)).all()
    assert (np.asarray(last.n) >= 1).all() and np.abs(np.asarray(outputs, np.float32)).max() <= 1


def test_c_n_and_m_stay_in_float32_in_half_precision():
    for options in ({"dtype": jnp.bfloat16}, {"param_dtype": jnp.bfloat16}):
        layer = jaxrnn.RNN(cell(**options), return_carry=True)
        carry, outputs = layer(jnp.ones((2, 5, 3), jnp.bfloat16))
        assert [part.dtype.name for part in carry] == ["float32"] * 3 + ["bfloat16"]
        assert outputs.dtype == jnp.bfloat16
    # n counts steps: in bfloat16 it would stop at 256.
    counting = cell(forget_bias=80.0)
    counting.kernel[...] *= 0
    counting.recurrent_kernel[...] *= 0
    carry, _ = jaxrnn.RNN(counting, return_carry=True)(jnp.ones((1, 300, 3), jnp.float32))
    np.testing.assert_allclose(carry.n, 300, rtol=1e-5)


def test_a_sequence_a_step_and_a_stream_agree():
    x: Any = np.random.RandomState(0).randn(2, 6, 3).astype(np.float32)
    for kind in (jaxrnn.SLSTM, jaxrnn.LSTM, jaxrnn.GRU):
        layers = kind(3, 8, num_heads=2, num_layers=2, rngs=nnx.Rngs(1))
        whole = layers(x)
        step, carry = jaxrnn.streaming_step(layers, x[:, 0])
        for t in range(6):
            carry, y = step(carry, x[:, t])
            np.testing.assert_allclose(y, whole[:, t], atol=1e-6)


def test_every_head_starts_with_orthogonal_gates_and_forget_biases_that_are_spread():
    made = cell()
    gates = (
        np.array(made.recurrent_kernel[...]).reshape(2, 4, 4, 4).transpose(0, 2, 1, 3)
    )  # [heads, gates, in, out]
    np.testing.assert_allclose(gates @ gates.swapaxes(-1, -2), np.broadcast_to(np.eye(4), gates.shape), atol=1e-5)
    assert made.bias is not None
    bias = np.array(made.bias[...]).reshape(4, 2, 4)
    np.testing.assert_allclose(bias[1], np.broadcast_to([3, 4, 5, 6], (2, 4)))
    assert not bias[[0, 2, 3]].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, r"num_heads=3 must divide hidden_features=8, but leaves 2"),
        ({"num_heads": 0}, r"num_heads must be a positive integer, not 0"),
        ({"num_heads": 2.0}, r"num_heads must be a positive integer, not 2.0"),
        ({"forget_gate": "tanh"}, r"unknown forget_gate='tanh'; available: sigmoid, exponential"),
        ({"forget_bias": "ones"}, r"forget_bias must be \"ramp\" or a number, not 'ones'"),
        ({"forget_bias": True}, r"forget_bias must be \"ramp\" or a number, not True"),
    ],
    ids=str,
)
def test_invalid_arguments_are_named_with_their_values(options, message):
    with pytest.raises(ValueError, match=message):
        cell(**options)
