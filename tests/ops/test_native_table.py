"""Python and C++ have the same table of cells, and the same order of arrays."""

import re

import jax
import jax.numpy as jnp

from jaxrnn import ops
from jaxrnn.ops.native import build, builtin
from jaxrnn.ops.native.cells import CELLS

NAMES = {
    ops.simple_rnn_pointwise(jnp.tanh): ("Tanh", "Simple"),
    ops.simple_rnn_pointwise(jax.nn.relu): ("Relu", "Simple"),
    ops.simple_rnn_pointwise(jax.nn.sigmoid): ("Sigmoid", "Simple"),
    ops.lstm_pointwise: ("LSTM", "LSTM"),
    ops.gru_pointwise: ("GRU", "GRU"),
    ops.leaky_pointwise: ("Leaky", "Leaky"),
    ops.gru_reset_before_pointwise: ("GRUBefore", "GRUBefore"),
}
"""Of each cell: its name in ``enum class Cell``, and that of its struct."""


def source(name: str) -> str:
    return re.sub(r"//.*", "", (build.SOURCES / name).read_text())


def enumerators(text: str, name: str) -> list[str]:
    """Those of ``enum name``, without their k, in lower case."""
    (body,) = re.findall(rf"enum (?:class )?{name}\b[^{{]*{{(.*?)}}", text, re.DOTALL)
    return [part.split("=")[0].strip().removeprefix("k").lower() for part in body.split(",")]


def test_cells_have_the_same_numbers():
    numbers = dict(
        re.findall(r"\bk(\w+) = (\d+)", source("recurrence.h").split("enum class Cell", 1)[1].split("}")[0])
    )
    assert set(NAMES) == set(CELLS) and len(numbers) == len(CELLS)
    assert {NAMES[pointwise][0]: str(cell.number) for pointwise, cell in CELLS.items()} == numbers


def test_cells_save_the_same_number_of_values():
    structs = re.split(r"^struct ", source("cells.h"), flags=re.MULTILINE)[1:]
    saved = {
        struct.split()[0]: found[1] for struct in structs if (found := re.search(r"\bkSaved = (\d+)", struct))
    }
    assert {NAMES[pointwise][1]: str(cell.saved) for pointwise, cell in CELLS.items()}.items() <= saved.items()


def test_gradients_come_in_the_same_order():
    in_python = [name.replace("_", "").replace("parameter", "param") for name in builtin.BackwardResults._fields]
    assert ["dx" if name == "dinputs" else name for name in in_python] == enumerators(
        source("library.cpp"), "BackwardResults"
    )
