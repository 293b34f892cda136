"""Layers with int8 weights are measured beside float32 layers that compute the same."""

import pytest

from benchmarks.int8 import contestants, differences
from benchmarks.libraries.ours import OURS


def test_float32_layers_agree_and_int8_layers_have_an_error():
    outputs = {name: forward() for name, forward in contestants("gru", 16).items()}
    errors = differences(outputs, "gru, 16")
    assert f"{OURS}, int8" in errors and all(0 < error < 0.1 for error in errors.values())
    outputs["wrong"] = outputs[OURS] + 1
    with pytest.raises(ValueError, match="wrong is not like jaxrnn"):
        differences(outputs, "gru, 16")
