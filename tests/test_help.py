"""``help`` and editors show every argument, with its meaning, of everything at the top level."""

import inspect
import re

import pytest
from flax import nnx

import jaxrnn

CLASSES = [value for name in jaxrnn.__all__ if isinstance(value := getattr(jaxrnn, name), type)]
CLASSES = [cls for cls in CLASSES if cls not in (jaxrnn.LSTMCarry, jaxrnn.SLSTMCarry)]


class OwnCell(jaxrnn.RecurrentCell):
    def __init__(self, features: int):
        super().__init__(features, features, rngs=None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_argument_has_a_name_and_a_meaning(cls):
    names = [n for n in inspect.signature(cls).parameters if n not in ("args", "kwargs", "options")]
    documented = cls.__doc__
    if issubclass(cls, jaxrnn.RecurrentCell):
        documented += jaxrnn.RecurrentCell.__doc__ or ""  # where cells refer to
    missing = [name for name in names if not re.search(rf"\b{name}\b", documented)]
    assert names and not missing and ">>> " in documented
    assert "Raises:" in documented


def test_the_options_of_the_cells_are_options_of_their_layers():
    for layers, option in ((jaxrnn.LSTM, "unit_forget_bias"), (jaxrnn.GRU, "reset_after")):
        parameters = inspect.signature(layers).parameters
        assert option in parameters and "param_dtype" in parameters and "cell_options" not in parameters
    layer = jaxrnn.LSTM(2, 3, rngs=nnx.Rngs(0))
    assert next(iter(inspect.signature(layer).parameters)) == "inputs"  # an instance has that of its call


def test_a_cell_of_one_s_own_has_the_signature_of_its_init():
    assert str(inspect.signature(OwnCell)) == "(features: int)"
