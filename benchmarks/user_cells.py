"""The cells of your own that README.md shows, read from there: what is timed and tested is what is shown."""

import doctest
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxrnn

README = Path(__file__).parents[1] / "README.md"
HEADING = "### A cell of your own"


@functools.cache
def readme_cells() -> Mapping[str, type[jaxrnn.RecurrentCell]]:
    """Name to class of every cell that the README defines under its heading."""
    before, _, section = README.read_text().partition(f"\n{HEADING}\n")
    section = section.partition("\n### ")[0]
    parser = doctest.DocTestParser()
    imports = [example for example in parser.get_examples(before) if "import" in example.source]
    classes = [example for example in parser.get_examples(section) if example.source.startswith("class ")]
    names: dict[str, Any] = {"__name__": "README"}
    for example in [*imports, *classes]:
        exec(compile(example.source, str(README), "exec"), names)
    return {name: value for name, value in names.items() if isinstance(value, type)}
