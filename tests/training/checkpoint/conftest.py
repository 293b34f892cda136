"""A store of checkpoints that several modules of tests begin with."""

from pathlib import Path

import pytest

from jaxrnn.training.checkpoint import CheckpointStore
from tests.training.checkpoint.cases import small


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Steps 1 and 2 of `small(step)`."""
    store = CheckpointStore(tmp_path / "store", keep=2)
    for step in (1, 2):
        store.save(step, small(step), {"loss": step / 10})
    return store
