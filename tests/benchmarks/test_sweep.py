"""A sweep as one program trains what its runs train one after the other."""

import numpy as np
import pytest

from benchmarks.sweep import check, contestants, main

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_all_ways_train_the_same():
    sweeps = contestants(rates=5, seeds=2, hidden=3)
    assert {"one after the other, scan", "vmap, scan", "vmap by eights, scan"} <= set(sweeps)
    losses = {name: np.asarray(sweep()) for name, sweep in sweeps.items()}
    check(losses)
    assert len(np.unique(losses["vmap, scan"])) == 10  # every rate and seed is a run of its own


def test_losses_that_differ_are_named():
    with pytest.raises(ValueError, match="other is not like one"):
        check({"one": np.ones(2), "other": np.array([1.0, 1.1])})


def test_the_command_writes_its_table(tmp_path):
    arguments = ["--rates", "1", "--seeds", "2", "--repetitions", "1", "--hidden", "2", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert "1 learning rates x 2 seeds" in next(tmp_path.glob("sweep-*.md")).read_text()
