"""What tests of the benchmarks share."""

import contextlib
import warnings

import pytest


@pytest.fixture(autouse=True, scope="session")
def peers_imported():
    """What other libraries warn of while they are imported is not ours to mend."""
    from benchmarks.peers import import_keras

    with warnings.catch_warnings(), contextlib.suppress(ImportError):
        warnings.simplefilter("ignore")
        import_keras()
    with warnings.catch_warnings(), contextlib.suppress(ImportError):
        warnings.simplefilter("ignore")
        import torch  # noqa: F401
