"""Damaged and forged checkpoints never come back: the one before does, and the reason is said."""

import json
import os
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.training.checkpoint import CheckpointError, CheckpointStore, files
from tests.training.checkpoint.cases import (
    assert_same,
    edit_record,
    files_of,
    newest,
    small,
)

BIT_FLIPS = 20  # each costs about 50 ms


def assert_falls_back(store: CheckpointStore, reason: str) -> None:
    with pytest.warns(UserWarning, match=reason):
        restored = store.restore(small(0))
    assert restored.step == 1
    assert_same(restored.arrays, small(1))
    with pytest.raises(CheckpointError, match=reason):
        store.restore(small(0), step=2)


class TestDamage:
    def test_flipped_bits(self, store: CheckpointStore, capfd: pytest.CaptureFixture[str]) -> None:
        """Wherever the bit is, the values are those of step 2 or those of step 1, bit for bit."""
        generator = random.Random(0)
        files = [path for path in files_of(newest(store)) if path.stat().st_size]
        older = 0
        for i in range(BIT_FLIPS):
            path = files[i % len(files)]
            intact = path.read_bytes()
            damaged = bytearray(intact)
            damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
            path.write_bytes(damaged)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                restored = store.restore(small(0))
            assert_same(restored.arrays, small(restored.step))
            assert restored.record == {"loss": restored.step / 10}
            assert [restored.step == 1] == [bool(caught)]
            assert all(str(path) in str(w.message) or "cannot be read" in str(w.message) for w in caught)
            older += restored.step == 1
            path.write_bytes(intact)
        # A flip in the white space or the exponent's letter of the record changes nothing.
        assert older >= BIT_FLIPS * 3 // 4
        assert store.restore(small(0)).step == 2
        assert capfd.readouterr().err == ""

    def test_every_file_deleted_emptied_or_cut(self, store: CheckpointStore) -> None:
        for path in files_of(newest(store)):
            intact = path.read_bytes()
            for change in ("delete", "empty", "cut"):
                if change == "delete":
                    path.unlink()
                elif not intact:
                    continue
                else:
                    path.write_bytes(intact[:-1] if change == "cut" else b"")
                with pytest.warns(UserWarning, match="step_00000002"):
                    restored = store.restore(small(0))
                assert_same(restored.arrays, small(1))
                path.write_bytes(intact)
        assert store.restore(small(0)).step == 2

    def test_folder_emptied(self, store: CheckpointStore) -> None:
        shutil.rmtree(newest(store))
        newest(store).mkdir()
        assert store.steps() == [1]
        assert_falls_back(store, "step_00000002 is incomplete")

    def test_folder_is_a_file(self, store: CheckpointStore) -> None:
        shutil.rmtree(newest(store))
        newest(store).write_text("")
        assert store.steps() == [1]
        assert_falls_back(store, "step_00000002")

    def test_folder_renamed(self, store: CheckpointStore) -> None:
        newest(store).rename(store.directory / "step_00000003")
        with pytest.warns(UserWarning, match="step_00000003 holds step 2: it was renamed"):
            assert store.restore(small(0)).step == 1

    def test_orbax_returns_other_numbers(self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """The checksum of the leaves is over what was given to Orbax, and checked on what it gives back."""
        from orbax.checkpoint import v1 as ocp

        load = ocp.load

        def wrong(path: str, *args: Any) -> Any:
            tree = load(path, *args)
            if "step_00000002" in path:
                tree["leaf_00000"].view(np.uint32).reshape(-1)[0] ^= 1
            return tree

        monkeypatch.setattr(ocp, "load", wrong)
        assert_falls_back(store, r"leaf \['bias'\] is not what was saved")

    def test_a_damaged_checkpoint_does_not_push_out_a_good_one(self, tmp_path: Path) -> None:
        """A run that fell back goes on from an older step, and saves below the damaged one."""
        with CheckpointStore(tmp_path) as store:
            store.save(5, small(5))
            store.save(9, small(9))
        damaged = tmp_path / "step_00000009" / "record.json"
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[:-9])
        with CheckpointStore(tmp_path) as store:
            with pytest.warns(UserWarning, match="restored the older step 5"):
                store.restore(small(0))
            for step, left in ((6, {5, 6, 9}), (7, {6, 7, 9}), (9, {7, 9}), (11, {9, 11})):
                store.save(step, small(step))
                assert set(store.steps()) == left
            assert_same(store.restore(small(0), step=9).arrays, small(9))

    def test_none_loads(self, store: CheckpointStore) -> None:
        (newest(store) / "record.json").unlink()
        (store.directory / "step_00000001" / "record.json").write_text("[]")
        with pytest.raises(
            CheckpointError, match=r"step_00000002 is incomplete(.|\n)*step_00000001 cannot be read"
        ):
            store.restore(small(0))


class TestForged:
    """A checkpoint from someone else reads nothing outside its folder."""

    def test_link_to_a_file(self, store: CheckpointStore, tmp_path: Path) -> None:
        for path in files_of(newest(store)):
            outside = tmp_path / "outside"
            outside.write_bytes(path.read_bytes())
            path.unlink()
            path.symlink_to(outside)
            assert_falls_back(store, f"{path.name} is a link")
            path.unlink()
            path.write_bytes(outside.read_bytes())

    def test_link_to_a_folder(self, store: CheckpointStore, tmp_path: Path) -> None:
        for name in ("arrays/state", "arrays", "."):
            path = newest(store) / name
            path.rename(tmp_path / "outside")
            path = Path(os.path.normpath(path))
            path.symlink_to(tmp_path / "outside")
            assert_falls_back(store, f"{path.name} is a link")
            path.unlink()
            (tmp_path / "outside").rename(path)

    def test_pipe(self, store: CheckpointStore) -> None:
        os.mkfifo(newest(store) / "pipe")
        assert_falls_back(store, "pipe is a link or special file")

    @pytest.mark.parametrize("name", ["../step_00000001/record.json", "/etc/hostname", "arrays/../record.json"])
    def test_path_out_of_the_folder(self, store: CheckpointStore, name: str) -> None:
        digest = files.sha256(Path(newest(store) / name).read_bytes()) if ".." in name else "0"
        edit_record(newest(store), files={name: digest})
        assert_falls_back(store, "is missing")

    @pytest.mark.parametrize("key_impl", ["nonsense", "", 3, ["fry"], "rbg", None])
    def test_key_of_an_unknown_kind(self, tmp_path: Path, key_impl: Any) -> None:
        store, state = CheckpointStore(tmp_path), {"key": jax.random.key(1), "kernel": jnp.ones(2)}
        store.save(1, state)
        store.save(2, state)
        record = json.loads((newest(store) / "record.json").read_text())["content"]
        record["leaves"]["['key']"]["key_impl"] = key_impl
        edit_record(newest(store), leaves=record["leaves"])
        with pytest.warns(UserWarning, match=r"restored the older step 1(.|\n)*step_00000002"):
            restored = store.restore(state)
        assert restored.step == 1
        assert_same(restored.arrays, state)

    def test_number_that_claims_to_be_a_key(self, store: CheckpointStore) -> None:
        record = json.loads((newest(store) / "record.json").read_text())["content"]
        record["leaves"]["['bias']"]["key_impl"] = "threefry2x32"
        edit_record(newest(store), leaves=record["leaves"])
        assert_falls_back(store, r"step_00000002")

    def test_arrays_larger_than_the_record_says(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two GiB of zeros take a few kB on disk: nothing of them may be read."""
        from orbax.checkpoint import v1 as ocp

        store, state = CheckpointStore(tmp_path), {"kernel": np.ones((40, 30), np.float32)}
        store.save(1, state)
        store.save(2, state)
        arrays = newest(store) / "arrays"
        shutil.rmtree(arrays)
        ocp.save(str(arrays), {"leaf_00000": np.zeros((4000, 3000), np.float32)})
        names = {p.relative_to(newest(store)).as_posix(): p for p in files_of(arrays)}
        edit_record(newest(store), files={name: files.sha256(p.read_bytes()) for name, p in names.items()})
        load, loaded = ocp.load, []
        monkeypatch.setattr(ocp, "load", lambda path, *args: loaded.append(path) or load(path, *args))
        with pytest.warns(
            UserWarning, match=r"stored as float32\[4000, 3000\] .*, but should be float32\[40, 30\]"
        ):
            assert store.restore(state).step == 1
        assert len(loaded) == 1 and "step_00000001" in loaded[0]

    @pytest.mark.parametrize(
        "changes", [{"leaves": 3}, {"leaves": {"['bias']": {}}}, {"files": None}, {"step": "2"}]
    )
    def test_record_of_other_types(self, store: CheckpointStore, changes: dict) -> None:
        edit_record(newest(store), **changes)
        assert_falls_back(store, "step_00000002")
