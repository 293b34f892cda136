"""Two processes on this machine train one run: like one process, until one dies, and on from there."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.experiments.runs_of_tests import run_forecast

ROOT = Path(__file__).parents[2]
TIMEOUT = 300


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Pair:
    """Two processes of experiments.forecast in one folder."""

    def __init__(self, folder: Path, *options: str, second: Sequence[str] = (), heartbeat: int = 10):
        """Start both with ``options``, and the second one with those of ``second`` too."""
        port = free_port()
        self.logs = [folder.with_name(f"{folder.name}-{i}-{port}.log") for i in range(2)]
        self.folder, self.processes = folder, []
        for i, log in enumerate(self.logs):
            environment = os.environ | {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(i),
                "JAX_PLATFORMS": "cpu",
                "PYTHONUNBUFFERED": "1",
            }
            command = [sys.executable, "-m", "experiments.forecast", "--distributed", "--resume"]
            command += ["--heartbeat", str(heartbeat), "--out", str(folder), *options, *(second if i else ())]
            with log.open("wb") as file:
                process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
            self.processes.append(process)

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait_for_a_save(self) -> None:
        before, until = self.saved(), time.monotonic() + TIMEOUT
        while not self.saved() - before:
            assert time.monotonic() < until and self.processes[0].poll() is None, self.printed(0)
            time.sleep(0.02)

    def saved(self) -> set[Path]:
        found = (path.parent for path in self.folder.glob("checkpoints/step_*/record.json"))
        return {folder for folder in found if not folder.suffix}

    def wait(self) -> list[int]:
        return [process.wait(TIMEOUT) for process in self.processes]

    def printed(self, i: int) -> str:
        return " ".join(self.logs[i].read_text().split())


def history(folder: Path) -> list[tuple[float, float]]:
    return [(row["loss"], row["valid_loss"]) for row in json.loads((folder / "history.json").read_text())]


def alone(folder: Path, *options: str) -> None:
    """The same in this process, which saves starting another."""
    assert run_forecast(folder, "--devices", "1", *options) == 0


def test_two_processes_train_as_one_and_survive_the_death_of_one(tmp_path: Path, capsys):
    options = ["--task", "stateful", "--batch-size", "3", "--hidden", "5", "--patience", "0"]
    endless = [*options, "--epochs", "1000000", "--save-every-steps", "7"]
    out = tmp_path / "two"

    # Two restore what one has saved.
    alone(out, *options, "--epochs", "1")
    with Pair(out, *endless) as pair:
        pair.wait_for_a_save()
        killed = time.monotonic()
        pair.processes[1].send_signal(signal.SIGKILL)
        assert pair.wait() == [75, -signal.SIGKILL], pair.printed(0)
    assert time.monotonic() - killed < 60
    assert "going on after epoch 1" in pair.printed(0)
    assert "another process of this job is gone" in pair.printed(0)
    assert "Start all of them again with --resume" in pair.printed(0)

    # Two restore what two have saved.
    with Pair(out, *endless) as pair:
        pair.wait_for_a_save()
        pair.processes[1].send_signal(signal.SIGTERM)
        assert pair.wait() == [143, 143], pair.printed(0) + pair.printed(1)
    assert "going on after epoch" in pair.printed(0)
    assert "stopped: SIGTERM" in pair.printed(0)
    logged = pair.printed(1)
    assert "epoch" not in logged and "stopped" not in logged  # one writes the log

    # One process restores what two have saved, and comes to what one alone comes to.
    newest = max(pair.saved())
    done = len(json.loads((newest / "record.json").read_text())["content"]["record"]["history"])
    last = ["--epochs", str(done + 2)]
    capsys.readouterr()
    alone(out, "--resume", *options, *last)
    assert "going on after epoch" in " ".join(capsys.readouterr().out.split())
    alone(tmp_path / "one", *options, *last)
    assert len(history(out)) == done + 2
    for found, expected in zip(history(out), history(tmp_path / "one"), strict=True):
        assert found == pytest.approx(expected, rel=1e-3)


def test_windowed_batches_are_spread_over_processes(tmp_path: Path):
    options = ["--hidden", "5", "--epochs", "2"]
    with Pair(tmp_path / "two", *options) as pair:
        assert pair.wait() == [0, 0], pair.printed(0) + pair.printed(1)
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert metrics["devices"] == 2
    alone(tmp_path / "one", *options)
    for found, expected in zip(history(tmp_path / "two"), history(tmp_path / "one"), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


def test_without_anyone_to_join_the_error_says_what_is_missing(tmp_path: Path):
    unset = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_C", "JAX_N", "JAX_P", "SLURM", "OMPI"))}
    command = [sys.executable, "-m", "experiments.forecast", "--distributed"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=unset, check=False)
    assert (run.returncode, "--distributed needs --out" in run.stderr) == (2, True)
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=unset,
        check=False,
    )
    assert run.returncode == 2
    assert "set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and" in " ".join(run.stderr.split())


def refused(folder: Path, *options: str, second: Sequence[str]) -> list[str]:
    """What two processes print that must not train together: both end."""
    with Pair(folder, "--hidden", "5", "--epochs", "2", *options, second=second) as pair:
        assert pair.wait() == [2, 2], pair.printed(0) + pair.printed(1)
        assert not folder.exists()
        return [pair.printed(0), pair.printed(1)]


def test_processes_with_different_settings_and_series_all_end_and_say_what_differs(tmp_path: Path):
    paths = [tmp_path / folder / "series.csv" for folder in ("a", "b")]
    for i, path in enumerate(paths):
        path.parent.mkdir()
        path.write_text("value\n" + "".join(f"{step % 7 + i * (step == 90)}\n" for step in range(200)))
    first = ["--window", "5", "--level-width", "7", "--seed", "0", "--series", str(paths[0])]
    # With other --epochs these would train different numbers of steps, and wait for each other.
    second = ["--seed", "1", "--epochs", "3", "--hidden", "6", "--series", str(paths[1])]
    for printed in refused(tmp_path / "two", *first, second=second):
        assert "--seed is 0 in process 0 and 1 in process 1" in printed
        assert "--epochs is 2 in process 0 and 3 in process 1" in printed
        assert "the SHA-256 of the series is" in printed


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (["--devices", "1"], ["--devices", "2"], "the number of devices (--devices) is 1 in process 0 and 2 in"),
        ([], ["--series", "nowhere.csv"], "process 1: nowhere.csv does not exist"),
    ],
)
def test_if_one_process_cannot_train_all_end(first, second, message, tmp_path: Path):
    for printed in refused(tmp_path / "two", *first, second=second):
        assert message in printed


def test_a_port_that_another_program_uses_is_named_at_once(tmp_path: Path):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        environment = os.environ | {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": "0",
        }
        command = [sys.executable, "-m", "experiments.forecast", "--distributed", "--out", str(tmp_path / "run")]
        run = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False, timeout=60
        )
    assert run.returncode == 2
    assert f"process 0 cannot use port {port}" in " ".join(run.stderr.split())
