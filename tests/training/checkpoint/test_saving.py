"""Saves that fail, are interrupted or killed leave what was saved before; one process at a time saves."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.training.checkpoint import CheckpointError, CheckpointStore, files
from tests.training.checkpoint.cases import (
    assert_same,
    environment,
    is_orbax,
    small,
)

KILLS = 5  # raise for a longer run: each costs about a second


class TestSaveFails:
    def assert_intact(self, store: CheckpointStore) -> None:
        assert sorted(os.listdir(store.directory)) == ["step_00000001", "step_00000002"]
        assert_same(store.restore(small(0)).arrays, small(2))

    def test_orbax_reports_a_full_disk(self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
        from orbax.checkpoint import v1 as ocp

        texts = {
            "RESOURCE_EXHAUSTED: [os_error_code='122']": errno.EDQUOT,
            "RESOURCE_EXHAUSTED": errno.ENOSPC,
        }
        for text, number in texts.items():

            def full(path: str, tree: Any, text: str = text) -> None:
                Path(path).mkdir()
                raise ValueError(text)

            monkeypatch.setattr(ocp, "save", full)
            with pytest.raises(
                OSError, match=rf"could not save step=2 in .*store: {os.strerror(number)}; .*are intact"
            ) as error:
                store.save(2, small(3))
            assert error.value.errno == number
            self.assert_intact(store)

    def test_orbax_fails_otherwise(self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
        from orbax.checkpoint import v1 as ocp

        def broken(path: str, tree: Any) -> None:
            raise RuntimeError("something else")

        monkeypatch.setattr(ocp, "save", broken)
        with pytest.raises(CheckpointError, match=r"could not save step=3 in .*: something else; .*intact"):
            store.save(3, small(3))
        self.assert_intact(store)

    @pytest.mark.parametrize("function", ["rename", "fsync"])
    def test_read_only(self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
        original = getattr(os, function)

        def refuse(path: Any, *args: Any) -> None:
            if is_orbax(path):
                return original(path, *args)
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(os, function, refuse)
        with pytest.raises(OSError, match=r"could not save step=3 in .*Read-only.*intact") as error:
            store.save(3, small(3))
        assert error.value.errno == errno.EROFS
        self.assert_intact(store)

    def test_interrupted(self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
        rename = os.rename

        def interrupt(source: Any, target: Any) -> None:
            if is_orbax(source):
                return rename(source, target)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "rename", interrupt)
            store.save(3, small(3))
        assert store.restore(small(0)).step == 2
        store.save(4, small(4))
        assert sorted(os.listdir(store.directory)) == ["step_00000002", "step_00000004"]

    def test_file_in_place_of_the_folder(self, tmp_path: Path) -> None:
        stores = [CheckpointStore(tmp_path / "file"), CheckpointStore(tmp_path / "file" / "below")]
        (tmp_path / "file").write_text("")  # only now, since a store of a file is refused at once
        for store in stores:
            with pytest.raises(OSError, match=r"could not save step=0 in .*file"):
                store.save(0, small(0))

    def test_deletion_fails_after_a_good_save(
        self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: Any) -> None:
            raise OSError(errno.EBUSY, "busy")

        with (
            monkeypatch.context() as patch,
            pytest.warns(UserWarning, match="step 3 is saved, but .*_00000001 could"),
        ):
            patch.setattr(shutil, "rmtree", refuse)
            store.save(3, small(3))
        assert store.steps() == [2, 3]
        store.save(4, small(4))
        assert sorted(os.listdir(store.directory)) == ["step_00000003", "step_00000004"]

    def test_real_full_disk_and_read_only_mount(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no right to mount a tmpfs here")
        store = CheckpointStore(tmp_path / "store")
        try:
            store.save(1, small(1))
            store.save(2, small(2))
            noise = np.random.default_rng(0).random(200_000)
            with pytest.raises(OSError, match="could not save step=3") as error:
                store.save(3, {"noise": noise})
            assert error.value.errno == errno.ENOSPC
            self.assert_intact(store)
            subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
            with pytest.raises(OSError, match="could not save step=3") as error:
                store.save(3, small(3))
            assert error.value.errno == errno.EROFS
            self.assert_intact(store)
        finally:
            store.close()
            subprocess.run(["umount", str(tmp_path)], check=True)
        assert capfd.readouterr().err == ""

    def test_orbax_runs_into_a_full_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Filled up between the look at the free space and the write. Orbax fails, and goes on writing: without a
        word, and what is saved under the same number at once holds nothing of it."""
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no right to mount a tmpfs here")
        monkeypatch.setattr(files, "_require_space", lambda *_: None)
        monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
        tree = {str(i): jnp.full((400,), float(i)) for i in range(40)}
        store = CheckpointStore(tmp_path / "store")
        try:
            store.save(1, tree)
            for free in (0, 1, 2, 4, 8, 12):
                disk = os.statvfs(tmp_path)
                (tmp_path / "filler").write_bytes(bytes(disk.f_bavail * disk.f_frsize - 4096 * free))
                with pytest.raises(OSError, match=r"could not save step=2 .*No space left on device"):
                    store.save(2, tree)
                (tmp_path / "filler").unlink()
                store.save(2, tree)
                time.sleep(0.05)
                assert_same(store.restore(tree, step=2).arrays, tree)
        finally:
            store.close()
            subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
        assert capfd.readouterr().err == ""


WRITER = """if True:
    import itertools, sys, numpy as np
    from jaxrnn.training.checkpoint import CheckpointStore
    store = CheckpointStore(sys.argv[1])
    for i in itertools.count():  # each step is saved twice: half of the saves replace one
        arrays = {"a": np.full((50, 50), i, np.float32), "b": np.arange(i, i + 9)}
        store.save(i // 2, arrays, {"i": i})
        print(i, flush=True)
"""


STORM = """if True:
    import os, signal, sys, threading, time
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    import jax, numpy as np
    from jaxrnn.training.checkpoint import CheckpointStore
    store = CheckpointStore(sys.argv[1])
    jax.process_count = lambda: 2  # then it is a process of its own that saves
    tree = {"a": np.arange(9)}
    saving = threading.Thread(target=store.save, args=(1, tree))
    saving.start()
    while saving.is_alive():
        os.killpg(0, signal.SIGINT)
        os.killpg(0, signal.SIGTERM)
        time.sleep(0.02)
    assert (store.restore(tree).arrays["a"] == np.arange(9)).all()
    print("saved")
"""


class TestOneWriter:
    def test_a_second_writer_is_refused_until_the_first_is_gone(self, tmp_path: Path) -> None:
        first, second = CheckpointStore(tmp_path), CheckpointStore(tmp_path)
        first.claim()
        with pytest.raises(CheckpointError, match=r"another process writes checkpoints to .*: wait"):
            second.claim()
        with pytest.raises(CheckpointError, match=r"could not save step=1 .*another process writes"):
            second.save(1, small(1))
        first.save(1, small(1))
        assert second.restore(small(0)).step == 1  # reading needs no lock
        first.close()
        second.save(2, small(2))
        assert os.listdir(tmp_path) != []
        del second  # as when a program ends without close()
        CheckpointStore(tmp_path).save(3, small(3))

    def test_a_writer_that_was_killed_leaves_no_lock(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        with open(log, "wb") as file:
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(tmp_path / "store")], env=environment(), stdout=file
            )
        try:
            while b"\n" not in log.read_bytes() and writer.poll() is None:
                time.sleep(0.01)
            with pytest.raises(CheckpointError, match="another process"):
                CheckpointStore(tmp_path / "store").claim()
        finally:
            writer.kill()
            writer.wait()
        CheckpointStore(tmp_path / "store").claim()

    def test_a_folder_deleted_under_the_writer_is_made_and_locked_anew(self, store: CheckpointStore) -> None:
        shutil.rmtree(store.directory)
        with pytest.warns(UserWarning, match="another program deleted step_00000001, step_00000002 from"):
            store.save(3, small(3))
        store.save(4, small(4))  # without a further warning
        assert store.steps() == [3, 4]
        with pytest.raises(CheckpointError, match="another process"):
            CheckpointStore(store.directory).claim()

    def test_a_checkpoint_deleted_under_the_writer_is_said(self, store: CheckpointStore) -> None:
        shutil.rmtree(store.directory / "step_00000002")
        with pytest.warns(
            UserWarning, match="another program deleted step_00000002 from .*saving a new checkpoint there"
        ):
            store.save(3, small(3))
        assert store.steps() == [1, 3]


def test_the_process_that_saves_for_several_outlives_signals_to_all(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to every process of a run, and so do schedulers SIGTERM."""
    command = [sys.executable, "-W", "error", "-c", STORM, str(tmp_path)]
    run = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, start_new_session=True
    )
    assert (run.stdout, run.stderr) == ("saved\n", "")


def test_kill_at_any_instant(tmp_path: Path) -> None:
    """After kill -9 there is the last checkpoint that `save` returned from, or the one it was writing."""
    generator = random.Random(time.time_ns())
    for first in range(0, KILLS, 5):
        writers = []
        for i in range(first, min(first + 5, KILLS)):
            log = tmp_path / f"{i}.log"
            command = [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path / str(i))]
            with open(log, "wb") as file:
                writers.append((log, i, subprocess.Popen(command, env=environment(), stdout=file, stderr=file)))
        try:
            for log, _, writer in writers:
                while b"\n" not in log.read_bytes() and writer.poll() is None:
                    time.sleep(0.01)
                time.sleep(generator.uniform(0, 0.2))
                writer.send_signal(signal.SIGKILL)
                assert writer.wait() == -signal.SIGKILL, log.read_text()
        finally:
            for _, _, writer in writers:
                writer.kill()
                writer.wait()
        for log, i, _ in writers:
            saved = int(log.read_text().split()[-1])
            store = CheckpointStore(tmp_path / str(i))
            found = os.listdir(store.directory)
            restored = store.restore({"a": np.zeros((50, 50), np.float32), "b": np.zeros(9, int)})
            n = restored.record["i"]
            assert n in (saved, saved + 1), (found, saved)
            assert (restored.arrays["a"] == n).all() and (restored.arrays["b"] == np.arange(n, n + 9)).all()
            for step in store.steps():
                store.restore({"a": np.zeros((50, 50), np.float32), "b": np.zeros(9, int)}, step=step)
            store.save(10**6, {})
            assert len(os.listdir(store.directory)) == len(store.steps()) == min(2, 1 + n // 2 + 1)
