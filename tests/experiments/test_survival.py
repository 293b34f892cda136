"""The short form of ``python -m benchmarks.survival``: runs that are killed, stopped, and lose their disk."""

import contextlib
import io
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.survival import jobs
from benchmarks.survival.__main__ import failed
from experiments import forecast


class FinishedHere(jobs.Job):
    """A run that is disturbed in processes of its own, and resumed in this one, which has imported everything."""

    def finish(self, says: str = "") -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            assert forecast.main(self.command[self.command.index("experiments.forecast") + 1 :]) == 0
        text = " ".join(printed.getvalue().split())
        assert says in text
        return text


@pytest.mark.parametrize(
    ("task", "signals"),
    [("seq2vec", (signal.SIGKILL, signal.SIGINT)), ("stateful", (signal.SIGKILL, signal.SIGTERM))],
)
def test_a_run_that_is_killed_and_stopped_goes_on_to_the_same_bits(task: str, signals, tmp_path: Path):
    counts: Counter = Counter()
    undisturbed, disturbed = (FinishedHere(tmp_path / name, task, 16, hidden=6) for name in ("whole", "disturbed"))
    undisturbed.finish()
    generator = random.Random(task)
    for how in signals:
        jobs.hit(disturbed, how, 1, generator, counts)
        assert counts[f"ended by {how.name}"] == 1
    assert "restored the older step" not in disturbed.finish()
    assert counts[jobs.FELL_BACK] == 0
    assert disturbed.outcome() == undisturbed.outcome()
    assert not failed(counts) and failed(Counter({"RUNS THAT DIFFER": 1}))


def test_full_and_read_only_disks_and_deleted_folders_cost_nothing_that_was_saved(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(jobs, "Job", FinishedHere)
    counts = jobs.disks(tmp_path, "stateful", epochs=6, hidden=6)
    assert "RUNS THAT DIFFER" not in counts, counts
    assert counts["folders deleted under a run that went on and saved"] == 1
    if not any("left out" in name for name in counts):
        assert counts["full disks survived, and equal after resuming"] == 1
        assert counts["disks made read-only survived, and equal after resuming"] == 1
