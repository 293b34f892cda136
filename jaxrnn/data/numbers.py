"""Numbers as people write them: with thousands separators, decimal commas, and missing values."""

import math
import re
from collections.abc import Sequence

import numpy as np

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "nat", "#n/a", "#na", "<na>", "-", "--", "."})
"""What a cell without a value holds, in lower case."""

_SIGN = r"[+-]?"
_MINUS = "\u2212"  # what typesetting and some spreadsheets write
# The first of several groups does not begin with a zero, so 0,500 is half, with a decimal comma.
_GROUPED = {
    # 5,051.84 and 5 051.84 and 5'051.84
    ".": re.compile(rf"{_SIGN}[1-9]\d{{0,2}}([,'\u00a0\u202f ]\d{{3}})+(\.\d*)?"),
    # 5.051,84 and 5 051,84 and 3,5
    ",": re.compile(rf"{_SIGN}(\d+|[1-9]\d{{0,2}}([.'\u00a0\u202f ]\d{{3}})+)?(,\d*)?([eE][+-]?\d+)?"),
}
_SEPARATORS = {".": ",'\u00a0\u202f ", ",": ".'\u00a0\u202f "}
_ONE_GROUP = re.compile(rf"{_SIGN}\d{{1,3}},\d{{3}}")
_DOTTED_GROUPS = re.compile(rf"{_SIGN}[1-9]\d{{0,2}}(\.\d{{3}})+")


def is_number(cell: str) -> bool:
    """Whether Python reads the cell as a number, or it has thousands separators or a decimal comma."""
    cell = cell.strip()
    return _plain(cell) is not None or any(_read(cell, point) is not None for point in ".,")


def decimal_point(cells: Sequence[str], separator: str) -> tuple[str, str | None]:
    """The decimal point of the cells of a column, ``"."`` or ``","``, and what to say about it, if anything.

    A cell such as ``5,051`` or ``1.234`` may mean both, and other cells of the column decide. If they do not, the
    comma is a decimal comma in a file with semicolons, and a thousands separator in any other. The dot is a
    thousands separator in a file with semicolons or tabs if numbers below 1000 have none.

    >>> decimal_point(["5,051.84", "5,051"], ";")
    ('.', None)
    >>> decimal_point(["980", "1.010"], ";")
    (',', 'the dots were read as thousands separators')
    """
    with_comma = [cell for cell in cells if "," in cell]
    if not with_comma:
        return _dots(cells, separator)
    if any(_read(cell, ",") is None and _read(cell, ".") is not None for cell in with_comma):
        return ".", None
    sure = any(_read(cell, ".") is None and _read(cell, ",") is not None for cell in with_comma)
    if sure or (separator == ";" and all(_ONE_GROUP.fullmatch(cell) for cell in with_comma)):
        return ",", "the commas were read as decimal commas"
    return ".", None


def _dots(cells: Sequence[str], separator: str) -> tuple[str, str | None]:
    """The same for a column without commas."""
    dotted = [cell for cell in cells if "." in cell]
    if not dotted or not all(_DOTTED_GROUPS.fullmatch(cell) for cell in dotted):
        return ".", None
    whole = [cell for cell in cells if "." not in cell]
    grouped = all(cell.lstrip("+-").isdecimal() and len(cell.lstrip("+-")) <= 3 for cell in whole)
    if any(cell.count(".") > 1 for cell in dotted) or (whole and grouped and separator in ";\t"):
        return ",", "the dots were read as thousands separators"
    if separator in ";\t" or (whole and grouped):
        return ".", "the dots were read as decimal points. If they separate thousands, remove them"
    return ".", None


def read_number(cell: str, point: str = ".") -> float | None:
    """The finite number in a cell, NaN if the cell says that it is missing, and None if it holds anything else.

    >>> read_number("5,051.84"), read_number("1.234,5", ","), read_number("3,5"), read_number("n/a")
    (5051.84, 1234.5, None, nan)
    """
    cell = cell.strip()
    if cell.lower() in MISSING:
        return math.nan
    number = None if point == "," and "." in cell else _plain(cell)
    number = _read(cell, point) if number is None else number
    return number if number is not None and math.isfinite(number) else None


def _plain(cell: str) -> float | None:
    cell = cell.replace(_MINUS, "-")
    if "_" in cell:  # Python reads 1_000 as a number, but in a CSV file it is text
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _read(cell: str, point: str) -> float | None:
    cell = cell.replace(_MINUS, "-")
    if not any(character.isdigit() for character in cell) or not _GROUPED[point].fullmatch(cell):
        return None
    for separator in _SEPARATORS[point]:
        cell = cell.replace(separator, "")
    return float(cell.replace(",", "."))


def filled(values: np.ndarray) -> np.ndarray:
    """The values with each NaN replaced on the line between its neighbours, or by the nearest value at an end.

    >>> filled(np.array([np.nan, 1.0, np.nan, 3.0]))
    array([1., 1., 2., 3.])
    """
    steps, known = np.arange(len(values)), np.isfinite(values)
    return np.interp(steps, steps[known], values[known])


def carried(values: np.ndarray) -> np.ndarray:
    """The values with each NaN replaced by the last one before it; before the first value, by the first.

    >>> carried(np.array([1.0, np.nan, np.nan, 3.0]))
    array([1., 1., 1., 3.])
    """
    known = np.flatnonzero(np.isfinite(values))
    last = np.searchsorted(known, np.arange(len(values)), side="right") - 1
    return values[known[np.maximum(last, 0)]]
