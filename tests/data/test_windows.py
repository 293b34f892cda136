"""Windows are those of numpy, and sequential windows go on exactly where the ones before ended."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn.data import sequential_starts, take_windows, window_starts


@pytest.mark.parametrize("shift", [1, 3])
@pytest.mark.parametrize("shape", [(10,), (10, 2)], ids=str)
def test_windows_equal_those_of_numpy(shape, shift):
    series = np.random.RandomState(0).randn(*shape).astype(np.float32)
    expected = np.lib.stride_tricks.sliding_window_view(series, 4, axis=0)[::shift]
    found = take_windows(jnp.asarray(series), window_starts(10, 4, shift=shift), 4)
    np.testing.assert_array_equal(found, np.moveaxis(expected, -1, 1))


def test_a_window_may_be_the_whole_series():
    assert window_starts(4, 4).tolist() == [0]
    assert sequential_starts(4, 4).tolist() == [[0]]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 10), st.integers(1, 6))
def test_every_row_continues_where_it_ended_in_the_batch_before(length, window, batch_size):
    if length < window * batch_size:
        with pytest.raises(ValueError, match=r"too short for batch_size|longer than the series"):
            sequential_starts(length, window, batch_size)
        return
    starts = sequential_starts(length, window, batch_size)
    assert starts.shape[1] == batch_size and (np.diff(starts, axis=0) == window).all()
    # No step is read twice, none lies outside, and fewer are left over than one more batch would take.
    steps = (starts[..., None] + np.arange(window)).ravel()
    assert len(set(steps)) == len(steps) and steps.min() == 0 and steps.max() < length
    assert length - len(steps) < batch_size * window


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: window_starts(3, 4), "window=4 is longer than the series, which has 3 steps"),
        (lambda: window_starts(3, 0), "window=0 must be at least 1"),
        (lambda: window_starts(3, 2, shift=0), "shift=0 must be at least 1"),
        (lambda: sequential_starts(3, 4), "window=4 is longer than the series"),
        (lambda: sequential_starts(3, 0), "window=0 must be at least 1"),
        (lambda: sequential_starts(9, 3, 0), "batch_size=0 must be at least 1"),
        (
            lambda: sequential_starts(9, 3, 4),
            "9 steps is too short for batch_size=4 streams of window=3 steps each: use at most batch_size=3",
        ),
    ],
)
def test_windows_that_do_not_fit_are_refused_with_their_sizes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("start", [8, -2])
def test_windows_beyond_the_series_are_refused_except_in_a_compiled_program(start):
    series = jnp.arange(10.0)
    with pytest.raises(ValueError, match=f"5 steps that starts at {start} does not fit in the 10 steps"):
        take_windows(series, jnp.array([0, start]), 5)
    clipped = jax.jit(take_windows, static_argnums=2)(series, jnp.array([start]), 5)
    np.testing.assert_array_equal(clipped[0], np.clip(np.arange(start, start + 5), 0, 9))
