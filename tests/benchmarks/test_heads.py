"""The layers with heads that are timed compute the same."""

import pytest

from benchmarks.common.comparison import check_training
from benchmarks.common.rows import Shape
from benchmarks.heads import OURS, slstms
from benchmarks.user_cell import TOLERANCE

pytestmark = pytest.mark.filterwarnings("ignore")  # those of torch


def test_all_contestants_compute_the_same():
    layers = slstms(2, Shape(3, 5, 4, 6))
    assert {"jaxrnn", "by hand, hoisted", "nnx.RNN"} <= set(layers)
    check_training(layers, "sLSTM", OURS, TOLERANCE)
    layers["nnx.RNN"] = slstms(3, Shape(3, 5, 4, 6))["jaxrnn"]
    with pytest.raises(ValueError, match=r"sLSTM: nnx\.RNN is not like jaxrnn"):
        check_training(layers, "sLSTM", OURS, TOLERANCE)
