"""The data sets of the classification, from packages that are installed, and files of one's own.

Nothing is downloaded when a command runs.
"""

import importlib.util
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common.labelled.texts import read_texts
from jaxrnn.data import read_ts

TEST_SHARE = 0.2
"""The share of a file without a test part that becomes the test part."""
SPLIT_SEED = 0
"""The test part must not depend on --seed: otherwise runs with different seeds could not be compared."""

VADER_FOLDERS = (Path("."), Path.home() / ".cache" / "jaxrnn")
VADER_DOWNLOAD = "pip download --no-deps --no-binary vaderSentiment --dest ~/.cache/jaxrnn vaderSentiment==3.3.2"


Contents = tuple[tuple[Any, ...], tuple[str, ...]]
"""The sequences or texts of a file, and their labels."""


class Examples(NamedTuple):
    """Sequences or texts with the numbers of their classes.

    Attributes:
      inputs: sequences ``[time, channels]``, or texts.
      labels: int ``[examples]``.
      numbers: the place of each in its file, from 0; None for all, in their order.
      ratings: for the movie reviews, the mean rating of each snippet, from -4 to 4; otherwise None.
    """

    inputs: tuple[Any, ...]
    labels: np.ndarray
    ratings: np.ndarray | None = None
    numbers: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> "Examples":
        ratings = None if self.ratings is None else self.ratings[rows]
        numbers = rows if self.numbers is None else self.numbers[rows]
        return Examples(tuple(self.inputs[row] for row in rows), self.labels[rows], ratings, numbers)


@dataclass(frozen=True)
class Labelled:
    """A data set with a training part and a test part.

    Attributes:
      name: to show to users.
      is_text: whether the inputs are texts.
      classes: their names; labels are positions in it.
      train, test: the two parts.
      source: where the data come from, and their licence.
    """

    name: str
    is_text: bool
    classes: tuple[str, ...]
    train: Examples
    test: Examples
    source: str

    def num_repeated(self) -> int:
        """How many examples of the test part are in the training part, too."""
        known = {_contents(one) for one in self.train.inputs}
        return sum(_contents(one) in known for one in self.test.inputs)


def _contents(one: Any) -> Any:
    return one if isinstance(one, str) else (one.shape, one.tobytes())


ARCHIVE = {
    "speech": (
        "JapaneseVowels",
        "nine men say two Japanese vowels; who speaks? 12 cepstral coefficients, 7 to 29 steps. Kudo, Toyama and "
        "Shimbo (1999), UCI Machine Learning Repository, CC BY 4.0; the file is part of aeon (BSD-3-Clause)",
    ),
    "gesture": (
        "PickupGestureWiimoteZ",
        "ten gestures with a Wii remote, vertical acceleration, 29 to 361 steps. Guna, Humar and Pogacnik (2014), "
        "in the UCR archive, which states no licence; the file is part of aeon (BSD-3-Clause)",
    ),
    "motion": (
        "BasicMotions",
        "standing, walking, running or badminton with a smart watch, 3 axes of acceleration and of rotation, 100 "
        "steps. Students of the University of East Anglia (2016), in the UEA archive, which states no licence; "
        "the file is part of aeon (BSD-3-Clause)",
    ),
}
"""The name of each archive data set, and what it is."""

SENTIMENT = (
    "is a sentence from a movie review positive or negative? Texts of Pang and Lee (2004) from "
    "rottentomatoes.com, each rated by 20 people for Hutto and Gilbert (2014), doi:10.1609/icwsm.v8i1.14550; part "
    "of the source distribution of vaderSentiment (MIT)"
)
NAMES = (*ARCHIVE, "sentiment")


def load(
    name: str, *, test: str | None = None, text_column: str = "text", label_column: str = "label"
) -> Labelled:
    """Load a named data set, or files of one's own.

    Args:
      name: one of :data:`NAMES`, or a path.
      test: the path of a test part; without it a fifth of each class of the file becomes the test part, or, for
        ``NAME_TRAIN.ts``, the file ``NAME_TEST.ts`` beside it.
      text_column, label_column: of CSV and JSONL files.

    Raises:
      FileNotFoundError: there is no such file, or the package with the data set is not installed.
      ValueError: a file cannot be read, a class occurs in the test part only, or has too few examples.
    """
    if name in NAMES:
        if test is not None:
            raise ValueError(f"--test belongs to files of your own: {name} has a test part")
        return _sentiment() if name == "sentiment" else _archive(name)
    path = Path(name)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {name}, and no data set of this name: {', '.join(NAMES)}")
    beside = path.with_name(path.name.replace("_TRAIN", "_TEST"))
    if test is None and beside != path and beside.exists():
        test = str(beside)
    parts = [read(Path(part), text_column, label_column) for part in ((name,) if test is None else (name, test))]
    return _own(name, parts, is_text=path.suffix.lower() != ".ts")


def read(path: Path, text_column: str, label_column: str, *, may_lack_labels: bool = False) -> Contents:
    """The sequences or texts of a file, and their labels: an empty string for a text without one."""
    if path.suffix.lower() == ".ts":
        found = read_ts(path)
        return found.sequences, found.labels
    return read_texts(path, text_column, label_column, may_lack_labels=may_lack_labels)


def _own(name: str, parts: list[Contents], *, is_text: bool) -> Labelled:
    """A data set of one or two files; with one, a part of each class becomes the test part."""
    classes = tuple(sorted(set(parts[0][1])))
    if len(classes) < 2:
        raise ValueError(f"{name} has only the class {', '.join(classes)!r}: two are needed to tell them apart")
    if len(parts) == 2:
        if isinstance(parts[1][0][0], str) != is_text:
            kinds = ("texts", "sequences") if is_text else ("sequences", "texts")
            raise ValueError(f"{name} holds {kinds[0]}, but its test part holds {kinds[1]}")
        unknown = sorted(set(parts[1][1]) - set(classes))
        if unknown:
            raise ValueError(
                f"the test part has the classes {shortened(unknown)}, which the training part does not have, so "
                f"they cannot be learned: remove them from the test part, or add examples to {name}"
            )
        channels = [None if is_text else inputs[0].shape[1] for inputs, _ in parts]
        if channels[0] != channels[1]:
            raise ValueError(
                f"the sequences of the training part have {channels[0]} channels, those of the test part "
                f"{channels[1]}"
            )
    found = [Examples(i, np.array([classes.index(one) for one in labels])) for i, labels in parts]
    train, test = found if len(found) == 2 else divided(found[0])
    few = [one for number, one in enumerate(classes) if (train.labels == number).sum() < 2]
    if few:
        raise ValueError(
            f"the classes {shortened(few)} have fewer than two examples to learn from and, in a file without a "
            f"test part, one to test: add examples, or remove them"
        )
    return Labelled(Path(name).stem, is_text, classes, train, test, name)


def shortened(names: Sequence[str], most: int = 5) -> str:
    """A list of names, of which there may be thousands.

    >>> shortened(["a", "b", "c"], most=1)
    'a and 2 others'
    """
    text = ", ".join(name if len(name) <= 40 else f"{name[:40]}..." for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} others"


def divided(examples: Examples) -> tuple[Examples, Examples]:
    """A training part, and a test part of about a fifth of each class, but at least one example."""
    of_fold = folds(examples.labels, round(1 / TEST_SHARE), SPLIT_SEED)
    for one in np.unique(examples.labels):
        rows = np.flatnonzero(examples.labels == one)
        if (of_fold[rows] > 0).all():
            of_fold[rows[0]] = 0
    return examples.take(np.flatnonzero(of_fold > 0)), examples.take(np.flatnonzero(of_fold == 0))


def folds(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The fold, 0 to ``count - 1``, of each example, at random but with the classes spread evenly over the folds.

    >>> np.bincount(folds(np.array([0, 0, 0, 1, 1, 1]), 3, seed=0)).tolist()
    [2, 2, 2]
    """
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(np.flatnonzero(labels == one)) for one in np.unique(labels)])
    found = np.empty(len(labels), int)
    found[order] = np.arange(len(labels)) % count
    return found


def _archive(name: str) -> Labelled:
    folder_name, source = ARCHIVE[name]
    # The package is not imported: it needs numba, which takes seconds, and its data are only files.
    package = importlib.util.find_spec("aeon")
    if package is None or package.origin is None:
        raise FileNotFoundError(
            f"--data {name} needs the package aeon, which has the file: pip install -e '.[applications]', or only "
            f"the data with pip install --no-deps aeon"
        )
    folder = Path(package.origin).parent / "datasets" / "data" / folder_name
    train, test = (read_ts(folder / f"{folder_name}_{part}.ts") for part in ("TRAIN", "TEST"))
    parts = [
        Examples(part.sequences, np.array([train.classes.index(one) for one in part.labels]))
        for part in (train, test)
    ]
    return Labelled(folder_name, False, train.classes, parts[0], parts[1], source)


def _sentiment() -> Labelled:
    found = sorted(path for folder in VADER_FOLDERS for path in folder.glob("vader[Ss]entiment-*.tar.gz"))
    if not found:
        raise FileNotFoundError(
            f"--data sentiment needs the source distribution of vaderSentiment, whose wheel does not have the "
            f"texts: {VADER_DOWNLOAD}"
        )
    texts, ratings = [], []
    for number, line in enumerate(_snippets(found[0]).splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) != 3:
            raise ValueError(f"{found[0]}: line {number} of the movie reviews has {len(fields)} fields, not 3")
        if float(fields[1]) != 0:  # 37 snippets are neither positive nor negative
            ratings.append(float(fields[1]))
            texts.append(fields[2])
    examples = Examples(tuple(texts), (np.array(ratings) > 0).astype(int), np.array(ratings))
    train, test = divided(examples)
    return Labelled("movie-review snippets", True, ("negative", "positive"), train, test, SENTIMENT)


def _snippets(path: Path) -> str:
    """The file of the movie reviews, from an archive inside the archive."""
    try:
        with tarfile.open(path) as outer:
            (inside,) = [m for m in outer.getmembers() if m.name.endswith("hutto_ICWSM_2014.tar.gz")]
            with tarfile.open(fileobj=io.BytesIO(_bytes(outer, inside))) as inner:
                (file,) = [
                    m for m in inner.getmembers() if m.name.endswith("/movieReviewSnippets_GroundTruth.txt")
                ]
                return _bytes(inner, file).decode("utf-8")
    except (tarfile.TarError, ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged, or another version ({error}). Delete it, then: {VADER_DOWNLOAD}"
        ) from error


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} is not a file")
    return file.read()
