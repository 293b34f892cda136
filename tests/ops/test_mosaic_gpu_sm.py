"""The kernel of warpgroups on one SM: what fits, the order of numbers in memory, and its results."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.aot import CELLS
from jaxrnn.ops import LSTMCarry, explain, lstm_pointwise, simple_rnn_pointwise
from jaxrnn.ops.pallas import mosaic_gpu_sm
from jaxrnn.ops.pallas.mosaic_gpu_sm import MOSAIC_GPU_SM, weight_pieces
from jaxrnn.ops.pallas.recurrence import pallas_recurrence
from jaxrnn.ops.pallas.registers import ROWS, THREADS, UNITS, in_thread_order, out_of_thread_order
from jaxrnn.ops.reference import reference_recurrence
from jaxrnn.ops.step import Recurrence
from tests.ops.interpreted import MOSAIC_GPU_RACES
from tests.ops.oracle import assert_close
from tests.ops.test_mosaic_gpu import arrays, interpreted, results_and_gradients


def shapes(hidden: int, gates: int, batch: int = 2, dtype: str = "bfloat16") -> Recurrence:
    def array(*shape) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    return Recurrence(array(hidden, gates * hidden), array(5, batch, gates * hidden), array(batch, hidden))


@pytest.mark.parametrize(("gates", "largest"), [(1, 256), (2, 192), (3, 128), (4, 128)])
def test_the_largest_hidden_size_that_fits(gates, largest):
    assert MOSAIC_GPU_SM.unable(shapes(largest, gates)) is None
    assert MOSAIC_GPU_SM.unable(shapes(largest + 1, gates)) is not None


def test_what_does_not_fit_is_told():
    assert "multiply bfloat16 and float16, not float32" in str(
        MOSAIC_GPU_SM.unable(shapes(64, 1, dtype="float32"))
    )
    assert "float64" in str(MOSAIC_GPU_SM.unable(shapes(64, 1, dtype="float64")))
    assert "the largest hidden size that does is 128" in str(MOSAIC_GPU_SM.unable(shapes(256, 4)))
    many = shapes(64, 1)._replace(params=tuple(jax.ShapeDtypeStruct((64,), "bfloat16") for _ in range(18)))
    assert "21 gates, parts of the carry and parameters of 64 units need" in str(MOSAIC_GPU_SM.unable(many))


def test_a_cell_that_it_lacks_an_operation_for_and_a_wide_batch_run_on_another_kernel(monkeypatch):
    def why_not(pointwise, a, carry=None):
        choice = explain(pointwise, a.recurrent_kernel, a.xw, carry or a.initial_carry, platform="gpu")
        return choice.chosen

    def power(params, carry, xw, rh):
        h = jnp.abs(xw[0] + rh[0]) ** 1.5
        return h, h

    assert why_not(power, shapes(64, 1)) == "pallas"
    monkeypatch.setattr(mosaic_gpu_sm, "MOSAIC_GPU_SM", MOSAIC_GPU_SM._replace(unable=lambda a: 1 / 0))
    h: Any = jax.ShapeDtypeStruct((513, 64), "bfloat16")
    assert why_not(lstm_pointwise, shapes(64, 4, batch=513), LSTMCarry(h, h)) == "pallas"  # Triton's comes first
    with pytest.raises(ZeroDivisionError):
        why_not(simple_rnn_pointwise(), shapes(64, 1, batch=512))


def test_the_order_of_threads_is_that_of_a_product_in_registers():
    tile = jnp.arange(3 * UNITS * ROWS).reshape(3, UNITS, ROWS)
    ordered = in_thread_order(tile)
    np.testing.assert_array_equal(out_of_thread_order(ordered), tile)
    # The result of wgmma.m64n16 (PTX ISA, figure "WGMMA .m64nNk16 D register fragment layout").
    by_thread = np.asarray(ordered)[1].reshape(THREADS, -1)
    for thread, number in np.ndindex(by_thread.shape):
        warp, lane = divmod(thread, 32)
        unit = 16 * warp + lane // 4 + 8 * (number // 2 % 2)
        row = 8 * (number // 4) + 2 * (lane % 4) + number % 2
        assert by_thread[thread, number] == tile[1, unit, row]


def test_pieces_of_the_weights():
    heads, gates, parts = 2, 3, 2
    kernels = jnp.arange(heads * gates * 128 * 128).reshape(heads, gates, 128, 128)
    pieces = weight_pieces(kernels, MOSAIC_GPU_SM_SIZES).reshape(heads, parts, gates, parts, UNITS, UNITS)
    for head, part, gate, summed in np.ndindex(heads, parts, gates, parts):
        own, other = (slice(UNITS * i, UNITS * (i + 1)) for i in (part, summed))
        np.testing.assert_array_equal(pieces[head, part, gate, summed], kernels[head, gate, other, own].T)


MOSAIC_GPU_SM_SIZES = mosaic_gpu_sm.Sizes(rows=16, tile=16, hidden=128, parts=2)


@interpreted
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("cell", "batch", "hidden"),
    [("SimpleRNN", 17, 40), ("LSTM", 3, 128), ("GRU", 3, 70), ("leaky (a user's)", 3, 256)],
)
def test_warpgroups_compute_what_the_reference_does(cell, batch, hidden, reverse, capfd):
    a = arrays(cell, 5, batch, hidden)

    def kernel(a):
        return pallas_recurrence(
            MOSAIC_GPU_SM, CELLS[cell].pointwise, a, reverse=reverse, interpret=MOSAIC_GPU_RACES
        )

    def reference(a):
        return reference_recurrence(CELLS[cell].pointwise, a, reverse=reverse, unroll=1)

    found, expected = results_and_gradients(kernel, a), results_and_gradients(reference, a)
    assert_close(found[0], expected[0], 2e-2)
    assert_close(found[1], expected[1], 4e-2)
    assert "RACE" not in "".join(capfd.readouterr())


def of_heads(a: Recurrence, heads: int) -> Recurrence:
    hidden, columns = a.recurrent_kernel.shape
    units = hidden // heads
    kernel = a.recurrent_kernel[:units].reshape(units, heads, columns // heads).swapaxes(0, 1)
    return a._replace(recurrent_kernel=kernel) if heads > 1 else a


@interpreted
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("shared", [False, True], ids=["each with weights", "all with the same"])
def test_runs_of_vmap_are_one_launch(shared, heads):
    runs = [of_heads(arrays("leaky (a user's)", 3, 17, 40, seed=seed), heads) for seed in range(4)]
    weights = ("recurrent_kernel", "params")
    if shared:
        runs = [run._replace(**{name: getattr(runs[0], name) for name in weights}) for run in runs]

    def kernel(a):
        def recurrence(a):
            pointwise = CELLS["leaky (a user's)"].pointwise
            return pallas_recurrence(MOSAIC_GPU_SM, pointwise, a, reverse=False, interpret=MOSAIC_GPU_RACES)

        return results_and_gradients(recurrence, a)

    # A vmap in another.
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves).reshape(2, 2, *leaves[0].shape), *runs)
    axes = jax.tree.map(lambda _: 0, runs[0])
    if shared:
        together = together._replace(**{name: getattr(runs[0], name) for name in weights})
        axes = axes._replace(recurrent_kernel=None, params=None)
    mapped = jax.jit(jax.vmap(jax.vmap(kernel, (axes,)), (axes,)))
    found = mapped(together)
    for number, run in enumerate(runs):
        of_run = jax.tree.map(lambda a, n=number: a[divmod(n, 2)], found)
        assert_close(of_run, kernel(run), 1e-2)
