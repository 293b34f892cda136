"""Reads labelled sequences from .ts files, the format of the archives at timeseriesclassification.com."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np


class LabelledSequences(NamedTuple):
    """Sequences of many lengths, each with the name of its class.

    Attributes:
      sequences: float32 ``[time, channels]``, with the same number of channels.
      labels: one for each sequence.
      classes: the names of the classes that the file lists, or those that occur, sorted.
    """

    sequences: tuple[np.ndarray, ...]
    labels: tuple[str, ...]
    classes: tuple[str, ...]


def read_ts(path: str | os.PathLike[str]) -> LabelledSequences:
    """Read a .ts file: a header of ``@`` lines, then one sequence per line.

    The values of a channel are separated by commas, and channels by colons; the class comes last. Lines that begin
    with ``#`` are comments. Source: the format of Bagnall et al., https://www.aeon-toolkit.org (docs of the data
    formats), which the UCR and UEA archives use.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not UTF-8, has no classes or no sequences, or a line cannot be read: a sequence
        without steps, a missing value, time stamps, channels of different lengths. The message names the line.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "two.ts"
    ...     _ = path.write_text("@classLabel true up down\\n@data\\n1,2,3:0,0,0:up\\n3,1:0,1:down\\n")
    ...     found = read_ts(path)
    >>> [sequence.shape for sequence in found.sequences], found.labels, found.classes
    ([(3, 2), (2, 2)], ('up', 'down'), ('up', 'down'))
    """
    path = Path(path)
    classes: tuple[str, ...] = ()
    in_data = False
    sequences, labels = [], []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        line = line.strip()
        where = f"{path}, line {number}"
        if not line or line.startswith("#"):
            continue
        if not in_data:
            name, *values = line.split()
            match name.lower(), [value.lower() for value in values]:
                case "@data", _:
                    in_data = True
                case "@classlabel", ["true", *_]:
                    classes = tuple(values[1:])
                case ("@classlabel", ["false", *_]) | ("@targetlabel", ["true", *_]):
                    raise ValueError(f"{where}: the sequences have no classes, so there is nothing to classify")
                case "@timestamps", ["true", *_]:
                    raise ValueError(f"{where}: time stamps are not supported: resample to equal steps first")
                case _ if not name.startswith("@"):
                    raise ValueError(f"{where}: expected a line with @ before @data, not {line[:40]!r}")
            continue
        sequence, label = _sequence(where, line)
        if classes and label not in classes:
            raise ValueError(
                f"{where}: the class {label!r} is not one of {', '.join(classes)}, which the header lists"
            )
        if sequences and sequence.shape[1] != sequences[0].shape[1]:
            raise ValueError(
                f"{where}: {sequence.shape[1]} channels, but the first sequence has {sequences[0].shape[1]}"
            )
        sequences.append(sequence)
        labels.append(label)
    if not sequences:
        raise ValueError(f"{path} holds no sequences: they follow a line @data")
    return LabelledSequences(tuple(sequences), tuple(labels), classes or tuple(sorted(set(labels))))


def _sequence(where: str, line: str) -> tuple[np.ndarray, str]:
    *channels, label = (part.strip() for part in line.split(":"))
    if not channels or not label:
        raise ValueError(f"{where}: expected values, a colon and a class, not {line[:40]!r}")
    if not all(channels):
        raise ValueError(f"{where}: the sequence has no steps: remove it")
    try:
        values = [np.array(channel.split(","), np.float32) for channel in channels]
    except ValueError as error:
        missing = " Missing values (?) must be filled in first." if "?" in line else ""
        raise ValueError(f"{where}: {error}.{missing}") from None
    if len({len(channel) for channel in values}) > 1:
        raise ValueError(f"{where}: the channels have different lengths: {[len(channel) for channel in values]}")
    sequence = np.stack(values, axis=1)
    if not np.isfinite(sequence).all():
        raise ValueError(f"{where}: a value is not finite: fill it in first")
    return sequence, label


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: it has the byte {error.object[error.start]:#04x} at position {error.start}. "
            f"Save it in UTF-8"
        ) from error
