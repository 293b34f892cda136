"""Cells with heads, and the sLSTM, in ONNX, in safetensors and in int8."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.export import load_safetensors, quantize, save_safetensors, to_onnx
from tests.export.onnx_runs import TOLERANCE, distance, run

NEEDS = ("onnx", "onnxruntime", "safetensors")
pytestmark = pytest.mark.usefixtures("quick_compilation")

X: Any = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SLSTM"])
def test_onnx_runtime_computes_the_same(kind):
    layers = getattr(jaxrnn, kind)(3, 8, num_heads=2, rngs=nnx.Rngs(0))
    (found,) = run(to_onnx(layers), X).values()
    assert distance(found, jax.jit(layers)(X)) <= TOLERANCE


def test_a_gru_with_reset_before_has_both_products_in_heads():
    layers = jaxrnn.GRU(3, 8, num_heads=2, reset_after=False, rngs=nnx.Rngs(0))
    (found,) = run(to_onnx(layers), X).values()
    assert distance(found, jax.jit(layers)(X)) <= TOLERANCE


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
