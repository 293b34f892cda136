"""A cluster's kernels: what fits, and that blocks, pieces of weights and tiles of every size change nothing."""

import sys
from typing import Any

import jax
import jax.experimental.pallas.triton
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.aot import CELLS
from jaxrnn.ops import LSTMCarry, explain, lstm_pointwise, simple_rnn_pointwise
from jaxrnn.ops.pallas import mosaic_gpu
from jaxrnn.ops.pallas.mosaic_gpu import MOSAIC_GPU, Width, sizes_for
from jaxrnn.ops.pallas.mosaic_gpu_product import RING, staging_for
from jaxrnn.ops.pallas.recurrence import pallas_recurrence
from jaxrnn.ops.reference import reference_recurrence
from jaxrnn.ops.step import Recurrence
from tests.ops.interpreted import MOSAIC_GPU_RACES
from tests.ops.oracle import assert_close

WIDTHS = {1: Width(1, 3, 2), 3: Width(3, 7, 2), 4: Width(4, 10, 2)}
"""Of a simple RNN, a GRU and an LSTM."""

interpreted = pytest.mark.skipif(MOSAIC_GPU_RACES is None, reason="before jax 0.12 nothing interprets a cluster")


@pytest.mark.parametrize(
    ("batch", "hidden", "gates", "rows", "parts"),
    [
        (64, 512, 1, 16, 8),
        (64, 512, 4, 16, 16),
        (64, 1024, 4, 16, 16),
        (1024, 512, 4, 32, 16),  # in tiles of 16 rows there would be twice as many blocks
    ],
)
def test_sizes(batch, hidden, gates, rows, parts):
    found = sizes_for(batch, hidden, WIDTHS[gates])
    assert found is not None
    assert (found.tile, found.parts, found.hidden) == (rows, parts, hidden)


@pytest.mark.parametrize("gates", [1, 3, 4])
@pytest.mark.parametrize("hidden", [1, 100, 129, 256, 500, 512, 700, 1024])
@pytest.mark.parametrize("batch", [1, 100, 5000])
def test_every_size_up_to_1024_fits(gates, hidden, batch):
    found = sizes_for(batch, hidden, WIDTHS[gates])
    assert found is not None
    assert found.rows >= batch
    assert found.hidden >= hidden
    assert found.hidden % 64 == found.hidden % (8 * found.parts) == found.rows % found.tile == 0
    for backward in (False, True):
        staging = staging_for(found, gates, 2, mosaic_gpu.SHARED, backward=backward)
        assert staging.all_resident or staging.stages > RING
        assert staging.pieces * staging.piece[0] * staging.piece[1] == staging.width * found.hidden
    assert sizes_for(batch, 1025, WIDTHS[gates]) is None


def test_what_does_not_fit_is_told():
    def lstm(hidden, dtype="bfloat16", batch=2) -> str | None:
        h: Any = jax.ShapeDtypeStruct((batch, hidden), dtype)
        kernel = jax.ShapeDtypeStruct((hidden, 4 * hidden), dtype)
        xw: Any = jax.ShapeDtypeStruct((5, batch, 4 * hidden), dtype)
        choice = explain(lstm_pointwise, kernel, xw, LSTMCarry(h, h), platform="gpu")
        return choice.reasons.get("pallas")

    assert lstm(1024) is None
    assert "a batch of 1000 needs 512 blocks in clusters, of which 128 run at once" in str(lstm(512, batch=1000))
    assert str(lstm(1025)).endswith(
        "a cluster of 16 streaming multiprocessors; the largest hidden size that does is 1024"
    )
    assert "multiply bfloat16 and float16, not float32" in str(lstm(512, "float32"))
    assert str(lstm(512, "float64")).count("float64") == 1


def test_without_triton_half_precision_still_runs(monkeypatch):
    monkeypatch.delattr(jax.experimental.pallas, "triton")
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.triton", None)
    monkeypatch.delitem(sys.modules, "jaxrnn.ops.pallas.triton")
    h: Any = jax.ShapeDtypeStruct((2, 64), "bfloat16")
    kernel, xw = jax.ShapeDtypeStruct((64, 64), "bfloat16"), jax.ShapeDtypeStruct((5, 2, 64), "bfloat16")
    assert explain(simple_rnn_pointwise(), kernel, xw, h, platform="gpu").chosen == "pallas"
    wide: Any = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "float32"), (kernel, xw, h))
    reason = explain(simple_rnn_pointwise(), *wide, platform="gpu").reasons["pallas"]
    assert "the triton kernels need another version of JAX" in reason
    assert "not float32" in reason


def arrays(cell: str, time: int, batch: int, hidden: int, seed: int = 0) -> Recurrence:
    random, kind = np.random.default_rng(seed), CELLS[cell]

    def array(*shape):
        return jnp.asarray(random.normal(size=shape), jnp.bfloat16)

    def carry():
        return (
            array(batch, hidden) if kind.carry is None else kind.carry(array(batch, hidden), array(batch, hidden))
        )

    def mask(probability):
        return jnp.asarray(random.random((time, batch)) < probability)

    return Recurrence(
        recurrent_kernel=array(hidden, kind.gates * hidden) / hidden**0.5,
        xw=array(time, batch, kind.gates * hidden),
        initial_carry=carry(),
        params=array(hidden) if kind.params else (),
        recurrent_bias=array(kind.gates * hidden) if kind.recurrent_bias else None,
        recurrent_scale=array(batch, hidden),
        valid=mask(0.7),
        resets=mask(0.3),
        reset_carry=carry(),
    )


def results_and_gradients(run, a: Recurrence):
    results, pullback = jax.vjp(run, a)
    random = np.random.default_rng(1)
    cotangents = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), leaf.dtype), results)
    # Masks have no gradients; reference differentiates recurrent_scale, which is one too.
    return results, pullback(cotangents)[0]._replace(valid=None, resets=None, recurrent_scale=None)


@interpreted
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("cell", "batch", "hidden", "changes", "resident"),
    [
        ("SimpleRNN", 17, 100, {}, True),
        ("LSTM", 3, 192, {"PARTS": (4,)}, True),
        ("GRU", 20, 70, {"ROWS": (32,)}, True),
        ("leaky (a user's)", 65, 40, {"ROWS": (32,)}, True),
        ("SimpleRNN", 3, 256, {"PARTS": (4,), "SHARED": 44 * 1024}, False),
        ("LSTM", 3, 256, {"PARTS": (4,), "SHARED": 130 * 1024}, False),
    ],
)
def test_blocks_tiles_and_pieces_change_nothing(
    cell, batch, hidden, changes, resident, reverse, monkeypatch, capfd
):
    for name, value in changes.items():
        monkeypatch.setattr(mosaic_gpu, name, value)
    gates = CELLS[cell].gates
    size = sizes_for(batch, hidden, WIDTHS[gates])
    assert size is not None
    for backward in (False, True):
        assert staging_for(size, gates, 2, mosaic_gpu.SHARED, backward=backward).all_resident == resident
    a = arrays(cell, 5, batch, hidden)

    def kernels(a):
        return pallas_recurrence(MOSAIC_GPU, CELLS[cell].pointwise, a, reverse=reverse, interpret=MOSAIC_GPU_RACES)

    def reference(a):
        return reference_recurrence(CELLS[cell].pointwise, a, reverse=reverse, unroll=1)

    found = results_and_gradients(kernels, a)
    assert_close(found[0], results_and_gradients(reference, a)[0], 2e-2)
    assert_close(found[1], results_and_gradients(reference, a)[1], 4e-2)
    assert "RACE" not in "".join(capfd.readouterr())


@interpreted
def test_pieces_are_streamed_with_64_bits_too(monkeypatch):
    monkeypatch.setattr(mosaic_gpu, "PARTS", (4,))
    monkeypatch.setattr(mosaic_gpu, "SHARED", 44 * 1024)
    a = arrays("SimpleRNN", 3, 2, 256)
    jax.config.update("jax_enable_x64", True)  # in all threads: what interprets has its own
    try:
        found = pallas_recurrence(MOSAIC_GPU, simple_rnn_pointwise(), a, reverse=False, interpret=MOSAIC_GPU_RACES)
        assert_close(found, reference_recurrence(simple_rnn_pointwise(), a, reverse=False, unroll=1), 2e-2)
    finally:
        jax.config.update("jax_enable_x64", False)


def test_a_cell_with_many_gates_is_refused_without_a_number():
    h: Any = jax.ShapeDtypeStruct((2, 256), "bfloat16")
    kernel = jax.ShapeDtypeStruct((256, 90 * 256), "bfloat16")
    xw: Any = jax.ShapeDtypeStruct((5, 2, 256), "bfloat16")
    choice = explain(lambda params, carry, xw, rh: (carry, xw[0] + rh[89]), kernel, xw, h, platform="gpu")
    assert choice.chosen == "scan"
    assert choice.reasons["pallas"].endswith("no size of this cell does")
