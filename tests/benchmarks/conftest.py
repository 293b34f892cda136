"""What tests of the benchmarks share."""

import contextlib
import warnings

import pytest


@pytest.fixture(autouse=True, scope="session")
def peers_imported():
    """Import the other libraries once: warnings during their import are not ours to fix."""
    from benchmarks.libraries.keras import import_keras

    with warnings.catch_warnings(), contextlib.suppress(ImportError):
        warnings.simplefilter("ignore")
        import_keras()
    with warnings.catch_warnings(), contextlib.suppress(ImportError):
        warnings.simplefilter("ignore")
        import torch  # noqa: F401
