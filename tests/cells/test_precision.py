"""The table of errors against float64 in jaxrnn/README.md is true."""

import re
from pathlib import Path

import pytest

from benchmarks.precision import CELLS, SETTINGS, errors

PAGE = Path(__file__).parents[2] / "jaxrnn" / "README.md"
TABLE = re.search(r"\| cell \|.*?\n\n", PAGE.read_text(), re.DOTALL)


def stated() -> dict[str, list[list[float]]]:
    """The errors of outputs and gradients for every cell and setting."""
    assert TABLE is not None
    _, _, *rows = (
        [field.strip() for field in line.strip("|").split("|")] for line in TABLE[0].splitlines() if line
    )
    return {name: [[float(error) for error in pair.split(", ")] for pair in pairs] for name, *pairs in rows}


def test_the_table_has_every_cell_in_every_setting():
    assert {name: len(pairs) for name, pairs in stated().items()} == dict.fromkeys(CELLS, len(SETTINGS))


@pytest.mark.parametrize("name", CELLS)
def test_errors_are_as_small_as_stated(name):
    """Within a factor of two, since the order of additions is not the same on every machine."""
    place = SETTINGS.index(("bfloat16", "float32", "bfloat16"))
    (found,) = errors(name, [SETTINGS[place]])
    for error, limit in zip(found, stated()[name][place], strict=True):
        assert limit / 3 < error < 2 * limit
