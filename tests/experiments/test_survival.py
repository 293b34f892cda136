"""The short form of ``python -m benchmarks.survival``: runs that are killed, stopped, and lose their disk."""

from pathlib import Path

import pytest

from benchmarks.survival import jobs


@pytest.mark.parametrize("task", ["seq2vec", "stateful"])
def test_killed_and_stopped_runs_go_on_to_the_same_bits(task: str, tmp_path: Path):
    counts = jobs.signals(tmp_path, task, kills=2, stops=1, seed=0, hidden=6)
    assert (counts["SIGKILL"], counts["SIGTERM"], counts["SIGINT"]) == (2, 1, 1)
    assert counts["runs equal to the undisturbed one, bit for bit"] == 2, counts
    assert counts["restarts that fell back to an older checkpoint"] == 0, counts


def test_full_and_read_only_disks_and_deleted_folders_cost_nothing_that_was_saved(tmp_path: Path):
    counts = jobs.disks(tmp_path, "stateful", epochs=12, hidden=6)
    assert "RUNS THAT DIFFER" not in counts, counts
    assert counts["folders deleted under a run that went on and saved"] == 1
    if not any("left out" in name for name in counts):
        assert counts["full disks survived, and equal after resuming"] == 1
        assert counts["disks made read-only survived, and equal after resuming"] == 1
