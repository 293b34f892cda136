"""Reads labelled texts, and turns texts into the numbers of their words."""

import csv
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

WORDS = r"\w+(?:['\u2019]\w+)*|[^\w\s]"
"""A token: a word, with its apostrophes, or a single other sign such as an exclamation mark."""
UNKNOWN = 0
"""The number of every word that is not in the vocabulary."""


def read_texts(
    path: Path, text_column: str, label_column: str, *, may_lack_labels: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The texts and labels of a CSV file with a header, or of a JSONL file with one object per line.

    With ``may_lack_labels``, a label that is not there is an empty string.

    Raises:
      ValueError: the file is not UTF-8, lacks a column, has an empty text or label, or no rows.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".jsonl"):
        raise ValueError(f"{path} must be a .ts file of sequences, or a .csv, .tsv or .jsonl file of texts")
    texts, labels = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = _json_lines(path, file) if suffix == ".jsonl" else _csv_lines(path, file, suffix)
            for number, row in rows:
                for column in (text_column,) if may_lack_labels else (text_column, label_column):
                    if column not in row:
                        raise ValueError(_without(path, column, row, text_column))
                cells = (row.get(column) for column in (text_column, label_column))
                text, label = (str("" if cell is None else cell).strip() for cell in cells)
                if not text or (not label and not may_lack_labels):
                    which = "text" if not text else "label"
                    raise ValueError(f"{path}, line {number}: the {which} is empty: remove the line or fill it in")
                texts.append(text)
                labels.append(label)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: it has the byte {error.object[error.start]:#04x} where text should be. Save it "
            f"in UTF-8"
        ) from error
    if not texts:
        raise ValueError(f"{path} has no rows")
    return tuple(texts), tuple(labels)


def _without(path: Path, column: str, row: dict[str, Any], text_column: str) -> str:
    known = ", ".join(str(name) for name in row)
    if path.suffix.lower() == ".csv" and ";" in known and column in known:
        return f"{path} has no column {column!r}, only {known}: separate the columns by commas, or save it as .tsv"
    option = "--text-column" if column == text_column else "--label-column"
    return f"{path} has no column {column!r}, only {known}: name it with {option}"


def _csv_lines(path: Path, file: Any, suffix: str):
    csv.field_size_limit(2**31 - 1)  # by default a cell with more than 128 KiB is an error
    reader = csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",", restkey="further cells")
    for row in reader:
        if "further cells" in row:
            raise ValueError(
                f"{path}, line {reader.line_num}: more cells than the header has: put a text with commas in quotes"
            )
        yield reader.line_num, row


def _json_lines(path: Path, file: Any):
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {number}: expected an object with a text and a label, not {line[:40]!r}"
            )
        yield number, row


@dataclass(frozen=True)
class TextPreparation:
    """The vocabulary of the training part.

    Attributes:
      words: the word number ``n`` is ``words[n - 1]``; 0 is every word that is not among them.
      longest: how many words of a text are read; the rest of a longer text is not.
    """

    words: tuple[str, ...]
    longest: int

    @classmethod
    def fit(cls, texts: tuple[str, ...], *, min_count: int, most: int, longest: int) -> "TextPreparation":
        """Take the words that occur in at least ``min_count`` texts, at most ``most`` of them.

        If no word occurs in so many, words of a single text are taken, too.
        """
        vectorizer = _vectorizer(min_df=min(min_count, len(texts)), max_features=most)
        try:
            vectorizer.fit(texts)
        except ValueError:
            vectorizer = _vectorizer(max_features=most).fit(texts)
        return cls(tuple(sorted(vectorizer.vocabulary_)), longest)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, start=1)}

    @cached_property
    def _tokens(self) -> Any:
        return _vectorizer().build_analyzer()

    def features(self, text: str) -> np.ndarray:
        """The numbers of a text's words, int32 ``[words]``. A text of spaces only has one unknown word."""
        numbers = [self._numbers.get(word, UNKNOWN) for word in self._tokens(text)[: self.longest]]
        return np.array(numbers or [UNKNOWN], np.int32)

    def is_cut(self, text: str) -> bool:
        """Whether a text is longer than what is read of it."""
        return len(text) > self.longest and len(self._tokens(text)) > self.longest

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"pattern": WORDS, "lower_case": True}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "TextPreparation":
        return cls(tuple(record["words"]), record["longest"])


def _vectorizer(**options: Any) -> Any:
    try:
        from sklearn.feature_extraction.text import CountVectorizer
    except ImportError as error:
        raise ValueError("texts need scikit-learn: pip install -e '.[applications]'") from error
    return CountVectorizer(token_pattern=WORDS, **options)
