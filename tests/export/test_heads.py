"""Cells with heads, the sLSTM, and cells whose state enters linearly, in ONNX, in safetensors and in int8."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.export import load_safetensors, quantize, save_safetensors, to_onnx
from tests.export.onnx_runs import TOLERANCE, distance, run

NEEDS = ("onnx", "onnxruntime", "safetensors")
RANDOM = nnx.initializers.normal()
X: Any = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("LSTM", {}), ("GRU", {}), ("GRU", {"use_recurrent_bias": "candidate", "bias_init": RANDOM}), ("SLSTM", {})],
)
def test_onnx_runtime_computes_the_same(kind, options):
    layers = getattr(jaxrnn, kind)(3, 8, num_heads=2, **options, rngs=nnx.Rngs(0))
    (found,) = run(to_onnx(layers), X).values()
    assert distance(found, jax.jit(layers)(X)) <= TOLERANCE


def test_a_gru_with_reset_before_has_both_products_in_heads():
    layers = jaxrnn.GRU(3, 8, num_heads=2, reset_after=False, rngs=nnx.Rngs(0))
    (found,) = run(to_onnx(layers), X).values()
    assert distance(found, jax.jit(layers)(X)) <= TOLERANCE


class OwnDecay(jaxrnn.RecurrentCell):
    """A cell of one's own with a parameter of three axes, which is no recurrent kernel."""

    def __init__(self, in_features, hidden_features, *, rngs, **options):
        super().__init__(in_features, hidden_features, rngs=rngs, **options)
        self.decay = nnx.Param(jax.random.uniform(rngs(), (2, hidden_features // 2, hidden_features // 2)))

    def pointwise(self, carry, xw, rh):
        h = carry * self.decay[...].mean(1).reshape(-1) + jnp.tanh(xw[0] + rh[0])
        return h, h


def test_parameters_of_one_s_own_stay_as_they_are():
    layer = jaxrnn.RNN(OwnDecay(3, 8, num_heads=2, rngs=nnx.Rngs(0)))
    (found,) = run(to_onnx(layer), X).values()
    assert distance(found, jax.jit(layer)(X)) <= TOLERANCE


def test_int8_kernels_with_heads_are_near_and_can_be_stored(tmp_path):
    layers = jaxrnn.LSTM(3, 8, num_heads=2, rngs=nnx.Rngs(0))
    small = quantize(layers)
    np.testing.assert_allclose(small(X), layers(X), atol=0.02)
    assert not np.array_equal(small(X), layers(X))
    save_safetensors(small, tmp_path / "small.safetensors")
    other = quantize(jaxrnn.LSTM(3, 8, num_heads=2, rngs=nnx.Rngs(1)))
    load_safetensors(other, tmp_path / "small.safetensors")
    np.testing.assert_array_equal(other(X), small(X))
    step, carry = jaxrnn.streaming_step(small, X[:, 0])
    np.testing.assert_allclose(step(carry, X[:, 0])[1], small(X)[:, 0], atol=1e-5)


def test_what_has_no_heads_says_so():
    layers = jaxrnn.LSTM(3, 8, num_heads=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"has no recurrent kernels with heads, but cell\.num_heads=2"):
        jaxrnn.interop.torch_weights(layers)
    with pytest.raises(ValueError, match="SLSTMCell"):
        quantize(jaxrnn.SLSTM(3, 8, rngs=nnx.Rngs(0)))


class Twice(jaxrnn.LinearRecurrentCell):
    """Its outputs read the inputs, of which there are more than units; its decay is the same everywhere."""

    num_gates = 1

    def coefficients(self, xw, inputs):
        return jnp.full((1,), 0.9), xw[0]

    def outputs(self, states, inputs):
        return states * inputs[..., :2]


LINEAR = {
    "rg_lru": lambda rngs: jaxrnn.RGLRUCell(3, 4, rngs=rngs),
    "rg_lru, reads the inputs": lambda rngs: jaxrnn.RGLRUCell(3, 3, rngs=rngs),
    "min_gru": lambda rngs: jaxrnn.MinGRUCell(3, 4, rngs=rngs),
    "min_lstm": lambda rngs: jaxrnn.MinLSTMCell(3, 4, use_bias=False, rngs=rngs),
    "own": lambda rngs: Twice(3, 2, rngs=rngs),
}


@pytest.mark.parametrize("name", LINEAR)
def test_cells_whose_state_enters_linearly(name):
    make, rngs = LINEAR[name], nnx.Rngs(0)
    layers = jaxrnn.StackedRNN([make(rngs)], backward_cells=[make(rngs)])
    lengths: Any = np.array([6, 0, 2, 5], np.int32)
    found = run(to_onnx(layers, seq_lengths=True, return_carry=True), X, seq_lengths=lengths)
    carry, outputs = nnx.jit(lambda layers: layers(X, seq_lengths=lengths, return_carry=True))(layers)
    assert distance(found.pop("outputs"), outputs) <= TOLERANCE
    for mine, theirs in zip(jax.tree.leaves(carry), found.values(), strict=True):
        assert distance(theirs, mine) <= TOLERANCE
    cell: Any = layers.cells[0]
    before = np.repeat(X[:, 1, :1], cell.hidden_features, axis=1)
    one_step = run(to_onnx(cell), X[:, 0], initial_carry=before)
    after, output = nnx.jit(lambda cell: cell(jnp.asarray(before), jnp.asarray(X[:, 0])))(cell)
    for mine, theirs in zip((output, after), one_step.values(), strict=True):
        assert distance(theirs, mine) <= TOLERANCE


def test_what_onnx_cannot_express_of_linear_cells_is_said():
    with pytest.raises(ValueError, match="LRUCell cannot be exported to ONNX, which has no complex numbers"):
        to_onnx(jaxrnn.RNN(jaxrnn.LRUCell(3, 4, rngs=nnx.Rngs(0))))

    class Other(Twice):
        def outputs(self, states, inputs):
            return states[..., :1]

    with pytest.raises(ValueError, match="a Other with state_features=4 cannot be exported"):
        to_onnx(jaxrnn.RNN(Other(3, 1, state_features=4, rngs=nnx.Rngs(0))))
