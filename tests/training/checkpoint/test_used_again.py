"""A folder that is used again: an older run in it never comes back in place of the newer one."""

import os
import shutil
import time
from pathlib import Path

import pytest

from jaxrnn.training import Run, SteppedEpoch, TrainState, fit
from jaxrnn.training.checkpoint import CheckpointError, CheckpointStore
from tests.training.checkpoint.cases import assert_same, newest, small
from tests.training.test_survival import evaluate, stateful


def begin() -> tuple[Run, SteppedEpoch]:
    state, epoch = stateful()
    return Run.create(state), epoch


class TestStore:
    def test_a_lower_step_than_an_earlier_run_left_is_refused(self, store: CheckpointStore) -> None:
        store.close()
        again = CheckpointStore(store.directory)
        with pytest.raises(
            CheckpointError, match=r"holds step 2 of an earlier run: .* instead of step=1\. To continue that run"
        ):
            again.save(1, small(7))
        assert again.steps() == [1, 2]
        assert_same(again.restore(small(0), step=1).arrays, small(1))

    def test_so_is_one_below_the_restored_step(self, store: CheckpointStore) -> None:
        store.close()
        again = CheckpointStore(store.directory)
        again.restore(small(0), step=1)
        with pytest.raises(CheckpointError, match="holds step 2 of an earlier run"):
            again.save(1, small(7))

    def test_overwrite_begins_anew(self, store: CheckpointStore) -> None:
        store.close()
        with CheckpointStore(store.directory, overwrite=True) as again:
            assert again.steps() == []
            with pytest.raises(CheckpointError, match="no checkpoint in"):
                again.restore(small(0))
            assert sorted(os.listdir(store.directory)) == ["step_00000001", "step_00000002"]
            again.save(1, small(7))
            assert os.listdir(store.directory) == ["step_00000001.1"]
            again.save(2, small(8))
            again.save(3, small(9))
            assert again.steps() == [2, 3]
        assert_same(CheckpointStore(store.directory).restore(small(0)).arrays, small(9))

    def test_overwrite_keeps_what_was_there_until_the_new_one_is_saved(self, store: CheckpointStore) -> None:
        store.close()
        with CheckpointStore(store.directory, overwrite=True) as again, pytest.raises(TypeError):
            again.save(1, {"text": "text"})
        assert_same(CheckpointStore(store.directory).restore(small(0)).arrays, small(2))

    def test_overwrite_also_replaces_damaged_checkpoints(self, store: CheckpointStore) -> None:
        (newest(store) / "record.json").unlink()
        store.close()
        with CheckpointStore(store.directory, overwrite=True) as again:
            again.save(0, small(7))
        assert os.listdir(store.directory) == ["step_00000000"]

    def test_to_go_on_at_the_same_or_a_higher_step_works(self, store: CheckpointStore) -> None:
        store.close()
        for step in (2, 3):  # also without a restore: another store may have done that
            with CheckpointStore(store.directory) as again:
                again.save(step, small(10 * step))
                assert_same(again.restore(small(0)).arrays, small(10 * step))

    def test_a_step_that_was_never_finished_hides_nothing(self, store: CheckpointStore) -> None:
        (newest(store) / "record.json").unlink()
        store.close()
        with CheckpointStore(store.directory) as again:
            again.save(1, small(7))
            assert_same(again.restore(small(0)).arrays, small(7))


class TestFit:
    def test_an_earlier_run_is_refused_before_the_first_step(self, tmp_path: Path) -> None:
        run, epoch = begin()
        with CheckpointStore(tmp_path) as store:
            fit(run, epoch, evaluate, epochs=2, checkpoints=store)
        run, epoch = begin()
        with (
            CheckpointStore(tmp_path) as store,
            pytest.raises(CheckpointError, match="holds step 24 of an earlier run"),
        ):
            fit(run, epoch, evaluate, epochs=1, checkpoints=store)
        assert int(run.state.step) == 0

    def test_a_folder_deleted_during_training_is_said_and_written_anew(self, tmp_path: Path) -> None:
        run, epoch = begin()

        def deleting(state: TrainState) -> dict:
            while not (tmp_path / "ckpt" / "step_00000006").exists():  # it is saved by another thread
                time.sleep(0.01)
            shutil.rmtree(tmp_path / "ckpt")
            return evaluate(state)

        with (
            CheckpointStore(tmp_path / "ckpt") as store,
            pytest.warns(UserWarning, match="another program deleted"),
        ):
            run = fit(run, epoch, deleting, epochs=1, checkpoints=store, save_every_steps=6)
        assert (run.stopped, run.save_error) == ("epochs", None)
        assert CheckpointStore(tmp_path / "ckpt").restore(run.arrays).step == 12

    def test_overwrite_returns_the_new_model(self, tmp_path: Path) -> None:
        run, epoch = begin()
        with CheckpointStore(tmp_path) as store:
            fit(run, epoch, evaluate, epochs=2, checkpoints=store)
        run, epoch = begin()
        with CheckpointStore(tmp_path, overwrite=True) as store:
            run = fit(run, epoch, evaluate, epochs=1, checkpoints=store)
        restored = CheckpointStore(tmp_path).restore(run.arrays)
        assert restored.step == 12
        assert_same(restored.arrays, run.arrays)

    def test_a_second_run_in_the_same_store_never_hides_behind_the_first(self, tmp_path: Path) -> None:
        run, epoch = begin()
        with CheckpointStore(tmp_path) as store:
            run = fit(run, epoch, evaluate, epochs=2, checkpoints=store)
            run = fit(run, epoch, evaluate, epochs=3, checkpoints=store)  # the same one goes on
            with pytest.raises(CheckpointError, match="holds step 36 of an earlier run"):
                fit(begin()[0], epoch, evaluate, epochs=1, checkpoints=store)
        with CheckpointStore(tmp_path, overwrite=True) as store:
            for epochs in (2, 1):
                run = fit(begin()[0], epoch, evaluate, epochs=epochs, checkpoints=store)
        restored = CheckpointStore(tmp_path).restore(run.arrays)
        assert restored.step == 12
        assert_same(restored.arrays, run.arrays)

    def test_no_replaced_step_is_left_while_others_are_deleted(
        self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.save(3, small(3))
        store.close()
        left = []
        monkeypatch.setattr(shutil, "rmtree", lambda path: left.append(sorted(os.listdir(store.directory))))
        with CheckpointStore(store.directory, overwrite=True) as again:
            again.save(1, small(7))
        assert left[0] == ["step_00000001", "step_00000002.trash", "step_00000003.trash"]

    def test_a_restored_run_goes_on_in_another_store(self, tmp_path: Path) -> None:
        run, epoch = begin()
        with CheckpointStore(tmp_path) as store:
            fit(run, epoch, evaluate, epochs=1, checkpoints=store)
        run, epoch = begin()
        restored = CheckpointStore(tmp_path).restore(run.arrays)
        with CheckpointStore(tmp_path) as store:
            run = fit(run.restored(restored.arrays, restored.record), epoch, evaluate, epochs=2, checkpoints=store)
            assert store.steps() == [12, 24]
