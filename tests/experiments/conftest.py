"""A series and a finished run that several modules of tests read."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.experiments.runs_of_tests import SMALL, run_forecast


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run that has ended. Tests only read it; one that changes a run makes a copy."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert run_forecast(out, *SMALL) == 0
    return out


@pytest.fixture
def waves(tmp_path: Path) -> Path:
    """A CSV file of 200 days with two columns."""
    path = tmp_path / "waves.csv"
    days = np.arange(200)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["day", "height", "wind"])
        writer.writerows(zip((f"d{day}" for day in days), 3 + np.sin(days / 5), np.cos(days / 9)))
    return path
