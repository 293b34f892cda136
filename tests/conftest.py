"""What tests of several packages share."""

import jax
import pytest


@pytest.fixture(scope="module")
def quick_compilation():
    """Without XLA's optimisations, which would cost most of the time, and win nothing at the sizes of a test."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
