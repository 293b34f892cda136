"""Series larger than memory: windows of a memory-mapped ``.npy`` file, and a random order that needs no memory.

The operating system reads only the pages that windows touch. They would count as resident memory of the process,
so they are released after every :data:`RELEASE_AFTER` bytes; they come back from the operating system's cache of
the file, or from the disk.
"""

import math
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

RELEASE_AFTER = 64 * 2**20
"""How many bytes of pages may be touched before they are released."""

_ROUNDS = 4
"""Rounds of the Feistel network."""


class SeriesFile:
    """A series ``[time]`` or ``[time, dims]`` in a ``.npy`` file, of which only the windows in use are in memory.

    ``file[1:]`` is the same series from step 1 on, for targets one step ahead of the features.

    Args:
      path: a file in C order, from ``numpy.save`` or ``numpy.lib.format.open_memmap``.
      prepare: a function of the windows, ``[..., window, dims]`` of the file's dtype, that returns the network's
        inputs, for example scaled. It is called for each batch; None converts to float32.

    Raises:
      ValueError: the file is not such a ``.npy`` file, it is empty, or it is shorter than its header says.

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
        if hasattr(mmap, "MADV_RANDOM"):  # without it, a window of a hundred bytes reads a hundred kilobytes
            self._map.madvise(mmap.MADV_RANDOM)
        flat = np.frombuffer(self._map, dtype, math.prod(shape), offset)
        self._end = offset + needed
        self._values = flat.reshape(shape if len(shape) == 2 else (*shape, 1))
        self._read = 0

    @property
    def shape(self) -> tuple[int, int]:
        """``(time, dims)``."""
        return len(self._values) - self._first, self._values.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the windows that :meth:`take_windows` returns."""
        return self.take_windows(np.zeros(1, np.int64), 1).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, steps: slice) -> "SeriesFile":
        first, stop, step = steps.indices(len(self))
        if step != 1 or stop != len(self) or first >= len(self):
            raise ValueError(f"only file[first:] with first below {len(self)} is supported, not {steps}")
        other = object.__new__(SeriesFile)
        other.__dict__ |= self.__dict__ | {"_first": self._first + first}
        return other

    def take_windows(self, starts: np.ndarray | list[int], window: int) -> np.ndarray:
        """Read the windows that begin at ``starts``; returns ``[*starts.shape, window, dims]``.

        Raises:
          IndexError: a window does not fit into the series.
          ValueError: the file has become shorter since it was opened.
        """
        starts = np.asarray(starts, np.int64)
        if starts.size and (starts.min() < 0 or starts.max() + window > len(self)):
            raise IndexError(
                f"windows of {window} steps that start at {starts.min()} to {starts.max()} do not fit into the "
                f"{len(self)} steps of the series"
            )
        if (size := self._map.size()) < self._end:  # reading past the end would kill the process with SIGBUS
            raise ValueError(
                f"{self.path} was cut short after it was opened, to {size} of {self._end} bytes. Do not write to "
                "the file during training."
            )
        steps = starts[..., None] + np.arange(window) + self._first
        windows = self._values[steps]
        pages_of_a_window = windows.itemsize * windows.shape[-1] * window // mmap.PAGESIZE + 2
        self._read += starts.size * pages_of_a_window * mmap.PAGESIZE
        if self._read > RELEASE_AFTER and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._read = 0
        return windows.astype(np.float32) if self._prepare is None else self._prepare(windows)


def shuffled(indices: np.ndarray, number: int, seed: int) -> np.ndarray:
    """The places of these indices in a random permutation of ``0 .. number - 1``, without computing all of it.

    The permutation depends on the seed and needs no memory. It is a Feistel network over the next power of four,
    applied again until the result is below ``number``. Source: Black and Rogaway (2002), Ciphers with arbitrary
    finite domains, doi:10.1007/3-540-45760-7_9.

    Args:
      indices: integers from 0 to ``number - 1``.
      number: the length of the permutation.
      seed: selects the permutation.

    Raises:
      ValueError: an index is not below ``number``.

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
