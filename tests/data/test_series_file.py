"""Windows from a file equal those from memory, and the order without a list is a permutation."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn.data import SeriesFile, shuffled, take_windows


@pytest.fixture
def path(tmp_path):
    return tmp_path / "series.npy"


@pytest.mark.parametrize("shape", [(50,), (50, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<i2"])
def test_windows_equal_those_in_memory(shape, dtype, path):
    values = (100 * np.random.RandomState(0).randn(*shape)).astype(dtype)
    np.save(path, values)
    series, starts = SeriesFile(path), np.array([[0, 7], [46, 3]])
    expected = np.asarray(take_windows(jnp.asarray(values.reshape(50, -1).astype(np.float32)), starts, 4))
    assert series.shape == (50, expected.shape[-1]) and series.dtype == np.float32
    np.testing.assert_array_equal(series.take_windows(starts, 4), expected)
    np.testing.assert_array_equal(series[3:][1:].take_windows([0], 4)[0], expected_at(values, 4, 4))


def expected_at(values, step, window):
    return values.reshape(len(values), -1)[step : step + window].astype(np.float32)


def test_prepare_is_applied_to_every_batch(path):
    np.save(path, np.arange(10.0))
    series = SeriesFile(path, prepare=lambda windows: (windows / 2).astype(np.float16))
    windows = series.take_windows([2], 3)
    assert windows.dtype == np.float16 and windows[0, :, 0].tolist() == [1.0, 1.5, 2.0]


def test_windows_out_of_the_series_are_refused(path):
    np.save(path, np.arange(10.0))
    series = SeriesFile(path)
    series.take_windows([7], 3)
    for start in (8, -1):
        with pytest.raises(IndexError, match=r"windows of 3 steps that start at .* do not fit into the 10 steps"):
            series.take_windows([start], 3)
    with pytest.raises(IndexError, match="do not fit into the 9 steps"):
        series[1:].take_windows([7], 3)
    with pytest.raises(ValueError, match=r"only file\[first:\] with first below 10 is supported"):
        series[1:3]


def test_what_is_no_series_is_refused(path):
    path.write_bytes(b"not numpy")
    with pytest.raises(ValueError, match=r"is not a \.npy file"):
        SeriesFile(path)
    np.save(path, np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match=r"shape=\(2, 2, 2\)"):
        SeriesFile(path)
    for dtype in ("complex64", "U3", "datetime64[s]"):
        np.save(path, np.zeros(3, dtype))
        with pytest.raises(ValueError, match="of numbers"):
            SeriesFile(path)
    np.save(path, np.zeros(0))
    with pytest.raises(ValueError, match="is empty"):
        SeriesFile(path)
    np.save(path, np.zeros(100))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="is cut short: 920 bytes, but its header promises 928"):
        SeriesFile(path)


def write_header(path, version: tuple[int, int], descr: str, shape: object) -> None:
    """A .npy file of 800 bytes of numbers behind this header, which ``numpy.save`` would not always write."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(128 - 10 - 2 * (version > (1, 0)) - 1) + "\n"
    length = len(header).to_bytes(2 if version == (1, 0) else 4, "little")
    path.write_bytes(b"\x93NUMPY" + bytes(version) + length + header.encode() + bytes(800))


@pytest.mark.parametrize(
    ("version", "descr", "shape", "message"),
    [
        ((4, 0), "<f8", (100,), r"is not a \.npy file: version=\(4, 0\)"),
        ((1, 0), "<f8", (-100,), r"holds shape=\(-100,\)"),
        ((1, 0), "<f8", (-10, -10), r"holds shape=\(-10, -10\)"),
        ((1, 0), "<f8", (True, 100), r"holds shape=\(True, 100\)"),
        ((1, 0), "|V8", (100,), r"of dtype=dtype\('V8'\)"),
        ((1, 0), "<f8", (2**40, 2**40), "is cut short: 928 bytes"),
    ],
    ids=["version", "negative", "negative_twice", "bool", "void", "overflow"],
)
def test_a_header_that_makes_no_sense_is_refused(version, descr, shape, message, path):
    write_header(path, version, descr, shape)
    with pytest.raises(ValueError, match=message):
        SeriesFile(path)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)], ids=str)
def test_every_version_of_the_format_is_read(version, path):
    write_header(path, version, "<f8", (50, 2))
    assert SeriesFile(path).shape == (50, 2)


TRUNCATE = """
import os, sys
import numpy as np
from jaxrnn.data import SeriesFile
path = sys.argv[1]
np.save(path, np.zeros(100_000))
series = SeriesFile(path)
os.truncate(path, 4096)
try:
    series[1:].take_windows([90_000], 3)
except ValueError as error:
    print(error)
"""


def test_a_file_that_was_cut_after_it_was_opened_is_an_error_and_does_not_kill_the_process(path):
    done = subprocess.run([sys.executable, "-c", TRUNCATE, path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert f"{path} was cut short after it was opened, to 4096 of" in done.stdout


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 400), st.integers(0, 2**70))
def test_an_order_is_a_permutation_that_can_be_read_anywhere(number, seed):
    order = shuffled(np.arange(number), number, seed)
    assert sorted(order.tolist()) == list(range(number))
    some = np.arange(number)[:: max(1, number // 7)]
    assert shuffled(some, number, seed).tolist() == order[some].tolist()


def test_orders_differ_by_seed_and_mix():
    a, b = (shuffled(np.arange(10_000), 10_000, seed) for seed in (1, 2))
    assert (a != b).mean() > 0.99
    assert abs(np.corrcoef(a, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 0.05


def test_an_order_of_a_billion_needs_no_memory():
    last = 10**9 - 1
    assert 0 <= shuffled(np.array([last]), 10**9, 0)[0] <= last
    with pytest.raises(ValueError, match="must lie below"):
        shuffled(np.array([10]), 10, 0)
