"""The accelerator that tests of this folder run on."""

from collections.abc import Iterator
from typing import Any

import jax
import pytest


@pytest.fixture
def accelerator() -> Iterator[Any]:
    """JAX's first device that is not a CPU, as the default device; the test is skipped where there is none."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        pytest.skip("needs a GPU or a TPU, and JAX finds only CPUs")
    with jax.default_device(device):
        yield device
