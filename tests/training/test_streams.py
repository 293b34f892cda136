"""Epochs read from a file: the same steps as from memory, interrupted at any window, in steady memory."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import large_series
from benchmarks.survival.damage import contents
from jaxrnn import data
from jaxrnn.models import RNNForecaster
from jaxrnn.training import TrainState, huber, make_optimizer, make_streamed_epoch, make_windowed_epoch, pure_apply

WINDOW = 5
OPTIMIZER = make_optimizer("sgd", 0.05)


@pytest.fixture
def series(tmp_path):
    np.save(tmp_path / "series.npy", np.sin(np.arange(61) / 3).astype(np.float32))
    return data.SeriesFile(tmp_path / "series.npy")


@functools.cache
def applied(every_step: bool):
    return pure_apply(lambda: RNNForecaster(hidden_features=4, return_sequences=every_step, rngs=nnx.Rngs(0)))


def streamed(series, **options: Any):
    apply, params = applied(options.setdefault("every_step", False))
    options = {"batch_size": 8, "window": WINDOW} | options
    epoch = make_streamed_epoch(apply, OPTIMIZER, huber, series, series[1:], range(56), **options)
    return apply, TrainState.create(params, OPTIMIZER, seed=options.pop("seed", 0)), epoch


@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("batch_size", [8, 13])
@pytest.mark.parametrize("mesh", [False, True])
def test_without_shuffling_it_is_the_epoch_from_memory(series, every_step, batch_size, mesh):
    mesh = jax.make_mesh((1,), ("batch",), devices=jax.devices("cpu")[:1]) if mesh else None
    apply, state, epoch = streamed(series, every_step=every_step, batch_size=batch_size, shuffle=False, mesh=mesh)
    values = jnp.asarray(series.take_windows(np.array([0]), 61)[0])
    starts = jnp.asarray(data.window_starts(60, WINDOW))
    expected = make_windowed_epoch(
        apply,
        OPTIMIZER,
        huber,
        values,
        values[1:],
        starts,
        window=WINDOW,
        batch_size=batch_size,
        every_step=every_step,
        shuffle=False,
    )
    assert epoch.steps == expected.steps
    other = TrainState.create(state.params, OPTIMIZER)
    for _ in range(2):
        state, metrics = epoch(state)
        other, wanted = expected(other)
        assert float(metrics.loss) == pytest.approx(float(wanted.loss), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, other.params)
    assert int(state.epoch) == 2


def test_interrupted_at_any_window_it_goes_on_to_the_same_bits(series):
    _, whole, epoch = streamed(series)
    for _ in range(2):
        whole, _ = epoch(whole)
    for first in range(1, 7):
        _, state, other = streamed(series)
        state, _ = epoch.advance(state, first)
        assert int(state.position) == first
        epoch = other  # an epoch that has not seen this state, as in another process
        state, _ = epoch(state)
        state, _ = epoch(state)
        assert contents(state) == contents(whole)


def test_every_window_is_read_once_an_epoch_in_another_order(series, monkeypatch):
    read: list[int] = []
    take = data.SeriesFile.take_windows

    def watched(self, starts, window):
        if window == WINDOW:
            read.extend(np.asarray(starts).ravel().tolist())
        return take(self, starts, window)

    monkeypatch.setattr(data.SeriesFile, "take_windows", watched)
    _, state, epoch = streamed(series)
    orders = []
    for _ in range(2):
        read.clear()
        state, _ = epoch(state)
        orders.append(list(read))
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(56))
    assert orders[0] != orders[1] != sorted(orders[1])


def test_what_does_not_fit_is_refused(series):
    apply, _ = pure_apply(lambda: RNNForecaster(hidden_features=4, rngs=nnx.Rngs(0)))
    cases: Any = (
        (range(57), 8, r"windows of 5 steps from range\(0, 57\) do not fit"),
        (range(-1, 5), 8, "do not fit into the series"),
        (range(10**15), 8, "do not fit into the series"),  # at once, without a walk over all of them
        (range(0), 8, "starts must be a range with at least 1 number"),
        ([0, 1, 2], 8, "starts must be a range with at least 1 number"),
        (range(5), 0, "batch_size must be a positive integer, not 0"),
        (range(5), 8.0, "batch_size must be a positive integer, not 8.0"),
    )
    for starts, batch_size, message in cases:
        with pytest.raises(ValueError, match=message):
            make_streamed_epoch(
                apply,
                OPTIMIZER,
                huber,
                series,
                series[1:],
                starts,
                window=WINDOW,
                batch_size=batch_size,
                every_step=False,
            )


def test_a_file_is_never_in_memory_as_a_whole(monkeypatch):
    # Its memory is measured as of a user's run; without XLA's optimisations, 50 steps would also take longer.
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
    found = large_series.in_a_process(gibibytes=1, steps=50)
    assert found["peak_rss_mib"] < 1024, found
    assert found["growth_mib"] < 128, found
