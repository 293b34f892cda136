"""A sweep as one program trains what its runs train one after the other."""

import numpy as np
import pytest

from benchmarks import sweep
from benchmarks.sweep import check, main


def test_the_command_compares_all_ways_and_writes_its_table(tmp_path, monkeypatch):
    compared = {}

    def remember(losses):
        compared.update(losses)
        return check(losses)

    monkeypatch.setattr(sweep, "check", remember)
    arguments = ["--rates", "3", "--seeds", "3", "--repetitions", "1", "--hidden", "2", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert {"one after the other, scan", "vmap, scan", "vmap by eights, scan"} <= set(compared)
    assert len(np.unique(compared["vmap, scan"])) == 9  # every rate and seed is a run of its own
    table = next(tmp_path.glob("sweep-*.md")).read_text()
    assert "3 learning rates x 3 seeds" in table
    assert all(f"| {name} |" in table for name in compared)


def test_losses_that_differ_are_named():
    with pytest.raises(ValueError, match="other is not like one"):
        check({"one": np.ones(2), "other": np.array([1.0, 1.1])})
