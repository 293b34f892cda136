"""Series larger than memory: windows of a memory-mapped ``.npy`` file, and their order without a list of it.

The file is mapped, not read: of what windows touch, the operating system keeps what it has room for. So that the
resident memory of a long run stays steady, the pages are handed back after every so many megabytes; what is needed
again comes from the operating system's cache of the file, or from the disk.
"""

import math
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

HAND_BACK = 64 * 2**20
"""Bytes of pages touched between two times that they are handed back."""

_ROUNDS = 4


class SeriesFile:
    """A series in a ``.npy`` file, ``[time]`` or ``[time, dims]``, of which only windows are ever in memory.

    ``file[1:]`` is the same series from step 1 on, as targets one step ahead of the features need it.

    Args:
      path: a file that ``numpy.save`` wrote, or ``numpy.lib.format.open_memmap``, in C order.
      prepare: from the windows read, ``[..., window, dims]`` of the file's dtype, to what the network gets, as by
        scaling. Called on each batch; None converts to float32.

    Raises:
      ValueError: the file is not such a ``.npy`` file, or it is shorter than its header says.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(folder + "/series.npy", np.arange(10.0))
    ...     series = SeriesFile(folder + "/series.npy")
    ...     series.shape, series.take_windows(np.array([0, 6]), 3)[..., 0], series[1:].take_windows([0], 3)[..., 0]
    ((10, 1), array([[0., 1., 2.],
           [6., 7., 8.]], dtype=float32), array([[1., 2., 3.]], dtype=float32))
    """

    def __init__(self, path: str | os.PathLike[str], *, prepare: Callable[[np.ndarray], np.ndarray] | None = None):
        self.path, self._prepare, self._first = Path(path), prepare, 0
        with self.path.open("rb") as file:
            try:
                version = npy.read_magic(file)
                if version not in ((1, 0), (2, 0), (3, 0)):
                    raise ValueError(f"{version=} of the format is unknown")
                # Version 3 differs from 2 in the encoding of field names, and an array of numbers has no fields.
                read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, fortran, dtype = read_header(file)
            except ValueError as error:
                raise ValueError(f"{path} is not a .npy file: {error}") from error
            sizes_fit = len(shape) in (1, 2) and all(type(size) is int and size >= 0 for size in shape)
            if not sizes_fit or (fortran and len(shape) > 1) or dtype.kind not in "biuf":
                raise ValueError(
                    f"{path} holds {shape=} of {dtype=}, {fortran=}, but it must hold [time] or [time, dims] of "
                    "numbers, in C order"
                )
            offset, needed = file.tell(), math.prod(shape) * dtype.itemsize
            size = os.fstat(file.fileno()).st_size
            if size < offset + needed:
                raise ValueError(f"{path} is cut short: {size} bytes, but its header promises {offset + needed}")
            if not needed:
                raise ValueError(f"{path} is empty: {shape=}")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_RANDOM"):  # else a window of a hundred bytes brings in a hundred kilobytes
            self._map.madvise(mmap.MADV_RANDOM)
        flat = np.frombuffer(self._map, dtype, math.prod(shape), offset)
        self._end = offset + needed
        self._values = flat.reshape(shape if len(shape) == 2 else (*shape, 1))
        self._read = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Steps and dims."""
        return len(self._values) - self._first, self._values.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """Of what :meth:`take_windows` returns."""
        return self.take_windows(np.zeros(1, np.int64), 1).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, steps: slice) -> "SeriesFile":
        first, stop, step = steps.indices(len(self))
        if step != 1 or stop != len(self) or first >= len(self):
            raise ValueError(f"{steps} must be first: with a first step below {len(self)}")
        other = object.__new__(SeriesFile)
        other.__dict__ |= self.__dict__ | {"_first": self._first + first}
        return other

    def take_windows(self, starts: np.ndarray | list[int], window: int) -> np.ndarray:
        """The windows that start there, ``[*starts.shape, window, dims]``, read from the file.

        Raises:
          IndexError: a window reaches out of the series.
          ValueError: the file has become shorter since it was opened.
        """
        starts = np.asarray(starts, np.int64)
        if starts.size and (starts.min() < 0 or starts.max() + window > len(self)):
            raise IndexError(
                f"windows of {window} steps from {starts.min()} to {starts.max()} reach out of {len(self)}"
            )
        if (size := self._map.size()) < self._end:  # reading what is no longer there would end the process
            raise ValueError(
                f"{self.path} was cut short after it was opened: {size} bytes of {self._end}. Do not write to a "
                "series that is trained on."
            )
        steps = starts[..., None] + np.arange(window) + self._first
        windows = self._values[steps]
        pages_of_a_window = windows.itemsize * windows.shape[-1] * window // mmap.PAGESIZE + 2
        self._read += starts.size * pages_of_a_window * mmap.PAGESIZE
        if self._read > HAND_BACK and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._read = 0
        return windows.astype(np.float32) if self._prepare is None else self._prepare(windows)


def shuffled(indices: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Where a random order of ``0 .. number - 1`` puts these indices, without the rest of the order.

    A permutation for every seed, in no memory: a Feistel network over the next power of four, walked until it is
    back below ``number`` (Black and Rogaway 2002, Ciphers with Arbitrary Finite Domains).

    >>> shuffled(np.arange(7), 7, seed=1).tolist() != list(range(7))
    True
    >>> sorted(shuffled(np.arange(7), 7, seed=1).tolist())
    [0, 1, 2, 3, 4, 5, 6]
    """
    indices = np.asarray(indices, np.uint64)
    if number < 1 or (indices.size and int(indices.max()) >= number):
        raise ValueError(f"indices up to {indices.max(initial=0)} must lie below {number=}")
    half = np.uint64(max(1, -(-int(number - 1).bit_length() // 2)))
    mask = np.uint64((1 << int(half)) - 1)
    keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)
    placed = _feistel(indices, half, mask, keys)
    while (out := placed >= number).any():
        placed[out] = _feistel(placed[out], half, mask, keys)
    return placed.astype(np.int64)


def _feistel(values: np.ndarray, half: np.uint64, mask: np.uint64, keys: np.ndarray) -> np.ndarray:
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << half) | right


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
